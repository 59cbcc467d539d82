"""A tar stream is passed on in its order and as it comes, however few files it has."""

import hashlib
import os
from pathlib import Path

import pytest

from installer_plugin.storage.layer.tar_stream import BUFFER, TOLD_FILES, Hash, TarStream
from installer_plugin.storage.layer.tree import Folder, Place

BLOCK = bytes(512)
FOREVER = 1 << 40
PLACE = Place(Folder(-1, b"", b""), b"file")


def _file(folder: Path, content: bytes) -> int:
    fd = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600)
    os.pwrite(fd, content, 0)
    return fd


def test_what_follows_a_file_does_not_wait_for_more_files(tmp_path: Path) -> None:
    """A layer may have one file and then a hundred thousand links: their headers fill no memory."""
    taken: list[int] = []
    with Hash(taken.append) as hashed, TarStream(FOREVER, taken.append, _fail, hashed) as stream:
        stream.add_file(_file(tmp_path, b"content"), 7, PLACE)
        for _ in range(3 * BUFFER // len(BLOCK)):
            stream.write(BLOCK)
        assert sum(taken) > BUFFER
        stream.drain()
        expected = hashlib.sha256(b"content" + bytes(3 * BUFFER))
        assert hashed.diff_id() == f"sha256:{expected.hexdigest()}"


@pytest.mark.parametrize("files", [0, 1, TOLD_FILES - 1, TOLD_FILES, 2 * TOLD_FILES, 99])
def test_stream_has_its_order_however_many_files_wait(tmp_path: Path, files: int) -> None:
    expected = b"begin"
    with (
        Hash(lambda _: None) as hashed,
        TarStream(FOREVER, lambda _: None, _fail, hashed) as stream,
    ):
        stream.write(b"begin")
        for number in range(files):
            content = b"%d" % number
            stream.write(b"header of " + content)
            stream.add_file(_file(tmp_path, content), len(content), PLACE)
            expected += b"header of " + content + content
        stream.write(b"end")
        stream.drain()
    assert hashed.diff_id() == f"sha256:{hashlib.sha256(expected + b'end').hexdigest()}"


def test_files_that_wait_are_closed_with_the_stream(tmp_path: Path) -> None:
    before = _open_files()
    with Hash(lambda _: None) as hashed:
        stream = TarStream(FOREVER, lambda _: None, _fail, hashed)
        for _ in range(TOLD_FILES + 3):
            stream.add_file(_file(tmp_path, b"content"), 7, PLACE)
        assert _open_files() == before + TOLD_FILES + 3
        stream.close()
    assert _open_files() == before


def _fail(path: bytes, fault: str) -> None:
    raise AssertionError((path, fault))


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
