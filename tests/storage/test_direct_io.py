"""Large files are copied and hashed whole, whatever their size and their file system's manners."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from installer_plugin.storage.layer import direct_io
from installer_plugin.storage.layer.direct_io import BLOCK, LARGE, PIECE
from installer_plugin.storage.layer.file_copy import ContentCopy, Moved
from installer_plugin.storage.layer.tar_stream import Hash, TarStream
from installer_plugin.storage.layer.tree import Folder, Place
from tests.support.disks import FsKind, LoopFs, LoopFsFactory
from tests.support.leftovers import open_descriptors

SIZES = {
    "just-large": LARGE,
    "one-byte-more": LARGE + 1,
    "whole-pieces": 3 * PIECE,
    "whole-blocks": 2 * PIECE + 3 * BLOCK,
    "no-multiple-of-anything": 2 * PIECE + BLOCK + 13,
}
KINDS: tuple[FsKind, ...] = ("ext4", "xfs", "btrfs")
FOREVER = 1 << 40


@contextmanager
def nothing_left() -> Iterator[None]:
    """Demand that no thread and no descriptor stays behind."""
    before = threading.active_count(), open_descriptors()
    yield
    assert (threading.active_count(), open_descriptors()) == before


def write(path: Path, size: int) -> str:
    """Write a file of which no two pieces are the same; return its hash."""
    content = os.urandom(size)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def copy(source: Path, target: Path, moved: Moved) -> None:
    with source.open("rb") as read, target.open("wb") as written, ContentCopy(moved) as contents:
        contents.copy(read.fileno(), written.fileno(), os.fstat(read.fileno()))


def hashed(
    path: Path, size: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[str, list[str]]:
    """The hash of a stream that is these bytes of the file, and what was found wrong with it."""
    faults: list[str] = []
    whole = Hash(progress)
    with (
        whole,
        TarStream(FOREVER, progress, lambda _, fault: faults.append(fault), whole) as stream,
    ):
        stream.add_file(os.open(path, os.O_RDONLY), size, Place(Folder(-1, b"", b""), b"large"))
        stream.drain()
        diff_id = whole.diff_id()
        assert stream.broken == bool(faults)
    return diff_id.removeprefix("sha256:"), faults


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, loop_fs: LoopFsFactory) -> LoopFs:
    kind: FsKind = request.param
    return loop_fs(kind)


def test_large_files_arrive_and_are_read_back_whole(tmp_path: Path, disk: LoopFs) -> None:
    for name, size in SIZES.items():
        expected = write(tmp_path / name, size)
        moved: list[int] = []
        taken: list[int] = []
        with nothing_left():
            copy(tmp_path / name, disk.mount / name, moved.append)
            found = hashed(disk.mount / name, size, taken.append)
        assert (disk.mount / name).read_bytes() == (tmp_path / name).read_bytes()
        assert sum(moved) == sum(taken) == size
        assert found == (expected, [])


def test_piece_that_is_no_whole_block_goes_through_the_page_cache(
    tmp_path: Path, disk: LoopFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file systems themselves refuse such a piece with EINVAL, in reading and in writing."""
    monkeypatch.setattr(direct_io, "PIECE", BLOCK + 1000)
    expected = write(tmp_path / "file", LARGE + 5)
    copy(tmp_path / "file", disk.mount / "file", lambda _: None)
    assert hashed(disk.mount / "file", LARGE + 5) == (expected, [])


def test_file_system_without_direct_access_is_read_through_the_page_cache() -> None:
    fd = os.memfd_create("large")  # a tmpfs, which refuses O_DIRECT before Linux 6.6
    content = os.urandom(LARGE + 5)
    assert os.write(fd, content) == len(content)
    found = hashed(Path(f"/proc/self/fd/{fd}"), len(content))
    os.close(fd)
    assert found == (hashlib.sha256(content).hexdigest(), [])


def test_large_file_shorter_than_recorded_is_complained_about(disk: LoopFs) -> None:
    write(disk.mount / "file", LARGE)
    with nothing_left():
        _, faults = hashed(disk.mount / "file", LARGE + 1)
    assert faults == [f"ends before {LARGE + 1} bytes are read"]


def test_only_the_recorded_bytes_of_a_large_file_are_hashed(disk: LoopFs) -> None:
    write(disk.mount / "file", LARGE + PIECE)
    begin = (disk.mount / "file").read_bytes()[: LARGE + 7]
    assert hashed(disk.mount / "file", LARGE + 7) == (hashlib.sha256(begin).hexdigest(), [])


def test_large_file_that_becomes_shorter_while_it_is_copied_is_an_error(
    tmp_path: Path, disk: LoopFs
) -> None:
    source = tmp_path / "file"
    write(source, 6 * PIECE)
    with nothing_left(), pytest.raises(OSError, match="it became shorter meanwhile"):
        copy(source, disk.mount / "file", lambda _: os.truncate(source, PIECE))


def test_large_file_that_grows_is_copied_as_it_was_seen(tmp_path: Path, disk: LoopFs) -> None:
    source = tmp_path / "file"
    write(source, 2 * PIECE)
    seen = source.read_bytes()

    def grow(_: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    copy(source, disk.mount / "file", grow)
    assert (disk.mount / "file").read_bytes() == seen


class StopError(Exception):
    """Raised by a progress callback."""


def stop(_: int) -> None:
    raise StopError


def test_stop_in_a_large_file_leaves_no_thread(tmp_path: Path, disk: LoopFs) -> None:
    write(tmp_path / "file", 4 * PIECE)
    with nothing_left(), pytest.raises(StopError):
        copy(tmp_path / "file", disk.mount / "file", stop)
    with nothing_left(), pytest.raises(StopError):
        hashed(tmp_path / "file", 4 * PIECE, stop)
