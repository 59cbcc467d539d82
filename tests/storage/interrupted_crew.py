"""Interrupts a crew wherever its main thread can be, each time in a process of its own.

    python -m tests.storage.interrupted_crew WORKERS

Prints the places after which that process did not end, or something outlived it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import TYPE_CHECKING

from installer_plugin.errors import InterruptedBySignal
from installer_plugin.process import pool, signals, threads
from installer_plugin.process.pool import Crew
from installer_plugin.process.runner import Runner
from tests.storage.test_pool import Told
from tests.support.kernel import orphans_come_to_us

if TYPE_CHECKING:
    from _typeshed import TraceFunction

WATCHED = {str(module.__file__) for module in (pool, signals, threads)}
SECONDS = 20
UNDISTURBED, INTERRUPTED = 0, 130
PR_SET_PDEATHSIG = 1

Place = str
"""The lines that the watched modules are at, the innermost first."""


class _Tracer:
    """Sees which lines the main thread comes to; does something at each that it has not been at before."""

    def __init__(self, act: Callable[[Place], None]) -> None:
        self._act = act
        self._seen: set[Place] = set()

    def trace(self, frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if frame.f_code.co_filename == threading.__file__ and signals._waiting.wanted:
            return None  # nothing is raised there
        place = " < ".join(_lines(frame))
        if event == "line" and place not in self._seen:
            self._seen.add(place)
            self._act(place)
        return self.trace


def _lines(frame: FrameType | None) -> Iterator[str]:
    while frame:
        if frame.f_code.co_filename in WATCHED:
            yield f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back


def work(workers: int, act: Callable[[Place], None]) -> int:
    """Have some jobs done, as a program does that can be interrupted; an exit code."""
    try:
        with signals.interruptible():
            sys.settrace(_Tracer(act).trace)
            with Crew(Runner()) as crew:
                crew.expect(0)
                with closing(crew.do([Told("a"), Told("b")], workers=workers)) as said:
                    for _ in said:
                        pass
            sys.settrace(None)
    except InterruptedBySignal:
        return INTERRUPTED
    return UNDISTURBED


def _interrupt_at(wanted: Place) -> Callable[[Place], None]:
    return lambda place: os.kill(os.getpid(), signal.SIGTERM) if place == wanted else None


def main(workers: int) -> None:
    if workers == 1:
        WATCHED.add(threading.__file__)  # the same for processes, each of which takes its time
    wrong = []
    with orphans_come_to_us():
        places = _places(workers)
        for place in places:
            code = _forked(partial(work, workers, _interrupt_at(place)))
            if code not in {UNDISTURBED, INTERRUPTED}:
                wrong.append(f"{place}: {code}")
    sys.stdout.write("\n".join((*wrong, f"{len(places)} places were tried\n")))


def _places(workers: int) -> list[Place]:
    """Where the main thread is when nothing disturbs it."""
    with TemporaryFile("w+") as file:
        _forked(partial(work, workers, partial(print, file=file)))
        file.seek(0)
        return file.read().splitlines()


def _forked(act: Callable[[], int]) -> int | str:
    """Exit code of a process that does this, or what is wrong about it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        sys.exit(act())
    code: int | str = "nothing"
    deadline = time.monotonic() + SECONDS
    while _children():
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            code = f"{code}, then still there: {_children()}"
            for each in _children():
                os.kill(each, signal.SIGKILL)
                os.waitpid(each, 0)
        time.sleep(0.001)
    return code


def _children() -> list[int]:
    return [*map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())]


if __name__ == "__main__":
    main(int(sys.argv[1]))
