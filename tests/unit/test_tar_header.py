"""Tar headers are read as Go's archive/tar reads them, whatever format they are in."""

import io
import tarfile
from contextlib import suppress
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.errors import DataError
from installer_plugin.storage.layer.tar_header import (
    BLOCK,
    DIRECTORY,
    MAX_EXTENDED,
    Header,
    HeaderReader,
)


def _block(  # noqa: PLR0913 - the fields of a header
    *,
    name: bytes = b"file",
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    size: bytes = b"00000000000\0",
    mtime: bytes = b"00000000000\0",
    kind: bytes = b"0",
    magic: bytes = b"ustar\x0000",
    area: bytes = b"",
    trailer: bytes = b"",
) -> bytes:
    head = name.ljust(100, b"\0") + mode + uid + b"0000000\0" + size + mtime + bytes(8) + kind
    tail = bytes(100) + magic + bytes(64) + b"0000000\0" + b"0000000\0" + area.ljust(155, b"\0")
    return (head + tail).ljust(BLOCK - len(trailer), b"\0") + trailer


def _extended(kind: bytes, content: bytes) -> bytes:
    header = _block(name=b"extended", kind=kind, size=b"%011o\0" % len(content))
    return header + content + bytes(-len(content) % BLOCK)


def _pax(**records: str) -> bytes:
    return _pax_bytes({key.encode(): value.encode() for key, value in records.items()})


def _pax_bytes(records: dict[bytes, bytes]) -> bytes:
    content = b""
    for key, value in records.items():
        length = len(key) + len(value) + 3
        length += len(str(length + len(str(length))))
        content += b"%d %s=%s\n" % (length, key, value)
    return _extended(b"x", content)


def _read(*payloads: bytes) -> list[Header]:
    reader = HeaderReader("x")
    return [header for payload in payloads for header in reader.feed(payload)]


def _one(*payloads: bytes) -> Header:
    (header,) = _read(*payloads)
    return header


def _fails(*payloads: bytes) -> str:
    with pytest.raises(DataError) as caught:
        _read(*payloads)
    return str(caught.value)


LONG = "d/" * 90 + "é" * 60


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_what_the_standard_library_writes(tar_format: Literal[0, 1, 2]) -> None:
    info = tarfile.TarInfo("a" * 90 + "/" + "b" * 90)
    info.mode, info.uid, info.gid, info.mtime = 0o4755, 1234, 5678, 1_500_000_000
    info.type, info.linkname = tarfile.SYMTYPE, "/target"
    header = _one(info.tobuf(tar_format, "utf-8", "surrogateescape"))
    assert header.name == info.name.encode()
    assert header == Header(
        info.name.encode(), b"2", 0o4755, 1234, 5678, 0, 1_500_000_000, b"/target", (0, 0), {}
    )


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_targets_and_numbers(tar_format: Literal[0, 1, 2]) -> None:
    info = tarfile.TarInfo(LONG)
    info.type, info.linkname, info.uid, info.mtime = tarfile.SYMTYPE, LONG[::-1], 3 * 10**9, -5
    header = _one(info.tobuf(tar_format, "utf-8", "surrogateescape"))
    assert (header.name, header.target) == (LONG.encode(), LONG[::-1].encode())
    assert (header.uid, header.mtime) == (3 * 10**9, -5)


def test_devices() -> None:
    info = tarfile.TarInfo("null")
    info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
    assert _one(info.tobuf(tarfile.GNU_FORMAT)).device == (1, 3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.9", 1),
        ("-1.5", -2),
        ("-1.0", -1),
        ("-1", -1),
        ("7", 7),
        ("-0.5", -1),
        ("+7.5", 7),
        ("1.", 1),
        ("-0.0000000009", 0),
        ("-0.000000001", -1),
    ],
)
def test_pax_time_is_rounded_down(text: str, seconds: int) -> None:
    assert _one(_pax(mtime=text), _block()).mtime == seconds


@pytest.mark.parametrize(
    ("stated", "owner"), [("-1", 0), ("-2", 2**32 - 2), ("4294967294", 2**32 - 2), ("-0", 0)]
)
@pytest.mark.parametrize("key", ["uid", "gid"])
def test_owner_is_what_chown_makes_of_the_number(key: str, stated: str, owner: int) -> None:
    assert getattr(_one(_pax(**{key: stated}), _block()), key) == owner


def test_pax_values_hold_for_one_entry_and_empty_ones_do_not_hold() -> None:
    pax = _pax_bytes({
        b"path": b"", b"uid": b"7", b"SCHILY.xattr.user.a": b"\0\xff=\n",
        b"SCHILY.xattr.user.b": b"", b"comment": b"x",
    })  # fmt: skip
    first, second = _read(pax + _block() + _block(name=b"next"))
    assert (first.name, first.uid) == (b"file", 7)
    assert first.xattrs == {"user.a": b"\0\xff=\n"}
    assert (second.name, second.uid, second.xattrs) == (b"next", 0, {})


def test_global_header_is_an_entry_of_its_own_and_holds_for_nothing() -> None:
    content = _pax(uid="7", path="other")[BLOCK:]
    listed = _read(_extended(b"g", content.rstrip(b"\0")) + _block())
    assert [(header.kind, header.name, header.uid) for header in listed] == [
        (b"g", b"extended", 0),
        (b"0", b"file", 0),
    ]


def test_extended_headers_of_several_kinds_add_up() -> None:
    long_name, long_target = (
        _extended(b"L", b"N" * 300 + b"\0"),
        _extended(b"K", b"T" * 300 + b"\0"),
    )
    header = _one(_pax(path="pax", gid="3") + long_name + long_target + _block(kind=b"2"))
    assert (header.name, header.target, header.gid) == (b"N" * 300, b"T" * 300, 3)


def test_old_regular_files_and_directories() -> None:
    listed = _read(_block(kind=b"\0", magic=bytes(8)) + _block(kind=b"\0", name=b"d/"))
    assert [header.kind for header in listed] == [b"0", DIRECTORY]


@pytest.mark.parametrize(
    ("magic", "area", "trailer", "name"),
    [
        (b"ustar\x0000", b"pre/fix", b"", b"pre/fix/file"),
        (b"ustar\x0000", b"p" * 131 + b"not the prefix", b"tar\0", b"p" * 131 + b"/file"),
        (b"ustar  \0", b"12345670123\0", b"", b"file"),
        (b"ustar  \0", b"12345670123\0" + b"12345670123\0", b"", b"file"),
        (b"ustar  \0", b"usr/share/doc", b"", b"usr/share/doc/file"),
        (b"ustar  \0", b"12345670123\0usr/share", b"", b"12345670123/file"),
        (b"ustar  \0", b"usr/\xff", b"", b"file"),
        (bytes(8), b"pre/fix", b"", b"file"),
    ],
    ids=["posix", "star", "gnu-atime", "gnu-times", "old-go", "old-go-2", "no-ascii", "v7"],
)
def test_prefix(magic: bytes, area: bytes, trailer: bytes, name: bytes) -> None:
    assert _one(_block(magic=magic, area=area, trailer=trailer)).name == name


def test_content_and_padding_are_skipped_in_the_stream() -> None:
    reader = HeaderReader("x")
    (first,) = reader.feed(_block(name=b"one", size=b"00000000003\0"))
    assert reader.content(b"one", 3) is first
    assert not list(reader.feed(bytes(500)))
    (second,) = reader.feed(bytes(9) + _block(name=b"two"))
    assert second.name == b"two"


def test_headers_cut_anywhere_are_the_same() -> None:
    stream = _pax(path="p" * 200, uid="5") + _block() + _block(name=b"second") + bytes(1024)
    for size in (1, 100, 511, 512, 513, 1024):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert _read(*pieces) == _read(stream)


def test_nothing_is_read_after_the_end() -> None:
    assert not _read(bytes(BLOCK), _block(), b"garbage")


def test_entry_without_content_in_the_stream() -> None:
    reader = HeaderReader("x")
    (link,) = reader.feed(_block(kind=b"1", size=b"00000000003\0"))
    assert link.size == 0
    assert reader.content(b"file", 3) is None


NO_OCTAL = (
    b"0000_644", b"+0000644", b"-0000644", b"0o000644", b"0x000644", b"0000 644", b"00008\0\0\0",
    b"64.\0\0\0\0\0", b"\t0000644",
)  # fmt: skip
NO_DECIMAL = (
    b" 1",
    b"1 ",
    b"1_0",
    b"0x1",
    b"1.0",
    b"1e3",
    b"\xd9\xa1",
    b"--1",
    b"+",
    b"1\0",
    b"\n1",
)
NO_TIME = (b".5", b"1_0", b" 1", b"1. 5", b"1.-5", b"1e3", b"1.5.5", b"1.\xd9\xa1", b"+", b"")[:-1]


@pytest.mark.parametrize(
    ("field", "mode"),
    [
        (b"0000644\0", 0o644), (b"644\0\0\0\0\0", 0o644), (b"  644  \0", 0o644),
        (b"\0\0 644 \0", 0o644), (b"644\0junk", 0o644), (b"00000644", 0o644), (bytes(8), 0),
        (b"        ", 0), (b"\x80" + bytes(5) + b"\x01\xa4", 0o644),
    ],
)  # fmt: skip
def test_octal_number_is_what_go_takes_for_one(field: bytes, mode: int) -> None:
    assert _one(_block(mode=field)).mode == mode


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (_block(mode=b"0000x44\0"), "for an octal number"),
        *((_block(mode=mode), "for an octal number") for mode in NO_OCTAL),
        *(
            (_pax_bytes({key: value}) + _block(), "for a decimal number")
            for key in (b"uid", b"gid", b"size")
            for value in NO_DECIMAL
        ),
        *(
            (_pax_bytes({key: value}) + _block(), "for a")
            for key in (b"mtime", b"atime", b"ctime")
            for value in NO_TIME
        ),
        (_pax(uid="9223372036854775808") + _block(), "more than 64 bits"),
        (_pax(mtime="99999999999999999999") + _block(), "more than 64 bits"),
        (_pax(uid="7") + _block(uid=b"0o00000\0"), "for an octal number"),
        (_pax(mtime="7") + _block(mtime=b"0_000000000\0"), "for an octal number"),
        (_block(kind=b"5", size=b"0_000000000\0"), "for an octal number"),
        (_block(mtime=b"\x80\xff" + bytes(10)), "more than 64 bits"),
        (_pax_bytes({b"path": b"a\0b"}) + _block(), "damaged PAX record"),
        (_pax_bytes({b"a\0b": b"c"}) + _block(), "damaged PAX record"),
        (_extended(b"x", b"-9 a=b\n") + _block(), "damaged PAX record"),
        (_extended(b"x", b"5 =b\n") + _block(), "damaged PAX record"),
        (_block(size=b"-0000000001\0"), "for an octal number"),
        (_block(size=b"\xff" * 12), "of -1 bytes"),
        (_block(kind=b"S"), "as a sparse file"),
        (_block(kind=b"7"), "of the type b'7'"),
        (_pax_bytes({b"GNU.sparse.major": b"1"}) + _block(), "as a sparse file"),
        (_pax(uid="x") + _block(), "for a decimal number"),
        (_pax(mtime="x") + _block(), "for a decimal number"),
        (_extended(b"x", b"9999 a=b\n") + _block(), "damaged PAX record"),
        (_extended(b"x", b"garbage") + _block(), "damaged PAX record"),
        (_extended(b"x", b"0 a=b\n") + _block(), "damaged PAX record"),
        (_extended(b"x", b"6 abcd\n") + _block(), "damaged PAX record"),
        (_block(kind=b"x", size=b"77777777777\0"), "an extended header of 8589934591 bytes"),
        (_block(kind=b"x", size=b"-0000000001\0"), "for an octal number"),
        (_block(kind=b"x", size=b"\xff" * 12), "an extended header of -1 bytes"),
        (_block(kind=b"x", size=b"oops\0\0\0\0\0\0\0\0"), "for an octal number"),
        (_block(size=b"00000000003\0") + b"abc", "has the content of b'file' in itself"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_garbage_is_a_data_error(payload: bytes, complaint: str) -> None:
    message = _fails(payload)
    assert message.startswith("x: ")
    assert complaint in message


@pytest.mark.parametrize(("name", "size"), [(b"other", 3), (b"file", 4)])
def test_file_entry_that_is_not_the_headers(name: bytes, size: int) -> None:
    reader = HeaderReader("x")
    list(reader.feed(_block(size=b"00000000003\0")))
    with pytest.raises(DataError, match="where the tar header says 3 bytes of b'file'"):
        reader.content(name, size)


def test_endless_extended_header_is_refused() -> None:
    assert "extended header" in _fails(_block(kind=b"L", size=b"%011o\0" % (MAX_EXTENDED + 1)))


@given(st.lists(st.binary(max_size=700), max_size=4))
def test_any_bytes_are_headers_or_a_data_error(payloads: list[bytes]) -> None:
    with suppress(DataError):
        _read(*payloads)


@given(st.binary(max_size=64), st.integers(0, BLOCK - 1))
def test_any_changed_header_is_read_or_a_data_error(change: bytes, at: int) -> None:
    block = bytearray(_pax(path="a/b", mtime="1.5") + _block())
    block[at : at + len(change)] = change
    with suppress(DataError):
        _read(bytes(block))


def test_standard_library_agrees_on_a_whole_archive() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(20):
            info = tarfile.TarInfo("n" * (number * 12 + 1))
            info.mode, info.mtime = number * 8, number * 10**8
            tar.addfile(info)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as members:
        expected = [(m.name.encode(), m.mode, m.mtime) for m in members]
    assert [(h.name, h.mode, h.mtime) for h in _read(stream.getvalue())] == expected
