"""Fixtures of the tests with disks, and the check of what this kernel can do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.block.kernel import MISSING, device_mapper
from tests.block.scene import Opener

deselected: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this kernel cannot do at all; the summary says so, `--require` or not."""
    if device_mapper():
        return
    out = [item for item in items if item.get_closest_marker("device_mapper")]
    if out:
        deselected.extend(item.nodeid for item in out)
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if deselected:
        terminalreporter.write_line(f"{len(deselected)} tests of LUKS and LVM left out: {MISSING}")


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Opens targets; nothing may be left of them."""
    opener = Opener(tmp_path / "state")
    yield opener
    assert opener.left() == []
