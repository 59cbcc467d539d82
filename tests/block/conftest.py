"""Fixtures of the tests with disks, and the check of what this kernel can do."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.block.kernel import MISSING, NO_VFAT, device_mapper, vfat
from tests.block.scene import Opener

NEEDS: Mapping[str, tuple[Callable[[], bool], str]] = {
    "device_mapper": (device_mapper, f"tests of LUKS and LVM left out: {MISSING}"),
    "vfat": (vfat, f"tests of EFI system partitions left out: {NO_VFAT}"),
}
"""What this kernel may not be able to do at all, by marker."""
deselected: Counter[str] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this kernel cannot do at all; the summary says so, `--require` or not."""
    for marker, (is_possible, _) in NEEDS.items():
        out = [item for item in items if item.get_closest_marker(marker)]
        if out and not is_possible():
            deselected[marker] += len(out)
            config.hook.pytest_deselected(items=out)
            items[:] = [item for item in items if item not in out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for marker, count in deselected.items():
        terminalreporter.write_line(f"{count} {NEEDS[marker][1]}")


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Opens targets; nothing may be left of them."""
    opener = Opener(tmp_path / "state")
    yield opener
    assert opener.left() == []
