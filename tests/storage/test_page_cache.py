"""Files are read without a trace where we may, and are read all the same where we may not."""

import os
from pathlib import Path

import pytest

from installer_plugin.storage.layer.page_cache import open_untouched
from tests.support.disks import LoopFsFactory

LONG_AGO = 1
"""Nanoseconds after 1970: the kernel notes the next reading, unless it is told not to (relatime)."""


@pytest.fixture
def file(loop_fs: LoopFsFactory) -> Path:
    path = loop_fs("ext4").mount / "file"
    path.write_text("content")
    path.parent.chmod(0o755)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


def _read(path: Path) -> bytes:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.fdopen(open_untouched(path.name, folder), "rb") as opened:
            return opened.read()
    finally:
        os.close(folder)


def test_time_of_access_stays(file: Path) -> None:
    assert _read(file) == b"content"
    assert file.stat().st_atime_ns == LONG_AGO
    assert file.read_text() == "content"
    assert file.stat().st_atime_ns > LONG_AGO, "the file system would have noted it"


def test_file_of_somebody_else_is_read_all_the_same(file: Path) -> None:
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.seteuid(65534)
    try:
        fd = open_untouched(file.name, folder)
    finally:
        os.seteuid(0)
        os.close(folder)
    with os.fdopen(fd, "rb") as opened:
        assert opened.read() == b"content"


def test_what_is_not_there_is_an_error(file: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _read(file.with_name("absent"))
