"""Scratch directories: made on a roomy file system, removed on every path, also after a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from installer_plugin.errors import InterruptedBySignal

PREFIX = "bound-images-scratch-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def usual_place() -> Path:
    """Where programs make temporary files: ``$TMPDIR``, or else ``/tmp``."""
    import tempfile  # noqa: PLC0415 - slow to load, and not every command makes files

    return Path(tempfile.gettempdir())


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new directory below *parent*, removed at the end; raises OSError.

    Its owner holds a ``flock`` on it, so that what a killed run left behind is told apart from what
    another run is using, and is removed first. When the body has failed and the directory cannot be
    removed, the error of the body goes on: a later run removes what is left.
    """
    remove_stale(parent)
    path, fd = _claimed(parent)
    try:
        yield path
    except BaseException as failure:
        try:
            _remove(path)
        except OSError as error:
            failure.add_note(f"{path} cannot be removed: {error.strerror}")
        raise
    else:
        _remove(path)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    """Remove a directory; a signal that comes meanwhile is raised when it has gone."""
    from shutil import rmtree  # noqa: PLC0415 - as above

    try:
        rmtree(path)
    except InterruptedBySignal:
        rmtree(path)
        raise


def _claimed(parent: Path) -> tuple[Path, int]:
    """A fresh directory and a descriptor that holds its lock.

    Another run may take it for a stale one before we have the lock; then we make another.
    """
    import tempfile  # noqa: PLC0415 - as above

    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            fd = os.open(path, _DIRECTORY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if path.exists():
                return path, fd
            os.close(fd)


def remove_stale(parent: Path) -> None:
    """Remove scratch directories below *parent* whose owner is gone, as far as that is ours to do.

    What cannot be opened or removed belongs to another user, or to whoever protects it: it takes
    nothing from this run, which has a directory of its own.
    """
    for path in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            _remove_stale(path)


def _remove_stale(path: Path) -> None:
    """Remove *path* if it is a directory that nobody is using; raises OSError."""
    from shutil import rmtree  # noqa: PLC0415 - as above

    fd = os.open(path, _DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        rmtree(path)
    finally:
        os.close(fd)
