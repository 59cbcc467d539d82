"""A mount namespace of our own while a target is open: nobody else sees or holds its mounts.

A program that makes itself a namespace copies every mount it sees, and keeps a file system alive that
we have unmounted; and the kernel unmounts what is in ours when we are killed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
MS_REC = 0x4000
MS_SLAVE = 0x80000
CURRENT = Path("/proc/thread-self/ns/mnt")


@contextmanager
def own_mounts() -> Iterator[None]:
    """Run the calling thread, and what it starts, in a mount namespace of its own; raises OSError.

    What others unmount disappears here too, what is mounted here appears nowhere else.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with ExitStack() as stack:
        before, root, here = (
            stack.enter_context(_opened(path)) for path in (CURRENT, Path("/"), Path())
        )
        if libc.unshare(CLONE_NEWNS) != 0:
            raise _error("unshare")
        try:
            _receive_only(libc)
            yield
        finally:
            _return_to(libc, before)
            # setns(2) has taken us to the top of everything, out of a chroot too.
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(here)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _receive_only(libc: ctypes.CDLL) -> None:
    """Have mounts come in from outside, not go out; raises OSError."""
    # EINVAL: we are in a chroot that is not a mount point. Its mounts go on as they were.
    if (
        libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None) != 0
        and ctypes.get_errno() != errno.EINVAL
    ):
        raise _error("mount")


def _return_to(libc: ctypes.CDLL, namespace: int) -> None:
    """Go back; raises OSError.

    Threads that were started meanwhile (GLib's, by libblockdev) share our working directory, with
    which there is no way back (setns(2), EINVAL), and live on: it is made our own first.
    """
    if libc.unshare(CLONE_FS) != 0:
        raise _error("unshare")
    if libc.setns(namespace, CLONE_NEWNS) != 0:
        raise _error("setns")


def _error(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)
