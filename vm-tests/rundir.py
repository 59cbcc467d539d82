"""A directory for the time of one run, which the next run removes if this one is killed."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.leftovers import clear_away

_KEPT = ".kept"


def keep(directory: Path) -> None:
    """Leave a run's directory where it is, for people; they remove it."""
    (directory / _KEPT).touch()


@contextmanager
def run_directory(parent: Path, prefix: str, session: str) -> Iterator[Path]:
    """Make `PREFIX-SESSION` in `parent`, and remove it at the end.

    It is locked as long as the process lives: what has no lock was left by a run that was killed, and
    is removed before, with all that still runs, is mounted or attached there.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _locked(parent):  # nobody may take one for dead that is not locked yet
            _remove_dead(parent, prefix)
            directory = parent / f"{prefix}-{session}"
            directory.mkdir(mode=0o700)
            stack.enter_context(_locked(directory))
        try:
            yield directory
        finally:
            if not (directory / _KEPT).exists():
                shutil.rmtree(directory)


@contextmanager
def _locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a directory's lock, which ends with the process; raises BlockingIOError."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(lock)


def _remove_dead(parent: Path, prefix: str) -> None:
    for directory in parent.glob(f"{prefix}-*"):
        if (directory / _KEPT).exists():
            continue
        try:
            with _locked(directory, wait=False):
                clear_away(directory, directory.name.removeprefix(f"{prefix}-"))
                shutil.rmtree(directory)
        except BlockingIOError:
            continue  # somebody works in it
