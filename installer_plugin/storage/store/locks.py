"""Locks of containers-storage: record locks on whole files, never ``flock(2)``.

containers/storage ``pkg/lockfile`` uses ``fcntl(F_SETLKW)``; a ``flock`` lock would keep nobody out.
Ours are open file description locks (``fcntl(2)``, F_OFD_SETLKW), which conflict with those. A POSIX
lock belongs to the process and is dropped when *any* descriptor of the file is closed, which is what
reading the records of a store once more would do to a lock that is held meanwhile.

Two of our own conflict too: who holds a store exclusively does not ask for it again.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.files.rootfs import READ_FLAGS

LAYERS_LOCK = "overlay-layers/layers.lock"
IMAGES_LOCK = "overlay-images/images.lock"
LOCK_FILES = (LAYERS_LOCK, IMAGES_LOCK)
"""Relative to the graph root, in the order in which the store's own code takes them (store.go)."""
_WHOLE_FILE = struct.Struct("@hhqqi4x")
"""``struct flock``: type, whence, start, length (0 for all) and process ID (0 for these locks)."""
LAST_WRITE_SIZE = 64
"""Bytes of the token that tells other processes to read the records again (lastwrite.go)."""


class HeldLock:
    """A lock file that we hold exclusively."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._counter = 0

    def announce_write(self) -> None:
        """Write a fresh last-write token; to be done before the records are replaced.

        64 bytes: time in ns, a counter (both little-endian u64), our process ID (u32), random bytes.
        """
        self._counter += 1
        head = struct.pack("<QQI", time.time_ns(), self._counter, os.getpid())
        os.pwrite(self._fd, head + os.urandom(LAST_WRITE_SIZE - len(head)), 0)

    def restore(self, token: bytes) -> None:
        """Write an earlier *token*; to be done when the records are again what they were then."""
        os.pwrite(self._fd, token, 0)
        os.ftruncate(self._fd, len(token))


@contextmanager
def shared(graph_root: Path) -> Iterator[None]:
    """Hold both locks of the store shared, for a consistent read of its records.

    A lock file that is missing is ignored: on a read-only store there is nobody to keep out.
    Raises OSError.
    """
    fds: list[int] = []
    try:
        for name in LOCK_FILES:
            try:
                fd = os.open(graph_root / name, READ_FLAGS)
            except FileNotFoundError:
                continue
            fds.append(fd)
            _lock(fd, fcntl.F_RDLCK)
        yield
    finally:
        for fd in reversed(fds):
            os.close(fd)


@contextmanager
def exclusive(graph_root: Path, name: str) -> Iterator[HeldLock]:
    """Hold the lock file *name* of the store exclusively; it is made when it does not exist.

    Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(graph_root / name, flags, 0o644)
    try:
        _lock(fd, fcntl.F_WRLCK)
        yield HeldLock(fd)
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> None:
    """Wait for the lock on the file of *fd*; it goes with the last copy of the descriptor."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _WHOLE_FILE.pack(kind, os.SEEK_SET, 0, 0, 0))
