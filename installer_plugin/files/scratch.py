"""Scratch directories: made on a roomy file system, removed on every path, also after a crash."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from installer_plugin.errors import InterruptedBySignal

PREFIX = "bound-images-scratch-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A fresh directory below *parent*, removed at the end; raises OSError.

    Its owner holds a ``flock`` on it, so that what a killed run left behind is told apart from what
    another run is using, and is removed first.
    """
    remove_stale(parent)
    path, fd = _claimed(parent)
    try:
        yield path
    finally:
        _remove(path)
        os.close(fd)


def _remove(path: Path) -> None:
    """Remove a directory; a signal that comes meanwhile is raised when it has gone."""
    try:
        shutil.rmtree(path)
    except InterruptedBySignal:
        shutil.rmtree(path)
        raise


def _claimed(parent: Path) -> tuple[Path, int]:
    """A fresh directory and a descriptor that holds its lock.

    Another run may take it for a stale one before we have the lock; then we make another.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            fd = os.open(path, _DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if path.exists():
                return path, fd
            os.close(fd)


def remove_stale(parent: Path) -> None:
    """Remove scratch directories below *parent* whose owner is gone."""
    for path in parent.glob(f"{PREFIX}*"):
        if not path.is_dir() or path.is_symlink():
            continue
        with suppress(FileNotFoundError):  # another run removes it as well
            fd = os.open(path, _DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            except BlockingIOError:
                continue  # another run is using it
            finally:
                os.close(fd)
