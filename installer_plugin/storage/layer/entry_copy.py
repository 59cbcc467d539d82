"""Copies what is in one directory, but no directories: files, links, devices, and what they are made of.

Hard links, holes, devices, whiteouts, owners, modes, every extended attribute but the SELinux label, and
times in nanoseconds. ``cp --archive`` does the same and takes twice the processor time: it asks the
kernel about much that is known here, and copies through its own memory what the kernel can pass on.
Links are never followed and only regular files are opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from installer_plugin.files.rootfs import Closing
from installer_plugin.storage.layer.file_copy import ContentCopy, Moved, copy_xattrs
from installer_plugin.storage.layer.page_cache import expect, open_untouched
from installer_plugin.storage.layer.tree import joined

AHEAD_FILES = 32
"""Files that the disk is told of before the first of them is copied."""
SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Entry(NamedTuple):
    """A name in a directory of the source that is not a directory."""

    name: str
    seen: os.stat_result
    fd: int
    """Of a regular file, unless it was copied under another name; else -1."""


@dataclass(slots=True)
class Folder(Closing):
    """A directory that is being copied, and its copy; the descriptors are -1 while they are closed."""

    path: bytes
    source: int = -1
    target: int = -1
    below: list[str] = field(default_factory=list)
    """Directories in it that are still to be copied."""

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.source, self.target):
            if fd >= 0:
                os.close(fd)
        self.source = self.target = -1

    def open(self, name: str, source: int, target: int) -> None:
        """Open both as *name* of two open directories; raises OSError."""
        self.source = os.open(name, _FOLDER, dir_fd=source)
        self.target = os.open(name, _FOLDER, dir_fd=target)


class EntryCopy(Closing):
    """Copies entries, and knows at which it is. Use as a context manager."""

    def __init__(self, target: int, moved: Moved, links: int | None = None) -> None:
        """*target*: the root of the copy, an open directory.

        *links*: another one on its file system, where all who copy the same tree make the files of
        several names; None for one who copies it alone.
        """
        made = os.fstat(target)
        self._target = target
        self._links = links
        self._owner = made.st_uid, made.st_gid
        """Of everything that is made in the target, until it is given away."""
        self._masked = _umask() | SPECIAL_BITS
        """Mode bits that a new file does not get at once."""
        self._content = ContentCopy(moved)
        self._first: dict[tuple[int, int], bytes] = {}
        """Where the first copies of files with several names are, by device and inode."""
        self._files: list[_Entry] = []
        """Those that are copied next."""
        self._at = b"", ""
        self.reading = True
        """Whether the source is what is being worked on."""

    @property
    def at(self) -> bytes:
        """The path that is being copied."""
        folder, name = self._at
        return joined(folder, os.fsencode(name)) if name else folder

    def is_at(self, path: bytes, *, reading: bool) -> None:
        """Note that the directory *path* is being worked on, in the source or in the target."""
        self._at = path, ""
        self.reading = reading

    def close(self) -> None:
        """Close everything that is open."""
        self._content.close()
        self._close_files()

    def copy(self, folder: Folder, names: Sequence[str]) -> None:
        """Copy at most :data:`AHEAD_FILES` names of *folder*; raises OSError and DataError.

        A name that has become a directory is noted there.
        """
        self.reading = True
        for name in names:
            self._at = folder.path, name
            self._look(folder, name)
        for entry in self._files:
            if entry.fd >= 0:
                expect(entry.fd, entry.seen.st_size)
        self.reading = False
        for entry in self._files:
            self._at = folder.path, entry.name
            if entry.seen.st_nlink > 1:
                self._copy_linked(folder, entry)
            else:
                self._make(folder, entry, folder.target, entry.name)
        self._close_files()

    def _look(self, folder: Folder, name: str) -> None:
        seen = os.stat(name, dir_fd=folder.source, follow_symlinks=False)
        if stat.S_ISDIR(seen.st_mode):
            folder.below.append(name)
            return
        is_file = stat.S_ISREG(seen.st_mode) and (seen.st_dev, seen.st_ino) not in self._first
        fd = open_untouched(name, folder.source) if is_file else -1
        self._files.append(_Entry(name, seen, fd))

    def _close_files(self) -> None:
        for entry in self._files:
            if entry.fd >= 0:
                os.close(entry.fd)
        self._files.clear()

    def _copy_linked(self, folder: Folder, entry: _Entry) -> None:
        """Copy a file of several names, or give the copy that there is this one as well."""
        if self._links is not None:
            self._share_linked(folder, entry, self._links)
            return
        path = joined(folder.path, os.fsencode(entry.name))
        first = self._first.setdefault((entry.seen.st_dev, entry.seen.st_ino), path)
        if first == path:
            self._make(folder, entry, folder.target, entry.name)
        else:
            places = {"src_dir_fd": self._target, "dst_dir_fd": folder.target}
            os.link(first, entry.name, **places, follow_symlinks=False)

    def _share_linked(self, folder: Folder, entry: _Entry, links: int) -> None:
        """The same where another process may copy it under another name at this moment.

        Who makes it first also fills it. It can be linked before it is filled.
        """
        key = f"{entry.seen.st_dev:x}-{entry.seen.st_ino:x}"
        if entry.fd >= 0 or not stat.S_ISREG(entry.seen.st_mode):
            with suppress(FileExistsError):
                self._make(folder, entry, links, key)
        self._first[entry.seen.st_dev, entry.seen.st_ino] = b""
        places = {"src_dir_fd": links, "dst_dir_fd": folder.target}
        os.link(key, entry.name, **places, follow_symlinks=False)

    def _make(self, folder: Folder, entry: _Entry, place: int, name: str) -> None:
        """Make the copy of *entry* as *name* in the open directory *place*."""
        if entry.fd >= 0:
            self._make_file(entry, place, name)
        else:
            self._make_other(folder, entry, place, name)

    def _make_file(self, entry: _Entry, place: int, name: str) -> None:
        seen = entry.seen
        mode = stat.S_IMODE(seen.st_mode)
        target = os.open(name, _MAKE, mode & ~SPECIAL_BITS, dir_fd=place)
        try:
            if seen.st_size:
                self._content.copy(entry.fd, target, seen)
            # A change of the owner takes special bits and capabilities away, so it comes first.
            if (seen.st_uid, seen.st_gid) != self._owner:
                os.fchown(target, seen.st_uid, seen.st_gid)
            if mode & self._masked:
                os.fchmod(target, mode)
            copy_xattrs(entry.fd, target)
            os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        finally:
            os.close(target)

    def _make_other(self, folder: Folder, entry: _Entry, place: int, name: str) -> None:
        """Make a symbolic link, device, fifo or socket; what is there is never opened."""
        seen = entry.seen
        if stat.S_ISLNK(seen.st_mode):
            os.symlink(os.readlink(entry.name, dir_fd=folder.source), name, dir_fd=place)
        else:
            os.mknod(name, seen.st_mode, seen.st_rdev, dir_fd=place)
        if (seen.st_uid, seen.st_gid) != self._owner:
            os.chown(name, seen.st_uid, seen.st_gid, dir_fd=place, follow_symlinks=False)
        if not stat.S_ISLNK(seen.st_mode):
            os.chmod(name, stat.S_IMODE(seen.st_mode), dir_fd=place)
        source = f"/proc/self/fd/{folder.source}/{entry.name}"
        copy_xattrs(source, f"/proc/self/fd/{place}/{name}")
        times = seen.st_atime_ns, seen.st_mtime_ns
        os.utime(name, ns=times, dir_fd=place, follow_symlinks=False)


def _umask() -> int:
    """Our own, read without changing it, which other threads would notice (proc(5), Umask)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
