"""Large files in large pieces: the next one is read while the last one is being worked on.

Both reading and writing go past the page cache on demand. To read back what was just written through
new pages, or to have gigabytes of them written by somebody later, costs more than the work itself.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Generator

from installer_plugin.files.rootfs import Closing

LARGE = 4 << 20
"""Bytes from which on a file is worth it."""
PIECE = 4 << 20
"""Bytes of a buffer."""
BLOCK = 4096
"""Bytes of which O_DIRECT wants multiples; no disk in use has larger blocks."""


class PieceReader(Closing):
    """Two buffers and a thread that fills one of them. Use as a context manager."""

    def __init__(self) -> None:
        # Slow to load, and most processes of ours meet no large file.
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        # Mapped, because O_DIRECT wants buffers that begin with a page.
        self._buffers = tuple(memoryview(mmap.mmap(-1, PIECE)) for _ in range(2))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read")

    def close(self) -> None:
        """End the thread, when it has read what it is at."""
        self._thread.shutdown()

    def pieces(self, fd: int) -> Generator[memoryview]:
        """The content of the file *fd* from its start, each piece good until the next is asked for.

        Raises OSError.
        """
        offset, turn = 0, 0
        coming = self._thread.submit(_read, fd, self._buffers[turn], offset)
        try:
            while got := coming.result():
                piece = self._buffers[turn][:got]
                offset, turn = offset + got, 1 - turn
                coming = self._thread.submit(_read, fd, self._buffers[turn], offset)
                yield piece
        finally:
            coming.exception()  # the buffer and the descriptor are free again


def bypass_cache(fd: int, *, on: bool) -> None:
    """Have *fd* go past the page cache, or not; where its file system cannot, nothing changes."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def write_all(fd: int, data: memoryview) -> None:
    """Write all of *data*, through the page cache what cannot go past it; raises OSError."""
    while data:
        whole = len(data) - len(data) % BLOCK
        try:
            written = os.write(fd, data[: whole or None])
        except OSError as error:
            if error.errno != errno.EINVAL or not _is_direct(fd):
                raise
            bypass_cache(fd, on=False)
            continue
        data = data[written:]


def _read(fd: int, buffer: memoryview, offset: int) -> int:
    try:
        return os.preadv(fd, [buffer], offset)
    except OSError as error:
        if error.errno != errno.EINVAL or not _is_direct(fd):
            raise
    bypass_cache(fd, on=False)
    return os.preadv(fd, [buffer], offset)


def _is_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)
