"""Numbers that are handed out to several processes, each to one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NUMBER = 8
"""Bytes of a number in the pipe."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Numbers from 0 on, in a pipe that holds the next one: who reads it writes the one after it.

    Good while the process that made them keeps them open. Whoever dies in between keeps the others
    waiting, so they are for processes that end together.
    """

    pipe: Path
    """Where other processes find it."""

    @contextmanager
    def taken(self) -> Iterator[Callable[[], int]]:
        """What gives the next number, until the context is left; raises OSError."""
        fd = os.open(self.pipe, os.O_RDWR | os.O_CLOEXEC)

        def take() -> int:
            number = int.from_bytes(os.read(fd, NUMBER), "big")
            os.write(fd, (number + 1).to_bytes(NUMBER, "big"))
            return number

        try:
            yield take
        finally:
            os.close(fd)


@contextmanager
def turns() -> Iterator[Turns]:
    """Numbers for other processes of ours, kept until the context is left."""
    ends = os.pipe()
    try:
        os.write(ends[1], bytes(NUMBER))
        yield Turns(Path(f"/proc/{os.getpid()}/fd/{ends[0]}"))
    finally:
        for fd in ends:
            os.close(fd)
