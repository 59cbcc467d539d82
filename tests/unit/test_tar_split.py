"""tar-split files: every form that Go writes is read, and garbage is a located DataError."""

import base64
import gzip
import io
import json
import os
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.errors import DataError
from installer_plugin.storage.layer import tar_split
from installer_plugin.storage.layer.tar_split import (
    Entry,
    FileEntry,
    Segment,
    read_chunks,
    read_entries,
)
from tests.support.handmade import file_entry, packed, segment


def _read(content: bytes) -> list[Entry]:
    return list(read_entries(io.BytesIO(content), "x.tar-split.gz"))


def _lines(*lines: str) -> bytes:
    return gzip.compress("".join(f"{line}\n" for line in lines).encode())


def _fails(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        _read(content)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ('{"type":2,"payload":"AAEC","position":0}', Segment(b"\0\1\2")),
        ('{"type":2,"payload":"","position":9}', Segment(b"")),
        ('{"type":2,"payload":null,"position":9}', Segment(b"")),
        ('{"position":9, "payload":"AAEC", "type":2}', Segment(b"\0\1\2")),
        ('{"type":2,"payload":"AA\\u0045C","position":0}', Segment(base64.b64decode("AAEC"))),
        (
            '{"type":1,"name":"./a","size":3,"payload":"AQIDBAUGBwg=","position":1}',
            FileEntry(b"./a", 3, bytes(range(1, 9))),
        ),
        ('{"type":1,"name":"dir/","payload":null,"position":1}', FileEntry(b"dir/", 0, None)),
        ('{"type":1,"name":"/abs","size":0,"position":1}', FileEntry(b"/abs", 0, None)),
        ('{"type":1,"name":"a\\u003cb\\u0026","payload":null}', FileEntry(b"a<b&", 0, None)),
        ('{"type":1,"name":"h\\u00fclle","payload":null}', FileEntry("hülle".encode(), 0, None)),
        ('{"type":1,"name":"hülle","payload":null}', FileEntry("hülle".encode(), 0, None)),
        ('{"type":1,"name_raw":"Y2Fm6Q==","payload":null}', FileEntry(b"caf\xe9", 0, None)),
        ('{"type":1,"name":"x","name_raw":"","payload":""}', FileEntry(b"x", 0, None)),
        ('{"type":1,"payload":null}', FileEntry(b"", 0, None)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_entry(line: str, entry: Entry) -> None:
    assert _read(_lines(line)) == [entry]


def test_several_members_and_a_last_line_without_end() -> None:
    lines = [json.dumps(segment(bytes([number]) * 40)) for number in range(5)]
    content = gzip.compress("\n".join(lines[:2]).encode() + b"\n" + lines[2][:9].encode())
    content += gzip.compress(f"{lines[2][9:]}\n{lines[3]}\n{lines[4]}".encode())
    assert _read(content) == [Segment(bytes([number]) * 40) for number in range(5)]


def test_line_longer_than_a_piece() -> None:
    payload = os.urandom(2 * tar_split.PIECE)  # does not compress
    assert _read(packed([segment(payload), file_entry(b"x", b"")])) == [
        Segment(payload),
        FileEntry(b"x", 0, None),
    ]


def test_empty_file_has_no_entries() -> None:
    assert _read(b"") == _read(gzip.compress(b"")) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("garbage", "entry 1: Expecting value"),
        ("[]", "entry 1: is not one JSON object"),
        ('{"type":2} {"type":2}', "entry 1: is not one JSON object"),
        ("", "entry 1: Expecting value"),
        ("[" * 100_000, "entry 1: maximum recursion depth"),
        ('{"type":3}', "entry 1: type is 3, expected 1 or 2"),
        ("{}", "entry 1: type is None"),
        ('{"type":2,"payload":"A"}', "entry 1: "),
        ('{"type":2,"payload":"A","position":1}', "entry 1: "),
        ('{"type":2,"payload":"AA EC","position":1}', "entry 1: "),
        ('{"type":2,"payload":"\\u00e4"}', "entry 1: "),
        ('{"type":2,"payload":7}', "entry 1: payload is not text"),
        ('{"type":1,"name":7}', "entry 1: name is not text"),
        ('{"type":1,"name":"\\ud800"}', "entry 1: "),
        ('{"type":1,"name_raw":"?"}', "entry 1: "),
        ('{"type":1,"name":"a","size":-1}', "entry 1: size is -1"),
        ('{"type":1,"name":"a","size":9223372036854775808}', "entry 1: size is 92233720"),
        ('{"type":1,"name":"a","size":1e3}', "entry 1: size is 1000.0"),
        ('{"type":1,"name":"a","size":"1"}', "entry 1: size is '1'"),
        ('{"type":1,"name":"a","size":3,"payload":"AAEC"}', "entry 1: checksum has 3 bytes"),
        ('{"type":1,"name":"a","size":' + "9" * 5000 + "}", "entry 1: "),
    ],
    ids=lambda value: value[:30],
)
def test_garbage_line_is_named(line: str, complaint: str) -> None:
    good = '{"type":2,"payload":"AAEC","position":0}'
    assert f"x.tar-split.gz: {complaint}" in _fails(_lines(good, line))


def test_bytes_that_are_not_utf8() -> None:
    assert "entry 0: 'utf-8' codec" in _fails(gzip.compress(b'{"type":1,"name":"\xff"}\n'))


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"x" * 999)[:-9], gzip.compress(b"x" * 999)[:-8] + bytes(8)],
    ids=["other-format", "cut", "wrong-checksum"],
)
def test_damaged_compression(content: bytes) -> None:
    assert "x.tar-split.gz: is damaged after entry 0" in _fails(content)


def test_endless_line_is_refused_in_bounded_memory() -> None:
    bomb = gzip.compress(bytes(4 * tar_split.MAX_LINE))
    tracemalloc.start()
    try:
        assert "entry 0: longer than" in _fails(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * tar_split.MAX_LINE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "line",
    [
        '{"type":2,"payload":"","position":1}',
        '{"type":1,"name":"a"}',
        '{"type":2,"payload":"QQ=="}',
    ],
    ids=["empty-segments", "file-entries", "tiny-segments"],
)
def test_endless_text_that_stands_for_nothing_is_refused(line: str) -> None:
    assert "far too much text" in _fails(_lines(*[line] * 200_000))


@pytest.mark.parametrize(
    "line",
    ['{"type":2,"payload":"","position":1}', f'{{"type":2,"payload":"{"QUFB" * 100}"}}'],
    ids=["endless-text", "endless-segments"],
)
def test_file_that_cannot_be_cut_is_not_shared_out(line: str) -> None:
    """Nothing in it ends a chunk, and whoever has the first one would keep all of it in memory."""
    content = io.BytesIO(_lines(*[line] * 200_000))
    with pytest.raises(DataError, match="cannot be shared out"):
        list(read_chunks(content, "x.tar-split.gz", iter(range(9)).__next__))


class _Failing(io.RawIOBase):
    def readinto(self, _: object) -> int:
        raise OSError(5, "Input/output error")

    def readable(self) -> bool:
        return True


def test_read_error_is_told() -> None:
    with pytest.raises(DataError, match="x: cannot be read: Input/output error"):
        list(read_entries(io.BufferedReader(_Failing()), "x"))


def _entries(file: BinaryIO) -> list[Entry]:
    return list(read_entries(file, "x"))


@given(st.binary(max_size=400), st.sampled_from([gzip.compress, bytes]))
def test_any_bytes_are_entries_or_a_data_error(
    content: bytes, pack: Callable[[bytes], bytes]
) -> None:
    with suppress(DataError):
        _entries(io.BytesIO(pack(content)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
_FIELDS = st.sampled_from(["type", "name", "name_raw", "size", "payload", "position"])


@given(st.lists(st.dictionaries(_FIELDS, _JSON | st.sampled_from([1, 2, "AAEC"])), max_size=5))
def test_any_json_objects_are_entries_or_a_data_error(lines: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    try:
        entries = _entries(io.BytesIO(gzip.compress(text.encode())))
    except DataError:
        return
    assert len(entries) == len(lines)


@given(st.lists(st.one_of(
    st.builds(segment, st.binary(max_size=50)),
    st.builds(file_entry, st.binary(max_size=20), st.binary(max_size=20)),
)))  # fmt: skip
def test_what_go_writes_comes_back(lines: list[dict[str, object]]) -> None:
    entries = _read(packed(lines))
    assert [isinstance(entry, Segment) for entry in entries] == [x["type"] == 2 for x in lines]
    for entry, line in zip(entries, lines, strict=True):
        if isinstance(entry, Segment):
            assert segment(entry.payload) == line
        else:
            assert entry.size == line.get("size", 0)
            raw = line.get("name_raw")
            name = base64.b64decode(str(raw)) if raw else str(line["name"]).encode()
            assert entry.name == name
