"""Copies a layer's tree with everything that layers are made of.

Hard links, holes, devices, whiteouts, owners, modes, every extended attribute but the SELinux label, and
times in nanoseconds. ``cp --archive`` does the same and takes twice the processor time: it asks the
kernel about much that is known here, and copies through its own memory what the kernel can pass on.
Links are never followed and only regular files are opened. Whatever goes wrong here, verification finds.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from installer_plugin.errors import DataError, is_full
from installer_plugin.files.rootfs import Closing
from installer_plugin.storage.layer.file_copy import ContentCopy, Moved, copy_xattrs
from installer_plugin.storage.layer.page_cache import expect, open_untouched
from installer_plugin.storage.layer.tree import joined, shown

AHEAD_FILES = 32
"""Files that the disk is told of before the first of them is copied."""
SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
OPEN_LEVELS = 64
"""Directories that are kept open while the tree goes deeper."""

READ_HINT = "look at the source's disk (dmesg), or remove the image there and pull it again"
WRITE_HINT = "look at the target's file system (df, dmesg)"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: int, target: int, moved: Moved) -> None:
    """Copy the directory *source* onto the empty directory *target*, both open descriptors.

    Raises OSError when the target is full, and DataError with the path in the tree for everything else.
    """
    with _TreeCopy(target, moved) as copy:
        try:
            copy.run(source)
        except OSError as error:
            if is_full(error):
                raise
            raise DataError(shown(copy.at), _blame(copy, error), hint=copy.hint) from error
        except DataError as error:
            raise DataError(shown(copy.at), error.message, hint=error.hint) from error


def _blame(copy: _TreeCopy, error: OSError) -> str:
    """What went wrong on which side."""
    if error.errno == errno.ENODATA:
        return f"cannot be read from the source: {error.strerror}"
    if error.errno == errno.EIO:
        return f"cannot be copied: {error.strerror}, of the source's disk or the target's"
    verb = "read from the source" if copy.reading else "written to the target"
    return f"cannot be {verb}: {error.strerror}"


class _Entry(NamedTuple):
    """A name in a directory of the source that is not a directory."""

    name: str
    seen: os.stat_result
    fd: int
    """Of a regular file, unless it was copied under another name; else -1."""


@dataclass(slots=True)
class _Folder(Closing):
    """A directory whose copy has begun, and its copy; the descriptors are -1 while they are closed."""

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


class _TreeCopy(Closing):
    """One tree on its way. Use as a context manager."""

    def __init__(self, target: int, moved: Moved) -> None:
        made = os.fstat(target)
        self._target = target
        self._owner = made.st_uid, made.st_gid
        """Of everything that is made in the target, until it is given away."""
        self._masked = _umask() | SPECIAL_BITS
        """Mode bits that a new file does not get at once."""
        self._content = ContentCopy(moved)
        self._first: dict[tuple[int, int], bytes] = {}
        """Where the first copies of files with several names are, by device and inode."""
        self._folders: list[_Folder] = []
        """From the root to the one that is being copied."""
        self._files: list[_Entry] = []
        """Those that are copied next."""
        self._at = b"", ""
        self.reading = True
        """Whether the source is what is being worked on."""

    @property
    def hint(self) -> str:
        """The next step when that fails."""
        return READ_HINT if self.reading else WRITE_HINT

    @property
    def at(self) -> bytes:
        """The path that is being copied."""
        folder, name = self._at
        return joined(folder, os.fsencode(name)) if name else folder

    def close(self) -> None:
        """Close everything that is open."""
        self._content.close()
        self._close_files()
        for folder in self._folders:
            folder.close()

    def run(self, source: int) -> None:
        """Copy the directory *source*, depth first; raises OSError."""
        self._enter(".", b"", source, self._target)
        while self._folders:
            folder = self._folders[-1]
            if folder.below:
                name = folder.below.pop()
                path = joined(folder.path, os.fsencode(name))
                self._at = path, ""
                self.reading = False
                os.mkdir(name, 0o700, dir_fd=folder.target)
                self._enter(name, path, folder.source, folder.target)
            else:
                self._leave()

    def _enter(self, name: str, path: bytes, source: int, target: int) -> None:
        folder = _Folder(path)
        self._folders.append(folder)
        self.reading = True
        folder.open(name, source, target)
        if len(self._folders) > OPEN_LEVELS:
            self._folders[-OPEN_LEVELS - 1].close()
        self._fill(folder)

    def _leave(self) -> None:
        """Finish the last folder: it gets its attributes when all that is in it has been made."""
        folder = self._folders[-1]
        self._at = folder.path, ""
        seen = os.fstat(folder.source)
        self.reading = False
        os.fchown(folder.target, seen.st_uid, seen.st_gid)
        os.fchmod(folder.target, stat.S_IMODE(seen.st_mode))
        copy_xattrs(folder.source, folder.target)
        os.utime(folder.target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        if len(self._folders) > 1 and self._folders[-2].source < 0:
            self._folders[-2].open("..", folder.source, folder.target)
        self._folders.pop().close()

    def _fill(self, folder: _Folder) -> None:
        """Copy what is in *folder*, but note directories for later.

        In the order of inodes: it is about the order in which they lie on the disk.
        """
        self.reading = True
        with os.scandir(folder.source) as found:
            names = [entry.name for entry in sorted(found, key=os.DirEntry.inode)]
        for start in range(0, len(names), AHEAD_FILES):
            self.reading = True
            for name in names[start : start + AHEAD_FILES]:
                self._at = folder.path, name
                self._look(folder, name)
            for entry in self._files:
                if entry.fd >= 0:
                    expect(entry.fd, entry.seen.st_size)
            self.reading = False
            for entry in self._files:
                self._at = folder.path, entry.name
                self._copy(folder, entry)
            self._close_files()

    def _look(self, folder: _Folder, name: str) -> None:
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

    def _copy(self, folder: _Folder, entry: _Entry) -> None:
        if entry.seen.st_nlink > 1:
            path = joined(folder.path, os.fsencode(entry.name))
            first = self._first.setdefault((entry.seen.st_dev, entry.seen.st_ino), path)
            if first != path:
                places = {"src_dir_fd": self._target, "dst_dir_fd": folder.target}
                os.link(first, entry.name, **places, follow_symlinks=False)
                return
        if entry.fd >= 0:
            self._copy_file(folder, entry)
        else:
            self._make(folder, entry)

    def _copy_file(self, folder: _Folder, entry: _Entry) -> None:
        seen = entry.seen
        mode = stat.S_IMODE(seen.st_mode)
        target = os.open(entry.name, _MAKE, mode & ~SPECIAL_BITS, dir_fd=folder.target)
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

    def _make(self, folder: _Folder, entry: _Entry) -> None:
        """Make a symbolic link, device, fifo or socket; what is there is never opened."""
        name, seen, target = entry.name, entry.seen, folder.target
        if stat.S_ISLNK(seen.st_mode):
            os.symlink(os.readlink(name, dir_fd=folder.source), name, dir_fd=target)
        else:
            os.mknod(name, seen.st_mode, seen.st_rdev, dir_fd=target)
        if (seen.st_uid, seen.st_gid) != self._owner:
            os.chown(name, seen.st_uid, seen.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(seen.st_mode):
            os.chmod(name, stat.S_IMODE(seen.st_mode), dir_fd=target)
        copy_xattrs(f"/proc/self/fd/{folder.source}/{name}", f"/proc/self/fd/{target}/{name}")
        times = seen.st_atime_ns, seen.st_mtime_ns
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _umask() -> int:
    """Our own, read without changing it, which other threads would notice (proc(5), Umask)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
