"""Does jobs one after the other and reports how it goes; a program of its own sends pickled messages.

The program takes its jobs from a pipe, as they come, and reports in lines of base64: both ends are ours.
"""

from __future__ import annotations

import pickle
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from installer_plugin.errors import DataError
from installer_plugin.process.runner import CommandError

REPORT_SECONDS = 0.2
"""Shortest time between two reports of progress."""
LINE = 4096
"""Characters of a line; a longer message takes several."""
_MORE, _LAST = "more:", "last:"


Progress = Callable[[int], None]
"""Told how many bytes more were worked on; may raise to stop the work."""


class Job(Protocol):
    """Some work, wherever it is done. Can be pickled, and so can its result."""

    @property
    def weight(self) -> int:
        """How much it is, in bytes; what takes time for other reasons counts as so many bytes."""

    def run(self, progress: Progress) -> object:
        """Do it; raises OSError, DataError and CommandError."""


@runtime_checkable
class SharedJob(Job, Protocol):
    """A job that several workers can do together."""

    @property
    def shareable(self) -> int:
        """Bytes of :attr:`weight` that several workers do sooner than one."""

    def parts(self, count: int) -> AbstractContextManager[Sequence[Job]]:
        """A job for each of *count* workers who begin at about the same time.

        What they have in common is kept until the context is left.
        """

    def joined(self, results: Sequence[object]) -> object:
        """The result of the whole, of those that the parts have given; raises OSError and DataError."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A job has worked on so many bytes more."""

    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A job has been done."""

    index: int
    result: object


@dataclass(frozen=True, slots=True)
class Failed:
    """A job could not be done; nobody needs the others."""

    error: Exception


Message = Moved | Ended | Failed
Tell = Callable[[Message], None]


def work_off(index: int, job: Job, tell: Tell) -> None:
    """Do *job*, which messages call *index*; *tell* may raise to stop the work."""
    try:
        result = job.run(_Meter(index, tell))
    except (OSError, DataError, CommandError) as error:
        tell(Failed(error))
    else:
        tell(Ended(index, result))


class _Meter:
    """Tells of a job's progress now and then."""

    def __init__(self, index: int, tell: Tell) -> None:
        self._index = index
        self._tell = tell
        self._count = 0
        self._next = 0.0

    def __call__(self, count: int) -> None:
        self._count += count
        now = time.monotonic()
        if now >= self._next:
            self._tell(Moved(self._index, self._count))
            self._count, self._next = 0, now + REPORT_SECONDS


def lines_of(message: Message) -> Iterator[str]:
    """The lines that make *message* for an :class:`Inbox`."""
    text = b64encode(pickle.dumps(message)).decode()
    for start in range(0, len(text), LINE):
        mark = _LAST if start + LINE >= len(text) else _MORE
        yield f"{mark}{text[start : start + LINE]}\n"


def is_message(line: str) -> bool:
    """Whether *line* is one of those that make messages."""
    return line.startswith((_MORE, _LAST))


class Inbox:
    """Puts lines together to messages; what else a program says is ignored."""

    def __init__(self, take: Tell) -> None:
        self._take = take
        self._text = ""

    def add(self, line: str) -> None:
        """Pass on the message that *line* completes."""
        mark, text = line[: len(_LAST)], line[len(_LAST) :]
        if mark in {_MORE, _LAST}:
            self._text += text
        if mark == _LAST:
            whole, self._text = self._text, ""
            self._take(pickle.loads(b64decode(whole)))  # noqa: S301 - from a program of ours


def main(words: Sequence[str]) -> None:
    """Do the jobs that come through the pipe of that name, with their numbers, until None comes."""

    def tell(message: Message) -> None:
        sys.stdout.writelines(lines_of(message))
        sys.stdout.flush()

    (pipe,) = words
    with Path(pipe).open("rb") as jobs:
        while task := pickle.load(jobs):  # noqa: S301 - from a program of ours
            index, job = task
            work_off(index, job, tell)
