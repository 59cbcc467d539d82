"""Headers of a tar stream, read as Go's ``archive/tar`` reads them, from the bytes between contents.

The layer on disk is what containers-storage made of the stream with Go's reader, so that reader
decides. The standard library's ``tarfile`` differs where it matters: it applies global PAX headers to
the entries that follow (Go passes them on as entries, which unpacking ignores), decodes the values of
attributes, and needs a file to seek in.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import printable
from installer_plugin.storage.layer.tar_numbers import number, pax_records, seconds, signed

BLOCK = 512
MAX_EXTENDED = 1 << 20
"""Bytes of one extended header, as Go's reader has it since 1.20."""

REGULAR, OLD_REGULAR = b"0", b"\0"
HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"1", b"2", b"3", b"4", b"5", b"6"
GLOBAL = b"g"
_KNOWN = frozenset((REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO, GLOBAL))
_GNU_LONG_NAME, _GNU_LONG_LINK, _GNU_SPARSE, _PAX = b"L", b"K", b"S", b"x"
_EXTENDED = frozenset(b"LKxg")
_ALONE = frozenset(b"03456")
"""Kinds of entries whose headers differ in name, size and time at most; links differ in targets."""

_FIELDS = struct.Struct("100s 8s 8s 8s 12s 12s 8x c 100s 8s 64x 8s 8s 155s 8x 4s")
_MODES, _SIZE, _TIME, _CHECKSUM, _KIND = 100, 124, 136, 148, 156
"""Where fields begin; mode, user and group come one after the other."""
_ZEROS = bytes(BLOCK)
_MAGIC, _GNU_MAGIC, _STAR_TRAILER = b"ustar", b"ustar  \0", b"tar\0"
SHOWN_NAME = 300
"""Characters of an entry's name in a message."""
_XATTR = b"SCHILY.xattr."
_NO_RECORDS: Mapping[bytes, bytes] = {}
_NO_XATTRS: Mapping[str, bytes] = {}


class Header(NamedTuple):
    """What the stream says about one entry."""

    name: bytes
    kind: bytes
    """Type flag; an old-style regular file is given as :data:`REGULAR` or :data:`DIRECTORY`."""
    mode: int
    """The twelve permission bits."""
    uid: int
    gid: int
    size: int
    """Bytes of content in the stream, 0 for every kind but regular files."""
    mtime: int
    """Whole seconds, rounded down as file systems do."""
    target: bytes
    """Of a symbolic or hard link."""
    device: tuple[int, int]
    """Major and minor number of a device."""
    xattrs: Mapping[str, bytes]


class HeaderReader:
    """Takes the stream's bytes between contents, gives the headers; keeps track of the padding."""

    def __init__(self, where: str, padding: int = 0) -> None:
        """*where* names the tar-split file in complaints; *padding*: bytes to be skipped first."""
        self._where = where
        self._pending = b""
        self._padding = padding
        self._ended = False
        self._awaited: Header | None = None
        self._extended = _NOTHING
        self._like: Header | None = None
        """What the last usual header shares with others, and the bytes of it that say so."""
        self._modes = self._rest = b""

    @property
    def ended(self) -> bool:
        """Whether the zeros at the end of the stream have come."""
        return self._ended

    def goes_on_after(self, padding: int) -> bool:
        """Whether a reader that is new, and skips *padding* bytes, reads on as this one would."""
        complete = not self._pending and self._awaited is None and self._extended is _NOTHING
        return complete and self._padding == padding and not self._ended

    def feed(self, payload: bytes) -> Iterable[Header]:
        """Append stream bytes; the headers that are complete now, to be taken at once.

        Raises DataError, also while they are taken. After a header with content, the next thing in the
        stream has to be that content: bytes of a file that stand in the tar-split file instead would be
        proven without reading the disk.
        """
        if len(payload) == self._padding + BLOCK and not self._pending and self._awaited is None:
            header = self._single(payload[self._padding :])
            if header is not None:
                self._padding = 0
                self._awaited = header if header.size else None
                return (header,)
        return self._headers(payload)

    def _single(self, block: bytes) -> Header | None:
        """The header of the next entry when it is *block* and nothing else, as nearly all are."""
        if self._ended or self._extended is not _NOTHING or block[_KIND] not in _ALONE:
            return None
        try:
            return self._known(block)
        except ValueError:
            return None  # whoever looks at every field says why

    def _known(self, block: bytes) -> Header:
        """The same as :func:`_header` says, of a header that is looked up by what it shares with others.

        Raises ValueError, and for a size that no header may state.
        """
        like = self._like
        if like is None or not (
            block.endswith(self._rest) and block.startswith(self._modes, _MODES)
        ):
            modes, rest = block[_MODES:_SIZE], block[_KIND:]
            like = _likeness(modes + rest)
            self._like, self._modes, self._rest = like, modes, rest
        size = number(block[_SIZE:_TIME])
        if size < 0:
            raise ValueError("a negative size")
        return Header(
            like.name + block[:_MODES].partition(b"\0")[0],  # what it has of a name is the prefix
            like.kind,
            like.mode,
            like.uid,
            like.gid,
            size if like.kind == REGULAR else 0,
            number(block[_TIME:_CHECKSUM]),
            like.target,
            like.device,
            _NO_XATTRS,
        )

    def _headers(self, payload: bytes) -> Iterator[Header]:
        self._pending = self._pending + payload if self._pending else payload
        while not self._ended:
            skipped = min(self._padding, len(self._pending))
            self._padding -= skipped
            self._pending = self._pending[skipped:]
            if not self._pending:
                return
            if self._awaited is not None:
                raise self._wrong(f"has the content of {self._awaited.name!r:.300} in itself")
            length = self._complete()
            if not length:
                return
            header = self._consume(length)
            if header is not None:
                self._awaited = header if header.size else None
                yield header
        self._pending = b""

    def content(self, name: bytes, size: int) -> Header | None:
        """The header of the content that comes now; None when *name* is an entry without content.

        Raises DataError when the tar-split file names another file than the stream does.
        """
        header, self._awaited = self._awaited, None
        if header is None:
            # A link's header may carry the size of the file; the stream then has nothing of it.
            return None
        if (name, size) != (header.name, header.size):
            raise self._wrong(
                f"has {size} bytes of {name!r:.300} where the tar header says "
                f"{header.size} bytes of {header.name!r:.300}"
            )
        self._padding = -size % BLOCK
        return header

    def _wrong(self, message: str) -> DataError:
        return DataError(self._where, f"{message}, expected what tar-split makes of a tar stream")

    def _complete(self) -> int:
        """Bytes of the header at the front, with its content when it is extended; 0 if not there."""
        if len(self._pending) < BLOCK:
            return 0
        if self._pending[_KIND] not in _EXTENDED:
            return BLOCK
        try:
            size = number(_FIELDS.unpack_from(self._pending)[4])
        except ValueError as error:
            raise self._wrong(f"has a tar header with {error}") from error
        if not 0 <= size <= MAX_EXTENDED:
            raise self._wrong(f"has an extended header of {size} bytes")
        length = BLOCK + size + -size % BLOCK
        return length if len(self._pending) >= length else 0

    def _consume(self, length: int) -> Header | None:
        """Take the header of *length* bytes off the front; None when it only adds to the next."""
        taken, self._pending = self._pending[:length], self._pending[length:]
        if taken == _ZEROS:
            self._ended = True
            return None
        fields = _FIELDS.unpack_from(taken)
        kind = fields[6]
        try:
            if kind == GLOBAL:
                return _header(fields, _NOTHING)
            if kind[0] in _EXTENDED:
                content = taken[BLOCK : BLOCK + number(fields[4])]
                self._extended = self._extended.with_header(kind, content)
                return None
            extended, self._extended = self._extended, _NOTHING
            return _header(fields, extended)
        except ValueError as error:
            raise self._wrong(f"has a tar header with {error}") from error


class _Extended(NamedTuple):
    """What the headers in front of an entry's own header say about it."""

    pax: Mapping[bytes, bytes] = _NO_RECORDS
    name: bytes = b""
    target: bytes = b""

    def with_header(self, kind: bytes, content: bytes) -> _Extended:
        """The same with one more extended header; a later one replaces one of its kind."""
        if kind == _PAX:
            return self._replace(pax=pax_records(content))
        text = content.partition(b"\0")[0]
        return self._replace(name=text) if kind == _GNU_LONG_NAME else self._replace(target=text)


_NOTHING = _Extended()


@lru_cache(maxsize=1 << 10)
def _likeness(rest: bytes) -> Header:
    """The header of an entry without a name, size and time; *rest* is all but these and the checksum.

    Most headers of a layer differ in nothing else. Raises ValueError.
    """
    modes = _SIZE - _MODES
    block = bytes(_MODES) + rest[:modes] + bytes(_KIND - _SIZE) + rest[modes:]
    return _header(_FIELDS.unpack(block), _NOTHING)


def _header(fields: tuple[bytes, ...], extended: _Extended) -> Header:
    pax = extended.pax
    kind, name = fields[6], extended.name or pax.get(b"path") or _short_name(fields)
    if kind == OLD_REGULAR:
        kind = DIRECTORY if name.endswith(b"/") else REGULAR
    stated = _decimal(pax, b"size", fields[4])
    size = stated if kind == REGULAR else 0
    if pax:
        _require_times(pax)
    if kind not in _KNOWN or size < 0 or (pax and _is_sparse(pax)):
        raise _not_known(name, kind, size)
    is_device = kind in (CHARACTER, BLOCK_DEVICE)
    return Header(
        name,
        kind,
        number(fields[1]) & 0o7777,
        _owner(_decimal(pax, b"uid", fields[2]) if pax else number(fields[2])),
        _owner(_decimal(pax, b"gid", fields[3]) if pax else number(fields[3])),
        size,
        _mtime(pax, fields[5]) if pax else number(fields[5]),
        extended.target or pax.get(b"linkpath") or fields[7].partition(b"\0")[0],
        (number(fields[9]), number(fields[10])) if is_device else (0, 0),
        _xattrs(pax) if pax else _NO_XATTRS,
    )


def _owner(stated: int) -> int:
    """Who owns what is made for a header: containers-storage hands the number to lchown(2).

    There -1 changes nothing, so it is root who has made it; another one below 0 is cut to 32 bits.
    """
    if stated == -1:
        return 0
    return stated & 0xFFFFFFFF if stated < 0 else stated


def _not_known(name: bytes, kind: bytes, size: int) -> ValueError:
    """What is wrong with an entry that nothing here can carry."""
    shown = printable(name.decode(errors="surrogateescape"))[:SHOWN_NAME]
    if size < 0:
        return ValueError(f"{shown} of {size} bytes")
    if kind not in {*_KNOWN, _GNU_SPARSE}:
        return ValueError(f"{shown} of the type {kind!r}")
    return ValueError(f"{shown} as a sparse file")


def _is_sparse(pax: Mapping[bytes, bytes]) -> bool:
    return any(key.startswith(b"GNU.sparse.") for key in pax)


def _decimal(pax: Mapping[bytes, bytes], key: bytes, field: bytes) -> int:
    """A number that the PAX headers may give; the header's own has to be one all the same."""
    own, value = number(field), pax.get(key)
    return signed(value) if value else own


def _mtime(pax: Mapping[bytes, bytes], field: bytes) -> int:
    own, value = number(field), pax.get(b"mtime")
    return seconds(value) if value else own


def _require_times(pax: Mapping[bytes, bytes]) -> None:
    """Raise ValueError for times that nothing is made of, but that Go reads."""
    for key in (b"atime", b"ctime"):
        if value := pax.get(key):
            seconds(value)


def _short_name(fields: tuple[bytes, ...]) -> bytes:
    """The header's own name, with the prefix that POSIX and star have for it."""
    name = fields[0].partition(b"\0")[0]
    area = fields[11]
    magic = fields[8]
    if not area[0] or not magic.startswith(_MAGIC):
        return name
    if magic == _GNU_MAGIC and not _misses_times(area):
        return name
    if magic != _GNU_MAGIC and fields[12] == _STAR_TRAILER:
        area = area[:131]
    prefix = area.partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _misses_times(area: bytes) -> bool:
    """Whether a GNU header has a POSIX prefix where access and change time belong.

    Writers built with Go before 1.8 did that; Go's reader takes it for a prefix when it is ASCII and
    cannot be numbers.
    """
    try:
        number(area[:12])
        if area[12]:
            number(area[12:24])
    except ValueError:
        return area.partition(b"\0")[0].isascii()
    return False


def _xattrs(pax: Mapping[bytes, bytes]) -> Mapping[str, bytes]:
    """Extended attributes; Go passes over those without a value."""
    return {
        os.fsdecode(key.removeprefix(_XATTR)): value
        for key, value in pax.items()
        if key.startswith(_XATTR) and value
    }
