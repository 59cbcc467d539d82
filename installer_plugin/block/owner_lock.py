"""Who owns what is left on the machine: names that tell the owner's process, and locks that end with it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.process.procfs import lives

PATIENCE_SECONDS = 5.0
"""How long a dead owner's lock may last: a child that was becoming another program has it still."""
PAUSE_SECONDS = 0.05


def owned_prefix(kind: str) -> str:
    """What names of a *kind* begin with when they are ours."""
    return f"{kind}{os.getpid()}-"


@contextmanager
def claimed(path: Path, kind: str, patience: float = PATIENCE_SECONDS) -> Iterator[bool]:
    """Whether nobody else holds the file or directory *path*; it is ours until the context is left.

    A living owner is not waited for, a dead one's lock is, up to *patience* seconds. Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield _locked(fd, _owner_of(path, kind), patience)
    finally:
        os.close(fd)


def _owner_of(path: Path, kind: str) -> int:
    """The process that made *path*; 0 for a name that does not tell."""
    number = path.name.removeprefix(kind).partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _locked(fd: int, owner: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        alive = lives(owner)  # asked first: it may end between the two
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if alive or time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_SECONDS)
        else:
            return True
