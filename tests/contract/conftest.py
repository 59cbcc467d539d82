"""Leaves out, and says so, what only a machine with bootc itself can show."""

import shutil

import pytest

MARKER = "bootc"
LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without bootc there is nothing to compare with; `--require=bootc` wants it to be there."""
    if shutil.which("bootc") or MARKER in config.getoption("--require").split(","):
        return
    out = [item for item in items if item.get_closest_marker(MARKER)]
    if out:
        config.stash[LEFT_OUT] = len(out)
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if LEFT_OUT in config.stash:
        count = config.stash[LEFT_OUT]
        terminalreporter.write_line(
            f"{count} comparisons with bootc itself left out: not in PATH; the stand-in was used"
        )
