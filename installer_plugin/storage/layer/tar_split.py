"""tar-split files: a layer's tar stream with the files' contents taken out.

Format: vbatts/tar-split ``tar/storage`` (entry.go, packer.go): gzip, perhaps of several members, of
JSON objects, one a line. A *segment* (type 2) carries stream bytes as they are: headers, padding, the
zeros at the end. A *file entry* (type 1) stands where the content of the file it names belongs.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import BinaryIO, NamedTuple, cast

from installer_plugin.errors import DataError

MAX_LINE = 16 << 20
"""Bytes of one line. Go's tar reader takes extended headers up to 1 MiB, and base64 adds a third."""
TEXT_PER_BYTE = 8
"""Text grows slower than this with the bytes of the segments: 4/3 in base64, the wrapping, and the
name of each file again, in up to six characters for a byte."""
PIECE = 1 << 18
BLOCK = 512
"""Of a tar stream."""
CHUNK = 256
"""Lines from which on a chunk ends with the next file: some 128 files."""
MAX_CHUNK = 64 * CHUNK
FREE_TEXT = 1 << 20
"""Text that needs no bytes to justify it: what a small stream's wrapping takes."""
FILE_TYPE = 1
SEGMENT_TYPE = 2
CHECKSUM_SIZE = 8

_GARBAGE = "expected the gzip-compressed JSON lines of tar-split"
_FILE_HEAD = b'{"type":1,'
_SEGMENT_HEAD = b'{"type":2,"payload":"'
_SEGMENT_TAIL = re.compile(rb'","position":\d+\}').fullmatch
_PLAIN_FILE = re.compile(
    rb'\{"type":1,"name":"([ !#-\[\]-~]*)",(?:"size":(\d{1,18}),)?'
    rb'"payload":(?:"([\w+/=]*)"|null),"position":\d+\}'
).fullmatch
"""A file entry whose name needs no escapes."""
_SHARED_END = 472
"""Characters of base64 that hold the end of a tar header, from behind its type on, wherever it begins."""
_OWN_BEGIN = 216
"""Characters that hold all of it before that."""
_FILLER = ord("=")
_ZEROS = b"A" * 684
"""Base64 of more zeros than padding has."""


class Segment(NamedTuple):
    """Stream bytes that are kept in the tar-split file itself."""

    payload: bytes


class FileEntry(NamedTuple):
    """A place in the stream where the content of a file goes."""

    name: bytes
    """As in the tar header: perhaps with ``./`` or ``/`` in front."""
    size: int
    """0 for everything that has no content: directories, links, devices, empty files."""
    checksum: bytes | None
    """CRC-64 of the content, 8 bytes; None when there is no content."""


Entry = Segment | FileEntry


def read_entries(file: BinaryIO, where: str) -> Iterator[Entry]:
    """The entries of the tar-split *file*, one at a time.

    Memory is bounded by the longest line, and work by the bytes that the segments carry: text without
    end that stands for nothing is refused. Raises DataError that names *where* and the entry,
    whatever the file contains.
    """
    budget = FREE_TEXT
    parse = _Parser(where).entry
    for index, line in enumerate(_lines(file, where)):
        entry = parse(line, index)
        budget -= len(line)
        if isinstance(entry, Segment):
            budget += TEXT_PER_BYTE * len(entry.payload)
        if budget < 0:
            raise DataError(where, f"entry {index}: far too much text for so short a tar stream")
        yield entry


class Chunk(NamedTuple):
    """Entries that follow each other, up to one of a file."""

    number: int
    padding: int
    """Bytes that fill the block of the content before it."""
    entries: Sequence[Entry]
    next_padding: int | None
    """Bytes of padding that the next chunk begins with; None when this one is the last."""


def read_chunks(file: BinaryIO, where: str, take_turn: Callable[[], int]) -> Iterator[Chunk]:
    """Those of the chunks of the tar-split *file* that nobody else reads; *take_turn* gives their numbers.

    All who share it cut the file at the same places. What ends a chunk is taken for a file with content
    whose header was complete: whoever reads the chunk has to see whether it was. Raises DataError as
    :func:`read_entries` does, and for a file that cannot be cut.
    """
    number, padding, count, budget = 0, 0, 0, FREE_TEXT
    own: list[Entry] = []
    mine, parse = take_turn(), _Parser(where).entry
    for index, line in enumerate(_lines(file, where)):
        count += 1
        if number == mine:
            entry = parse(line, index)
            own.append(entry)
            budget -= len(line)
            budget += TEXT_PER_BYTE * len(entry.payload) if isinstance(entry, Segment) else 0
            if budget < 0 or len(own) > MAX_CHUNK:
                raise DataError(where, f"entry {index}: cannot be shared out")
        if count >= CHUNK and line.startswith(_FILE_HEAD):
            last = own[-1] if number == mine else parse(line, index)
            following = -last.size % BLOCK if isinstance(last, FileEntry) else 0
            if number == mine:
                yield Chunk(number, padding, own, following)
                own, mine = [], take_turn()
            number, padding, count = number + 1, following, 0
    if number == mine:
        yield Chunk(number, padding, own, None)


def _lines(file: BinaryIO, where: str) -> Iterator[bytes]:
    """Lines without their ends; cut out of large pieces, for a line at a time costs as much again."""
    count, rest = 0, b""
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as text:
            while piece := text.read1(PIECE):
                lines = (rest + piece).split(b"\n")
                rest = lines.pop()
                yield from lines
                count += len(lines)
                if len(rest) > MAX_LINE:
                    raise DataError(where, f"entry {count}: longer than {MAX_LINE} bytes")
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(where, f"is damaged after entry {count}: {error}, {_GARBAGE}") from error
    except OSError as error:
        raise DataError(where, f"cannot be read: {error.strerror}") from error
    if rest:
        yield rest


_decode = json.JSONDecoder().raw_decode


class _Parser:
    """Makes entries of lines, and remembers how the last segment ended: nearly all end alike."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._text = self._end = b""
        """The end, in base64 and decoded."""

    def entry(self, line: bytes, index: int) -> Entry:
        """The entry that *line* is; raises DataError."""
        try:
            if line.startswith(_SEGMENT_HEAD):
                # Half of all lines and nearly all bytes look like this; a JSON parser takes far longer,
                # as it does for nearly all of the other lines.
                end = line.find(b'"', len(_SEGMENT_HEAD))
                if _SEGMENT_TAIL(line, end) and line.find(b"\\", 0, end) < 0:
                    return Segment(self._payload(line, end))
            elif plain := _PLAIN_FILE(line):
                name, size, checksum = plain.groups()
                return FileEntry(
                    name, int(size or 0), _crc(a2b_base64(checksum or b"", strict_mode=True))
                )
            text = line.decode()
            found, end = _decode(text)
        except (ValueError, RecursionError) as error:
            raise DataError(self._where, f"entry {index}: {error}, {_GARBAGE}") from error
        if not isinstance(found, dict) or text[end:].strip():
            raise DataError(self._where, f"entry {index}: is not one JSON object, {_GARBAGE}")
        return _entry(cast("dict[str, object]", found), self._where, index)

    def _payload(self, line: bytes, end: int) -> bytes:
        """Base64 of a segment, decoded: what is in *line* up to *end*; raises ValueError.

        Padding is zeros, and most headers end alike: only what is left has to be decoded, which is a
        quarter of the text.
        """
        begin, shared = len(_SEGMENT_HEAD), end - _SHARED_END
        own = shared - _OWN_BEGIN
        if own < begin or not _ZEROS.startswith(line[begin:own]):
            own = begin
        if (end - begin) % 4 or shared <= begin or line[shared - 1] == _FILLER:
            return a2b_base64(line[begin:end], strict_mode=True)
        text = line[shared:end]
        if text != self._text:
            self._end = _shared_end(text)
            self._text = text
        zeros = bytes((own - begin) // 4 * 3)
        return zeros + a2b_base64(line[own:shared], strict_mode=True) + self._end


def _entry(fields: dict[str, object], where: str, index: int) -> Entry:
    """The entry of a JSON object."""
    try:
        kind = fields.get("type")
        if kind == SEGMENT_TYPE:
            return Segment(_base64(fields.get("payload")))
        if kind == FILE_TYPE:
            return FileEntry(_name(fields), _size(fields), _checksum(fields))
    except ValueError as error:
        raise DataError(where, f"entry {index}: {error}") from error
    raise DataError(where, f"entry {index}: type is {kind!r:.40}, expected 1 or 2")


@lru_cache(maxsize=1 << 9)
def _shared_end(text: bytes) -> bytes:
    return a2b_base64(text, strict_mode=True)


def _base64(value: object) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, str):
        raise ValueError("payload is not text, expected base64")  # noqa: TRY004 - a wrong value
    return a2b_base64(value, strict_mode=True)


def _name(fields: dict[str, object]) -> bytes:
    """``name_raw`` is written instead of ``name`` when the name is not UTF-8."""
    raw = _base64(fields.get("name_raw"))
    name = fields.get("name", "")
    if not isinstance(name, str):
        raise ValueError("name is not text")  # noqa: TRY004 - a wrong value
    return raw or name.encode()


def _size(fields: dict[str, object]) -> int:
    size = fields.get("size", 0)
    if not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise ValueError(f"size is {size!r:.40}, expected a number of bytes")
    return size


def _checksum(fields: dict[str, object]) -> bytes | None:
    return _crc(_base64(fields.get("payload")))


def _crc(checksum: bytes) -> bytes | None:
    if checksum and len(checksum) != CHECKSUM_SIZE:
        raise ValueError(f"checksum has {len(checksum)} bytes, expected {CHECKSUM_SIZE}")
    return checksum or None
