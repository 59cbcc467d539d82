"""Has files read from the disk instead of the page cache, where a broken write would not show.

The kernel keeps pages that are not written yet: ``syncfs(2)`` comes first.
"""

from __future__ import annotations

import os
from contextlib import suppress

from installer_plugin.errors import DataError
from installer_plugin.rootfs import Rootfs


def forget(fd: int) -> None:
    """Ask the kernel to drop the cached pages of an open file."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


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
