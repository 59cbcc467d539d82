"""Has files read from the disk instead of the page cache, where a broken write would not show, has
the disk read ahead, and leaves no trace of the reading.

The kernel keeps pages that are not written yet: ``syncfs(2)`` comes first.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import READ_FLAGS, Rootfs
from installer_plugin.process.runner import Command, Runner

READ_AHEAD = 1 << 20
"""Bytes of a file that are asked for at once; the kernel's own reading ahead does the rest."""


def sync_file_system(path: Path, runner: Runner) -> None:
    """``syncfs(2)`` the file system that holds *path*; raises CommandError (EIO among others)."""
    argv = ("sync", "--file-system", str(path))
    runner.run(Command(argv=argv, purpose=f"flush the file system of {path}"))


def open_untouched(name: str | bytes, folder: int) -> int:
    """Open *name* in the directory *folder* for reading; raises OSError.

    The file keeps its time of access where we may see to that: to note it for thousands of small files
    takes a tenth of what reading them does, and a proof should write nothing.
    """
    try:
        return os.open(name, READ_FLAGS | os.O_NOATIME, dir_fd=folder)
    except PermissionError:  # somebody else's file, and we are not root
        return os.open(name, READ_FLAGS, dir_fd=folder)


def forget(fd: int) -> None:
    """Ask the kernel to drop the cached pages of an open file."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def expect(fd: int, size: int) -> None:
    """Have the kernel begin to read an open file of *size* bytes that is to be read from its start."""
    if size > READ_AHEAD:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        size = READ_AHEAD
    os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)


def forget_files(root: Rootfs, *folders: str) -> None:
    """The same for all regular files in *folders*; what cannot be opened is left to its reader."""
    for folder in folders:
        with suppress(OSError):
            for name in root.list(folder):
                with suppress(OSError, DataError):
                    fd = root.open_file(f"{folder}/{name}")
                    try:
                        forget(fd)
                    finally:
                        os.close(fd)
