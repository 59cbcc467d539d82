"""Workers of pytest-xdist, if there are any: who is one, and how all of them end."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of several that run tests."""
    return hasattr(config, "workerinput")


def is_controller(config: pytest.Config) -> bool:
    """Whether this process hands tests to workers and runs none itself."""
    return not is_worker(config) and bool(config.getoption("numprocesses", None))


class Ending:
    """Makes the tests clean up as after Ctrl-C when they are told to end, in every worker."""

    def __init__(self, config: pytest.Config) -> None:
        self._is_controller = is_controller(config)
        self._has_begun = False
        signal.signal(signal.SIGTERM, self._end)
        if self._is_controller or is_worker(config):
            # Ctrl-C reaches every process of the terminal, and the controller interrupts it too.
            signal.signal(signal.SIGINT, self._end)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        if self._has_begun:
            return  # a second signal must not interrupt the cleaning up
        self._has_begun = True
        if self._is_controller:
            # xdist itself would let each finish its test, and kill it after ten seconds.
            for worker in _children():
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGINT)
        raise KeyboardInterrupt


def _children() -> Iterator[int]:
    """Processes that this one has started; a controller starts nothing but workers."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2]
        except OSError:
            continue  # it ended meanwhile
        if int(after_name.split()[1]) == os.getpid():
            yield int(stat.parent.name)
