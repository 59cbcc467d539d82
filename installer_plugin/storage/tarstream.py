"""A layer's tar stream while it is rebuilt: collected in a buffer, hashed in large pieces."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from installer_plugin.errors import DataError
from installer_plugin.model import DiffId

BUFFER = 1 << 20
"""Bytes hashed at once: hashlib lets other threads run meanwhile, and calls cost more than copies."""

Progress = Callable[[int], None]
"""Told how many bytes more were hashed; may raise to stop the work."""


class TarStream:
    """Bytes in, diff ID out; the one buffer is reused, whatever the layer's size."""

    def __init__(self, limit: int, progress: Progress) -> None:
        self.size = 0
        self.broken = False
        """Content is missing: the hash means nothing."""
        self._limit = limit
        self._progress = progress
        self._hash = hashlib.sha256()
        self._buffer = memoryview(bytearray(BUFFER))
        self._used = 0

    def write(self, payload: bytes) -> None:
        """Append bytes."""
        self._grow(len(payload))
        if len(payload) > BUFFER - self._used:
            self.flush()
        if len(payload) > BUFFER:
            self._hash.update(payload)
            self._progress(len(payload))
            return
        self._buffer[self._used : self._used + len(payload)] = payload
        self._used += len(payload)

    def copy(self, fd: int, size: int) -> bool:
        """Append *size* bytes from the file; False when it ends before."""
        self._grow(size)
        while size:
            if self._used == BUFFER:
                self.flush()
            end = min(self._used + size, BUFFER)
            got = os.readv(fd, [self._buffer[self._used : end]])
            if not got:
                return False
            self._used += got
            size -= got
        return True

    def flush(self) -> None:
        """Hash what is in the buffer."""
        self._hash.update(self._buffer[: self._used])
        self._progress(self._used)
        self._used = 0

    def tick(self) -> None:
        """Let the work be stopped although no bytes were read."""
        self._progress(0)

    def diff_id(self) -> DiffId:
        """The digest of everything so far."""
        self.flush()
        return DiffId("sha256:" + self._hash.hexdigest())

    def _grow(self, size: int) -> None:
        self.size += size
        if self.size > self._limit:
            raise DataError(
                "tar stream",
                f"is longer than {self._limit} bytes, expected what the store recorded",
            )
