"""Locks of containers-storage: POSIX record locks on whole files, never ``flock(2)``.

containers/storage ``pkg/lockfile`` uses ``fcntl(F_SETLKW)``; a ``flock`` lock would keep nobody out.
Such a lock belongs to the process and is dropped when *any* descriptor of the file is closed: a lock
file is therefore opened here and nowhere else, and once at a time: who wants to share a lock that
we share already gets the same descriptor.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.files.rootfs import READ_FLAGS

LAYERS_LOCK = "overlay-layers/layers.lock"
IMAGES_LOCK = "overlay-images/images.lock"
LOCK_FILES = (LAYERS_LOCK, IMAGES_LOCK)
"""Relative to the graph root, in the order in which the store's own code takes them (store.go)."""
LAST_WRITE_SIZE = 64
"""Bytes of the token that tells other processes to read the records again (lastwrite.go)."""


@dataclass(slots=True)
class _Share:
    """A lock file that we hold shared; without a descriptor where there is no such file."""

    fd: int | None
    holders: int = 0


_shares: dict[Path, _Share] = {}
_shares_lock = threading.Lock()


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


@contextmanager
def shared(graph_root: Path) -> Iterator[None]:
    """Hold both locks of the store shared, for a consistent read of its records.

    A lock file that is missing is passed over: on a read-only store there is nobody to keep out.
    Raises OSError.
    """
    with ExitStack() as stack:
        for name in LOCK_FILES:
            stack.enter_context(_shared(graph_root / name))
        yield


@contextmanager
def _shared(path: Path) -> Iterator[None]:
    """Hold a lock file shared, by the descriptor that we have of it already if there is one."""
    with _shares_lock:
        if path not in _shares:
            _shares[path] = _Share(_locked_shared(path))
        share = _shares[path]
        share.holders += 1
    try:
        yield
    finally:
        with _shares_lock:
            share.holders -= 1
            if not share.holders:
                del _shares[path]
                if share.fd is not None:
                    os.close(share.fd)


def _locked_shared(path: Path) -> int | None:
    """Descriptor of a lock file that is locked now; None where there is none."""
    try:
        fd = os.open(path, READ_FLAGS)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def exclusive(graph_root: Path, name: str) -> Iterator[HeldLock]:
    """Hold the lock file *name* of the store exclusively; it is made when it does not exist.

    Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(graph_root / name, flags, 0o644)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX)
        yield HeldLock(fd)
    finally:
        os.close(fd)
