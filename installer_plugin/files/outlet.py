"""Writes text whole to whoever reads it, however slowly; keeps none that would have to be written later."""

from __future__ import annotations

import errno
import os
import select
import sys
import time
from contextlib import suppress
from typing import TextIO

PIECE = select.PIPE_BUF
"""Bytes that a pipe takes at once when it is said to have room."""
PAUSE_SECONDS = 0.01


class Outlet:
    """A descriptor that text goes to, in either blocking mode.

    A stream of Python's would keep what it cannot write, and fail with it again when the process ends.
    """

    def __init__(self, fd: int, *, encoding: str = "utf-8", patience: float | None = None) -> None:
        """*patience*: seconds that a reader may take to make room, None for as long as it wants."""
        self._fd = fd
        self._encoding = encoding
        self._patience = patience

    @classmethod
    def of(cls, stream: TextIO) -> Outlet | TextIO:
        """An outlet to where *stream* goes; *stream* itself when that is not a descriptor."""
        try:
            fd = stream.fileno()
        except (OSError, ValueError):
            return stream
        return cls(fd, encoding=stream.encoding)

    def write(self, text: str) -> None:
        """Write all of *text*; raises OSError (ETIMEDOUT for a reader that makes no room).

        Characters that the encoding does not have are escaped.
        """
        left = memoryview(text.encode(self._encoding, "backslashreplace"))
        until = None if self._patience is None else time.monotonic() + self._patience
        while left:
            self._wait(until)
            try:
                left = left[os.write(self._fd, left[:PIECE]) :]
            except BlockingIOError:  # it has some room, but not enough
                time.sleep(PAUSE_SECONDS)

    def flush(self) -> None:
        """Nothing is kept."""

    def has_room(self) -> bool:
        """Whether a line can be written without waiting for the reader."""
        return bool(self._poll(0))

    def _wait(self, until: float | None) -> None:
        left = None if until is None else max(until - time.monotonic(), 0)
        if not self._poll(left):
            raise OSError(errno.ETIMEDOUT, "nobody reads it")

    def _poll(self, seconds: float | None) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return poll.poll(None if seconds is None else seconds * 1000)


def say(line: str) -> None:
    """Show *line* to people on stderr, if there are any: it may be closed, or have lost its reader."""
    if sys.stderr is not None:
        with suppress(OSError):  # there is nobody left who could be told
            Outlet.of(sys.stderr).write(line + "\n")
