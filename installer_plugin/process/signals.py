"""Signals that ask us to stop, as an exception in the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from installer_plugin.errors import InterruptedBySignal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class _Waiting:
    """Whether the main thread wants no signal now, and the one that has come meanwhile."""

    wanted: bool = False
    came: str = ""


_waiting = _Waiting()


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have *handler* called for signals that ask us to stop, unless we were started to ignore them."""
    before = {number: signal.signal(number, handler) for number in _heeded()}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _heeded() -> Sequence[signal.Signals]:
    """The signals that we handle: not those that nohup(1), say, has us ignore."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def interruptible() -> Iterator[None]:
    """Signals raise InterruptedBySignal in the main thread, once; later ones cannot disturb the
    cleaning up.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        for each in _heeded():
            signal.signal(each, _nothing)
        name = signal.Signals(number).name
        if _waiting.wanted:
            _waiting.came = name
        else:
            raise InterruptedBySignal(name)

    with handled_by(handle):
        yield


def _nothing(number: int, frame: FrameType | None) -> None:
    """Ignore a signal, and let programs that we start not ignore it: they inherit SIG_IGN."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have InterruptedBySignal wait until the context is left: what was begun is in our hands then.

    Within another such context, it waits for the end of that one.
    """
    if threading.current_thread() is not threading.main_thread() or _waiting.wanted:
        yield  # signals come to the main thread only
        return
    _waiting.wanted = True
    try:
        yield
    finally:
        _waiting.wanted = False
        came, _waiting.came = _waiting.came, ""
        if came:
            raise InterruptedBySignal(came)
