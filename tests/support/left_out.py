"""Leaves out what this machine cannot show at all, and says so in the last lines of a run."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from tests.support.kernel import MISSING, NO_NBD, NO_VFAT, device_mapper, nbd, vfat
from tests.support.workers import is_worker

_OUTPUT = "left-out"
OSBUILD_IMAGE = "OSBUILD_OS_IMAGE"
"""Variable with the name of a bootc OS image, for builds with image-builder and osbuild themselves."""


@dataclass(frozen=True, slots=True)
class Need:
    """What tests with a marker need of the machine."""

    is_there: Callable[[], bool]
    without: str
    """What is said when it is not there, after the number of tests."""


NEEDS: Mapping[str, Need] = {
    "device_mapper": Need(device_mapper, f"of LUKS and LVM: {MISSING}"),
    "vfat": Need(vfat, f"of EFI system partitions: {NO_VFAT}"),
    "nbd": Need(nbd, f"of disk images without FUSE: {NO_NBD}"),
    "bootc": Need(
        lambda: shutil.which("bootc") is not None,
        "that compare with bootc itself: it is not in PATH; the stand-in was used",
    ),
    "osbuild": Need(
        lambda: OSBUILD_IMAGE in os.environ,
        f"with image-builder and osbuild themselves: {OSBUILD_IMAGE} names no OS image to build "
        "from; stand-ins were used",
    ),
}
"""By marker."""


class LeftOut:
    """Deselects tests whose need is not met, unless `--require` names their marker itself."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.counts: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        wanted = str(self._config.getoption("--require")).split(",")
        for marker, need in NEEDS.items():
            out = [item for item in items if item.get_closest_marker(marker)]
            if out and marker not in wanted and not need.is_there():
                self.counts[marker] += len(out)
                self._config.hook.pytest_deselected(items=out)
                items[:] = [item for item in items if item not in out]

    def pytest_sessionfinish(self) -> None:
        if is_worker(self._config):
            self._config.workeroutput[_OUTPUT] = dict(self.counts)  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """Take the counts of a worker, which has collected what all of them have."""
        output: Mapping[str, Mapping[str, int]] = getattr(node, "workeroutput", {})
        self.counts = Counter(output.get(_OUTPUT, self.counts))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> object:
        """Speak after everything else has been said, the list of failures too."""
        result = yield
        if self.counts:
            terminalreporter.section("NOT TESTED on this machine", yellow=True)
        for marker, count in self.counts.items():
            tests = "test" if count == 1 else "tests"
            terminalreporter.write_line(f"{count} {tests} {NEEDS[marker].without}")
        return result
