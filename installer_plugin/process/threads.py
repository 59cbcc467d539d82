"""Threads that no interruption leaves waiting for us, or us for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from installer_plugin.process.signals import uninterrupted


class Thread(threading.Thread):
    """A thread that keeps its error for who waits for it.

    Python does not wait for it at its own end: whatever interrupts us, we end.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Start, as a whole: Python knows of every thread that runs, whenever we are interrupted."""
        with uninterrupted():
            self.start()

    def run(self) -> None:
        """Do the work."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by check
            self._error = error

    def wait(self) -> None:
        """Return when it has ended, also when it was never started."""
        if self.ident is not None:
            self.join()

    def check(self) -> None:
        """Raise what the work has raised."""
        if self._error:
            raise self._error


@contextmanager
def alongside(work: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Do *work* in a thread while the body runs; it is given the event that tells it to end.

    Raises what the work has raised, unless the body has failed.
    """
    ended = threading.Event()
    thread = Thread(partial(work, ended), name)
    try:
        thread.begin()
        yield
    finally:
        with uninterrupted():
            ended.set()
            thread.wait()
    thread.check()
