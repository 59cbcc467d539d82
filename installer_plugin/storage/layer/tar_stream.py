"""A layer's tar stream while it is rebuilt: collected in a buffer, passed on in large pieces.

Contents of files are taken late: the disk is told of a file when it is added, and works on many of
them while the stream is still at an earlier one. Reading one small file after the other would wait
for the disk each time.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple, Protocol

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Closing
from installer_plugin.model import DiffId
from installer_plugin.storage.layer.direct_io import LARGE, PieceReader, bypass_cache
from installer_plugin.storage.layer.page_cache import expect
from installer_plugin.storage.layer.tree import Place

BUFFER = 1 << 20
"""Bytes hashed at once: hashlib lets other threads run meanwhile, and calls cost more than copies."""
TOLD_FILES = 32
"""Files that the disk is told of at once: waking a driver for each costs more than the reading."""
TOLD_PARTS = 8 * TOLD_FILES
"""What comes between files waits as well: so much of it that they are told of before they are as many.

Twice as many of both wait to be taken in; each file is an open descriptor."""

Progress = Callable[[int], None]
"""Told how many bytes more were hashed; may raise to stop the work."""
Complain = Callable[[bytes, str], None]
"""Told the path of a file and what is wrong with it."""


class _Content(NamedTuple):
    """Bytes of the stream that are a file's."""

    fd: int
    size: int
    place: Place


class Sink(Protocol):
    """Takes the stream's bytes in their order."""

    def room(self) -> memoryview:
        """Where the next :data:`BUFFER` bytes may be put."""

    def put(self, used: int) -> None:
        """The first *used* bytes of that are the next of the stream; may raise to stop the work."""

    def put_file(self, fd: int, size: int) -> bool:
        """Append the first *size* bytes of a large file, and report them; False when it has fewer.

        Raises OSError.
        """


class Hash(Closing):
    """Hashes a stream; the one buffer is reused, whatever the layer's size."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._hash = hashlib.sha256()
        self._buffer = memoryview(bytearray(BUFFER))
        self._reader: PieceReader | None = None

    def close(self) -> None:
        """Give back what large files have needed."""
        if self._reader:
            self._reader.close()

    def room(self) -> memoryview:
        """See :class:`Sink`."""
        return self._buffer

    def put(self, used: int) -> None:
        """See :class:`Sink`."""
        self.add(self._buffer[:used])
        self._progress(used)

    def put_file(self, fd: int, size: int) -> bool:
        """See :class:`Sink`; past the page cache, and without a copy."""
        self._reader = self._reader or PieceReader()
        bypass_cache(fd, on=True)
        left = size
        with closing(self._reader.pieces(fd)) as pieces:
            for piece in pieces:
                taken = piece[:left]
                self.add(taken)
                self._progress(len(taken))
                left -= len(taken)
                if not left:
                    return True
        return False

    def add(self, data: memoryview) -> None:
        """Hash *data* next."""
        self._hash.update(data)

    def diff_id(self) -> DiffId:
        """The digest of everything so far."""
        return DiffId("sha256:" + self._hash.hexdigest())


class TarStream(Closing):
    """Bytes and files in, pieces out. Without a *sink* it counts bytes only, and reads no file."""

    def __init__(
        self, limit: int, progress: Progress, complain: Complain, sink: Sink | None
    ) -> None:
        self.size = 0
        self.broken = False
        """Content is missing: the hash means nothing."""
        self._sink = sink
        self._limit = limit
        self._progress = progress
        self._complain = complain
        self._buffer = sink.room() if sink else memoryview(b"")
        self._used = 0
        self._told: deque[bytes | _Content] = deque()
        """What comes after the buffer's bytes; the disk has been told of its files."""
        self._untold: deque[bytes | _Content] = deque()
        """What comes after that."""
        self._files = 0
        """How many contents that has."""

    def close(self) -> None:
        """Close the files that were not read."""
        for part in (*self._told, *self._untold):
            if isinstance(part, _Content):
                os.close(part.fd)
        self._told.clear()
        self._untold.clear()

    def write(self, payload: bytes) -> None:
        """Append bytes."""
        self._grow(len(payload))
        if self._sink is None:
            return
        if self._untold or self._told:
            self._untold.append(payload)
            if len(self._untold) >= TOLD_PARTS:
                self._advance()
        else:
            self._add(payload)

    def add_file(self, fd: int, size: int, place: Place) -> None:
        """Append *size* bytes of the file *fd*, which is closed in time; *place* is for complaints."""
        if self._sink is None:
            os.close(fd)
            self._grow(size)
            return
        self._untold.append(_Content(fd, size, place))
        self._files += 1
        self._grow(size)
        if self._files >= TOLD_FILES:
            self._advance()

    def drain(self) -> None:
        """Take in and pass on all that was appended."""
        self._advance()
        self._advance()
        if self._used:
            self._flush()

    def tick(self) -> None:
        """Let the work be stopped although no bytes were read."""
        self._progress(0)

    def _advance(self) -> None:
        """Tell the disk of the last files, and take in what it was told of before."""
        for part in self._untold:
            if isinstance(part, _Content) and part.size < LARGE:
                expect(part.fd, part.size)
        while self._told:
            part = self._told.popleft()
            if isinstance(part, _Content):
                self._take_file(part)
            else:
                self._add(part)
        self._told, self._untold, self._files = self._untold, self._told, 0

    def _take_file(self, content: _Content) -> None:
        try:
            read = self._read if content.size < LARGE else self._read_large
            fault = "" if read(content) else f"ends before {content.size} bytes are read"
        except OSError as error:
            fault = f"cannot be read: {error.strerror}"
        finally:
            os.close(content.fd)
        if fault:
            self.broken = True
            self._complain(content.place.path, fault)

    def _add(self, payload: bytes) -> None:
        if len(payload) > BUFFER - self._used:
            self._flush()
        while len(payload) > BUFFER:
            self._buffer[:] = payload[:BUFFER]
            self._used, payload = BUFFER, payload[BUFFER:]
            self._flush()
        self._buffer[self._used : self._used + len(payload)] = payload
        self._used += len(payload)

    def _read(self, content: _Content) -> bool:
        """Whether the file had as many bytes."""
        left = content.size
        while left:
            if self._used == BUFFER:
                self._flush()
            # What is behind the buffer's end is not asked for.
            got = os.readv(content.fd, [self._buffer[self._used : self._used + left]])
            if not got:
                return False
            self._used += got
            left -= got
        return True

    def _read_large(self, content: _Content) -> bool:
        """The same of a large one."""
        self._flush()
        if self._sink is None:
            return False
        whole = self._sink.put_file(content.fd, content.size)
        self._buffer = self._sink.room()
        return whole

    def _flush(self) -> None:
        """Pass on what is in the buffer."""
        if self._sink is not None:
            self._sink.put(self._used)
            self._buffer = self._sink.room()
        self._used = 0

    def _grow(self, size: int) -> None:
        self.size += size
        if self.size > self._limit:
            raise DataError(
                "tar stream",
                f"is longer than {self._limit} bytes, expected what the store recorded",
            )
