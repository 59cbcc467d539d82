"""Who owns what is left on the machine: names that tell the owner's process, and locks that end with it."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.errors import HostError
from installer_plugin.process.procfs import lives

PATIENCE_SECONDS = 5.0
"""How long a dead owner's lock may last: a child that was becoming another program has it still."""
PAUSE_SECONDS = 0.05
OPENING = "opening"
"""Name of the lock file that lets one run at a time look at and open targets."""


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


@contextmanager
def opening(state: Path) -> Iterator[None]:
    """One run at a time: what is free when it is looked at is still free when it is opened.

    Raises HostError when *state* cannot be made or belongs to somebody else.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = state.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
            raise HostError.of(
                str(state),
                "is not a directory that only we can write, expected one",
                hint=f"remove {state}",
            )
        fd = os.open(state / OPENING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot be made: {error.strerror}"
        hint = "run as root, with a writable /run"
        raise HostError.of(str(state), message, hint=hint) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
