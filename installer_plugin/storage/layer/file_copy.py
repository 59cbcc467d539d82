"""Copies what one file is made of: content with its holes, extended attributes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from installer_plugin.errors import DataError, is_full
from installer_plugin.files.rootfs import Closing
from installer_plugin.storage.layer.direct_io import LARGE, PieceReader, bypass_cache, write_all

LABEL = "security.selinux"
"""Not copied: the target's own policy decides it."""
ATTRIBUTE_HINT = "use a target file system that holds it: xfs, or ext4 made with -O ea_inode"
PIECE = 1 << 24
"""Bytes copied by one call, so that there is progress to report."""
SHORTER = "it became shorter meanwhile"
BLOCK = 512
"""Unit of ``st_blocks``, whatever the file system's own block is."""

_NOT_THIS_WAY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What copy_file_range(2) says where it cannot serve."""

Moved = Callable[[int], None]
"""Told how many bytes more were copied; may raise to stop the work."""
_PassOn = Callable[[int, int, int, int], int]
"""Of a file, to where another one is positioned, from this offset, this many bytes: how many it were."""


class ContentCopy(Closing):
    """Copies contents within or between file systems by the shortest way that they offer.

    Use as a context manager.
    """

    def __init__(self, moved: Moved) -> None:
        self._moved = moved
        self._pass_on: _PassOn = _in_the_file_system
        self._asked = False
        self._reader: PieceReader | None = None

    def close(self) -> None:
        """Give back what large files have needed."""
        if self._reader:
            self._reader.close()

    def copy(self, source: int, target: int, seen: os.stat_result) -> None:
        """Copy the file *source*, whose status is *seen*, into the empty file *target*; raises OSError."""
        size = seen.st_size
        if not self._asked:
            self._pass_on, self._asked = _shortest(source, target), True
        if seen.st_blocks * BLOCK >= size:
            if size >= LARGE and self._pass_on is _through_the_cache:
                self._copy_large(source, target, size)
            else:
                self._copy_range(source, target, 0, size)
            return
        for start, end in _data(source, size):
            os.lseek(target, start, os.SEEK_SET)
            self._copy_range(source, target, start, end)
        os.ftruncate(target, size)

    def _copy_large(self, source: int, target: int, size: int) -> None:
        """Copy a whole file to the disk at once, where nobody has to wait for its pages later."""
        self._reader = self._reader or PieceReader()
        bypass_cache(target, on=True)
        left = size
        with closing(self._reader.pieces(source)) as pieces:
            for piece in pieces:
                taken = piece[:left]
                write_all(target, taken)
                left -= len(taken)
                self._moved(len(taken))
                if not left:
                    return
        raise OSError(errno.ENODATA, SHORTER)

    def _copy_range(self, source: int, target: int, start: int, end: int) -> None:
        """Copy bytes to where *target* is positioned."""
        while start < end:
            copied = self._pass_on(source, target, start, min(end - start, PIECE))
            if not copied:
                raise OSError(errno.ENODATA, SHORTER)
            start += copied
            self._moved(copied)


def _shortest(source: int, target: int) -> _PassOn:
    """The way that two file systems offer, by a question that copies nothing."""
    try:
        os.copy_file_range(source, target, 0)
    except OSError as error:
        if error.errno not in _NOT_THIS_WAY:
            raise
        return _through_the_cache
    return _in_the_file_system


def _in_the_file_system(source: int, target: int, start: int, count: int) -> int:
    """Within one file system, which shares the blocks if it can do that."""
    return os.copy_file_range(source, target, count, offset_src=start)


def _through_the_cache(source: int, target: int, start: int, count: int) -> int:
    """Out of one file system's page cache into another's, without a copy in between."""
    return os.sendfile(target, source, start, count)


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file with holes has data: starts and ends in bytes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # from here on there is only a hole
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end


def copy_xattrs(source: int | str, target: int | str) -> None:
    """Copy all extended attributes but the label, between descriptors or of links.

    Raises OSError, and DataError that names the attribute when the target does not take it.
    """
    follow = isinstance(target, int)
    for name, value in _xattrs(source).items():
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            place = Path(f"/proc/self/fd/{target}" if isinstance(target, int) else target)
            folder = place.resolve().parent if isinstance(target, int) else place.parent.resolve()
            room = os.statvfs(folder)
            if is_full(error) and room.f_bavail * room.f_frsize < PIECE:
                raise  # a full disk, not a full inode
            raise DataError(
                name,
                f"its extended attribute {name} of {len(value)} bytes cannot be set on the target's "
                f"file system ({file_system_of(folder)}): {error.strerror}",
                hint=ATTRIBUTE_HINT,
            ) from error


def _xattrs(source: int | str) -> Mapping[str, bytes]:
    follow = isinstance(source, int)
    try:
        names = os.listxattr(source, follow_symlinks=follow)
        return {
            name: os.getxattr(source, name, follow_symlinks=follow)
            for name in names
            if name != LABEL
        }
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        message = f"its extended attributes cannot be read from the source: {error.strerror}"
        raise DataError("extended attributes", message) from error


def file_system_of(folder: Path) -> str:
    """Type of the file system of *folder*, a path without links (proc_pid_mountinfo(5))."""
    best, kind = 0, "unknown"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        mount, _, rest = line.partition(" - ")
        point = Path(mount.split()[4].replace("\\040", " "))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind
