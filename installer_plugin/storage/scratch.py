"""Scratch directories: made on a roomy file system, removed on every path, also after a crash."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "bound-images-scratch-"


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A fresh directory below *parent*, removed at the end; raises OSError.

    Its owner holds a ``flock`` on it, so that what a killed run left behind is told apart from what
    another run is using, and is removed first.
    """
    remove_stale(parent)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path)
        os.close(fd)


def remove_stale(parent: Path) -> None:
    """Remove scratch directories below *parent* whose owner is gone."""
    for path in parent.glob(f"{PREFIX}*"):
        if not path.is_dir() or path.is_symlink():
            continue
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except BlockingIOError:
            continue  # another run is using it
        finally:
            os.close(fd)
