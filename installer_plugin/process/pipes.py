"""Talking to a running program: input goes in and lines come out at once, until it has ended."""

from __future__ import annotations

import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

CHUNK = 1 << 16
PATIENCE_SECONDS = 3600
"""For which a selector is asked to wait at once: it takes no endless time."""
LINE_LIMIT = 8192
"""Bytes after which a line that does not end is passed on as it is."""
OUTPUT_LIMIT = 64 << 20
"""Bytes of an output that is kept whole: far more than any program says that we ask something."""
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


class FloodError(Exception):
    """A program has said more than we keep."""


@dataclass(slots=True)
class _Heard:
    """What has come out of one pipe."""

    strict: bool
    """Whether all of it is wanted; else the end is."""
    pieces: deque[bytes]
    length: int = 0

    def add(self, data: bytes) -> None:
        self.pieces.append(data)
        self.length += len(data)
        if self.strict and self.length > OUTPUT_LIMIT:
            raise FloodError
        while self.length - len(self.pieces[0]) >= OUTPUT_LIMIT:
            self.length -= len(self.pieces.popleft())


def collect(
    talk: Conversation, complaints: IO[bytes], until: float = float("inf")
) -> tuple[bytes, bytes]:
    """Feed the program and read all that it says on stdout, and the end of what it says on stderr.

    Raises FloodError for more than :data:`OUTPUT_LIMIT` bytes on stdout, and TimeoutError when the
    monotonic clock has reached *until*.
    """
    heard = {
        talk.mouth: _Heard(strict=True, pieces=deque()),
        complaints: _Heard(strict=False, pieces=deque()),
    }
    with selectors.DefaultSelector() as selector:
        os.set_blocking(talk.ear.fileno(), False)
        selector.register(talk.ear, selectors.EVENT_WRITE)
        for pipe in heard:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in selector.select(min(left, PATIENCE_SECONDS)):
                if not _collected(key.fileobj, talk, heard):
                    selector.unregister(key.fileobj)
    return b"".join(heard[talk.mouth].pieces), b"".join(heard[complaints].pieces)


def _collected(pipe: object, talk: Conversation, heard: Mapping[IO[bytes], _Heard]) -> bool:
    """Do what can be done with *pipe* now; False when that was the last of it."""
    for each, ear in heard.items():
        if pipe is each:
            data = os.read(each.fileno(), CHUNK)
            if data:
                ear.add(data)
            return bool(data)
    if talk.feed():
        return True
    talk.ear.close()
    return False
