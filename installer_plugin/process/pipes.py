"""Talking to a running program: input goes in and lines come out at once, until it has ended."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

CHUNK = 1 << 16
LINE_LIMIT = 8192
"""Bytes after which a line that does not end is passed on as it is."""
TICK_SECONDS = 0.05
"""How often a silent program is looked at: its pipes may be held open by others after its end."""


@dataclass(slots=True)
class Conversation:
    """The pipes to a program, and what is still to be said to it."""

    ear: IO[bytes]
    """Its stdin."""
    mouth: IO[bytes]
    """Its stdout."""
    unsaid: bytes

    def feed(self) -> bool:
        """Write what the pipe takes; False when there is no more to write or nobody to read it."""
        try:
            self.unsaid = self.unsaid[os.write(self.ear.fileno(), self.unsaid[:CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        return bool(self.unsaid)


class Lines:
    """Cuts bytes into lines of text."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = b""

    def add(self, data: bytes) -> None:
        """Pass on the lines that *data* completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._send(line)
        while len(self._rest) >= LINE_LIMIT:
            line, self._rest = self._rest[:LINE_LIMIT], self._rest[LINE_LIMIT:]
            self._send(line)

    def close(self) -> None:
        """Pass on what has no end of line."""
        if self._rest:
            self._send(self._rest)
            self._rest = b""

    def _send(self, line: bytes) -> None:
        self._take(line.decode(errors="replace").rstrip("\r"))


def converse(
    talk: Conversation, take: Callable[[str], None], ended: Callable[[], bool], until: float
) -> bool:
    """Feed the program and *take* its lines until it has *ended* and all is read; then True.

    False when the monotonic clock has reached *until* and the program still runs.
    """
    lines = Lines(take)
    with selectors.DefaultSelector() as selector:
        for pipe, event in (
            (talk.ear, selectors.EVENT_WRITE),
            (talk.mouth, selectors.EVENT_READ),
        ):
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, event)
        over = False
        while time.monotonic() < until:
            # Asked before reading: what is read after the end is the last of it.
            over = ended()
            heard = _turn(selector, talk, lines, 0 if over else TICK_SECONDS)
            if over and not heard:
                break
    lines.close()
    return over or ended()


def _turn(
    selector: selectors.BaseSelector, talk: Conversation, lines: Lines, patience: float
) -> bool:
    """Do what can be done now; whether anything was heard."""
    heard = False
    for key, _ in selector.select(patience):
        if key.fileobj is talk.ear:
            if not talk.feed():
                selector.unregister(talk.ear)
                talk.ear.close()
            continue
        data = os.read(talk.mouth.fileno(), CHUNK)
        lines.add(data)
        heard = bool(data)
        if not data:
            selector.unregister(talk.mouth)
    return heard
