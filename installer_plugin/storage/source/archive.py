"""Files in a tar archive, found by name without unpacking it; perhaps compressed.

Headers are read as c/image reads them (:mod:`~installer_plugin.storage.layer.tar_header`): it unpacks
the same archive later.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.storage.layer.tar_header import (
    BLOCK,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Header,
    HeaderReader,
)

MAX_MEMBERS = 1 << 17
"""Files of an archive; images have some thousands at most."""
MOST_EXPANSION, FREE_EXPANSION = 200, 1 << 30
"""An archive is no larger than so many times its file and so many bytes more: layers in it are
compressed already, or compress as files do."""
_ZSTD = b"\x28\xb5\x2f\xfd"
_HEAD_SIZE = 6
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
_COMPRESSIONS: Mapping[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
"""How a compressed archive begins, and what reads it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of an archive."""

    offset: int
    """Where its content begins, in the archive as it is uncompressed."""
    size: int


class Archive:
    """A tar archive. Its table of contents is made once, when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: dict[str, Member] | None = None

    def member(self, name: str) -> Member:
        """The regular file *name*; raises DataError when there is none."""
        if self._members is None:
            self._members = self._scanned()
        found = self._members.get(name)
        if found is None:
            raise DataError(f"{name} in {self.path}", "is missing, expected a regular file")
        return found

    def read(self, name: str, limit: int) -> bytes:
        """Content of the file *name*; raises DataError, also when it is longer than *limit* bytes."""
        if self.member(name).size > limit:
            raise DataError(
                f"{name} in {self.path}", f"is longer than {limit} bytes, expected a small file"
            )
        with self.opened(name) as content:
            return content.read()

    @contextmanager
    def opened(self, name: str) -> Iterator[io.BufferedReader]:
        """The content of the file *name* as a file of its own; raises DataError."""
        member = self.member(name)
        with self._stream() as stream:
            stream.seek(member.offset)
            yield io.BufferedReader(_Part(stream, member.size), 1 << 20)

    @contextmanager
    def uncompressed(self, name: str) -> Iterator[BinaryIO]:
        """The content of the file *name*, uncompressed if it is not; raises DataError."""
        with self.opened(name) as content:
            yield uncompressed(content, f"{name} in {self.path}")

    def uncompressed_size(self, name: str) -> int:
        """Bytes of the file *name* when it is uncompressed; raises DataError."""
        size, limit = 0, _expanded(self.member(name).size)
        with self.uncompressed(name) as content:
            if isinstance(content, io.BufferedReader):
                return self.member(name).size
            while block := content.read(1 << 20):
                size += len(block)
                if size > limit:
                    raise DataError(f"{name} in {self.path}", f"unpacks to more than {limit} bytes")
        return size

    def _scanned(self) -> dict[str, Member]:
        shown = str(self.path)
        with self._stream() as stream:
            return _members(stream, _most_bytes(self.path, stream), shown)

    @contextmanager
    def _stream(self) -> Iterator[BinaryIO]:
        """The archive's tar stream; what goes wrong while it is read is a DataError about it."""
        shown = str(self.path)
        try:
            with (
                Rootfs.open(self.path.absolute().parent) as folder,
                os.fdopen(folder.open_file(self.path.name), "rb") as file,
                uncompressed(file, shown) as stream,
            ):
                yield stream
        except (*_DAMAGED, gzip.BadGzipFile) as error:
            raise DataError(shown, f"is damaged: {error}, expected a tar archive") from error
        except OSError as error:
            if error.filename is not None and error.filename != self.path.name:
                raise  # about another file than the archive
            raise DataError(shown, f"cannot be read: {error.strerror or error}") from error


class _Part(io.RawIOBase):
    """So many bytes of a stream, from where it stands."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._left)
        data = self._stream.read(wanted)
        if wanted and not data:
            raise EOFError("it ends within a file")
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


class ZstdError(DataError):
    """Something is compressed with zstd, which the standard library reads from Python 3.14 on only."""


def uncompressed(file: io.BufferedReader, shown: str) -> BinaryIO:
    """What *file* holds, uncompressed if it is not, by how it begins; raises ZstdError."""
    head = file.peek(_HEAD_SIZE)[:_HEAD_SIZE]
    if head.startswith(_ZSTD):
        raise ZstdError(
            shown, "is compressed with zstd", hint=f"zstd --decompress {shown}, and name the result"
        )
    for magic, opened in _COMPRESSIONS.items():
        if head.startswith(magic):
            return cast("BinaryIO", opened(file))
    return cast("BinaryIO", file)


def _expanded(size: int) -> int:
    """Bytes that a compressed file of *size* bytes may have uncompressed."""
    return FREE_EXPANSION + MOST_EXPANSION * size


def _most_bytes(path: Path, stream: BinaryIO) -> int:
    """Bytes that the tar stream in the file *path* can have."""
    size = path.stat().st_size
    plain = isinstance(stream, io.BufferedReader)
    return size if plain else _expanded(size)


def _members(stream: BinaryIO, limit: int, shown: str) -> dict[str, Member]:
    """Regular files by their names without ``./``; a link to one is the same file."""
    found: dict[str, Member] = {}
    links: dict[str, str] = {}
    for count, (header, start) in enumerate(_headers(stream, limit, shown)):
        if count >= MAX_MEMBERS:
            raise DataError(shown, f"has more than {MAX_MEMBERS} files, expected an image")
        name = _plain(header.name)
        if header.kind == REGULAR:
            found[name] = Member(start, header.size)
        elif header.kind in (HARD_LINK, SYMLINK):
            links[name] = _target(header)
    linked = {name: found[target] for name, target in links.items() if target in found}
    return found | linked


def _headers(stream: BinaryIO, limit: int, shown: str) -> Iterator[tuple[Header, int]]:
    """Each header, and where its content begins."""
    reader = HeaderReader(shown)
    at = 0
    while not reader.ended and (block := stream.read(BLOCK)):
        at += len(block)
        if len(block) < BLOCK:
            raise DataError(shown, "ends within a header, expected a tar archive")
        for header in reader.feed(block):
            yield header, at
            if not header.size:
                continue
            reader.content(header.name, header.size)
            at += header.size
            if at > limit or stream.seek(at) != at:
                raise DataError(shown, f"ends within {_plain(header.name)}, expected all of it")
            padding = stream.read(-header.size % BLOCK)
            at += len(padding)
            if any(reader.feed(padding)):
                raise DataError(shown, "has a header in a file's padding")


def _plain(name: bytes) -> str:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    return b"/".join(parts).decode(errors="surrogateescape")


def _target(header: Header) -> str:
    """Where a link leads: a hard link's target is a path in the archive, a symbolic one's is relative."""
    if header.kind == HARD_LINK:
        return _plain(header.target)
    parts = header.name.split(b"/")[:-1]
    for part in header.target.split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return _plain(b"/".join(parts))
