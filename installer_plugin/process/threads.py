"""Threads that no interruption leaves waiting for us, or us for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from installer_plugin.process.signals import uninterrupted


class Thread(threading.Thread):
    """A thread whose error is raised where it is waited for.

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
        except BaseException as error:  # noqa: BLE001 - raised again, for who waits
            self._error = error

    def end(self) -> None:
        """Wait for the end, if it was started; raises what the work has raised."""
        if self.ident is not None:
            self.join()
        if self._error:
            raise self._error


@contextmanager
def alongside(work: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Do *work* in a thread while the body runs; it is given the event that tells it to end.

    Raises what the work has raised.
    """
    ended = threading.Event()
    thread = Thread(partial(work, ended), name)
    try:
        thread.begin()
        yield
    finally:
        with uninterrupted():
            ended.set()
            thread.end()
