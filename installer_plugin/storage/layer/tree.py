"""A layer's ``diff`` directory, reached by the byte names of its tar stream and by no other way.

Links among the parents of a name are followed inside the layer, as containers-storage did when it
unpacked the stream in a chroot; the last component is never followed. Directory descriptors are kept,
because a stream names thousands of files of the same few directories.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import MAX_LINKS, Closing, printable
from installer_plugin.storage.layer.page_cache import forget, open_untouched

OPEN_FOLDERS = 64
"""Directory descriptors kept by one tree; several trees are read at the same time."""
MAX_NAME = 255
MAX_PATH = 4095
"""Linux limits (``NAME_MAX``, ``PATH_MAX`` without the NUL): no longer name can have been unpacked."""

_NO_XATTRS: Mapping[str, bytes] = {}
_NOT_USUAL = frozenset((b"", b".", b".."))
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Folder:
    """An open directory of the layer."""

    fd: int
    path: bytes
    """Relative to the layer's root and free of links; empty for the root itself."""
    handle: bytes
    """A path by which the kernel finds the directory, for calls that take no descriptor."""


class Place(NamedTuple):
    """A name in a directory; nothing need exist there. Good until the tree is asked for the next."""

    folder: Folder
    name: bytes
    """``.`` when the place is the layer's root."""

    @property
    def path(self) -> bytes:
        """Relative to the layer's root and free of links; empty for the root itself."""
        if self.name == b".":
            return self.folder.path
        return joined(self.folder.path, self.name)


class LayerTree(Closing):
    """A layer's files. Use as a context manager."""

    def __init__(self, fd: int, *, drop_cache: bool = False) -> None:
        """Take over *fd*, a descriptor of the ``diff`` directory.

        With *drop_cache* the kernel is asked to forget a file's pages before they are read, so that
        the disk is read. It keeps pages that are not written yet: ``syncfs(2)`` comes first.
        """
        self._drop_cache = drop_cache
        self._root = _folder(fd, b"")
        self._folders: OrderedDict[bytes, Folder] = OrderedDict()
        self._last: tuple[bytes, Folder] = (b"", self._root)
        self._file = -1

    def close(self) -> None:
        """Close all directories, and a file that nobody has taken; once."""
        self._close_file()
        for folder in (self._root, *self._folders.values()):
            os.close(folder.fd)
        self._folders.clear()

    def place(self, name: bytes) -> Place:
        """Where *name* is; raises DataError for a hostile name and OSError when a parent is missing."""
        if len(name) > MAX_PATH:
            raise DataError(shown(name), f"has {len(name)} bytes, expected at most {MAX_PATH}")
        parent, _, last = name.rpartition(b"/")
        known, folder = self._last
        if parent == known and last not in _NOT_USUAL:
            # In the directory of the one before, as most are: its name was cleaned, and is known.
            if len(last) > MAX_NAME or b"\0" in last:
                raise _bad_name(name)
            return Place(folder, last)
        name = cleaned(name)
        parent, _, last = name.rstrip(b"/").rpartition(b"/")
        while last == b"." and parent:
            parent, _, last = parent.rstrip(b"/").rpartition(b"/")
        if _is_bad(last):
            raise _bad_name(name)
        if last in (b"", b"."):
            return Place(self._root, b".")
        return Place(self.folder(parent), last)

    def folder(self, path: bytes) -> Folder:
        """The directory *path*, its links followed; raises DataError and OSError as for a place."""
        if path == self._last[0]:
            return self._last[1]
        folder = self._walk(path)
        self._last = path, folder
        return folder

    def lstat(self, place: Place) -> os.stat_result:
        """What is at *place*; raises OSError."""
        return os.stat(place.name, dir_fd=place.folder.fd, follow_symlinks=False)

    def readlink(self, place: Place) -> bytes:
        """Text of the symbolic link at *place*; raises OSError."""
        return os.readlink(place.name, dir_fd=place.folder.fd)

    def xattrs(self, place: Place) -> Mapping[str, bytes]:
        """Extended attributes at *place*, of a link itself; raises OSError."""
        return _xattrs(place.folder.handle + place.name)

    def file_xattrs(self) -> Mapping[str, bytes]:
        """Those of the file that was opened last; raises OSError."""
        return _xattrs(self._file)

    def names(self, folder: Folder) -> list[bytes]:
        """Names in *folder*; raises OSError."""
        return os.listdir(folder.handle)  # noqa: PTH208 - pathlib decodes the names

    def open_file(self, place: Place) -> None:
        """Open the regular file at *place* for reading, for :meth:`take_file`; raises OSError.

        To be called only for what :meth:`lstat` has just shown to be a regular file: opening a device
        can have effects of its own.
        """
        self._close_file()
        self._file = open_untouched(place.name, place.folder.fd)
        if self._drop_cache:
            forget(self._file)

    def take_file(self) -> int:
        """The descriptor of the file that was opened last; it is the caller's to close."""
        taken, self._file = self._file, -1
        return taken

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self.take_file())

    def _walk(self, path: bytes) -> Folder:
        pending = path.split(b"/")[::-1]
        if any(map(_is_bad, pending)):
            raise _bad_name(path)
        here, links = self._root, 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":  # only a link's text still has one
                pending += here.path.rpartition(b"/")[0].split(b"/")[::-1]
                here = self._root
                continue
            try:
                here = self._down(here, name)
            except OSError as error:
                links += 1
                if error.errno not in (errno.ELOOP, errno.ENOTDIR) or links > MAX_LINKS:
                    raise
                text = _link_text(name, here, error)
                pending += text.split(b"/")[::-1]
                here = self._root if text.startswith(b"/") else here
        return here

    def _down(self, here: Folder, name: bytes) -> Folder:
        path = joined(here.path, name)
        known = self._folders.get(path)
        if known is not None:
            self._folders.move_to_end(path)
            return known
        folder = _folder(os.open(name, _FOLDER_FLAGS, dir_fd=here.fd), path)
        self._folders[path] = folder
        if len(self._folders) > OPEN_FOLDERS:
            _, oldest = self._folders.popitem(last=False)
            if oldest is self._last[1]:
                self._last = b"", self._root
            os.close(oldest.fd)
        return folder


def _xattrs(file: bytes | int) -> Mapping[str, bytes]:
    follow = isinstance(file, int)
    try:
        names = os.listxattr(file, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return _NO_XATTRS
        raise
    if not names:
        return _NO_XATTRS
    return {name: os.getxattr(file, name, follow_symlinks=follow) for name in names}


def cleaned(name: bytes) -> bytes:
    """*name* as containers-storage uses it: an inner ``..`` takes away the component before it.

    By the text alone, as Go's ``filepath.Clean`` does, before any link is looked at
    (containers/storage ``pkg/archive``, UnpackLayer). One that leads above the root stays, and is
    refused there as well.
    """
    if b".." not in name:
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b".." and parts and parts[-1] != b"..":
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts) or b"."


def joined(folder: bytes, name: bytes) -> bytes:
    """The path of *name* in *folder*, both relative to the same root."""
    return folder + b"/" + name if folder else name


def shown(path: bytes) -> str:
    """A path of the image for people; ``/`` is the layer's root."""
    return printable("/" + os.fsdecode(path).removeprefix("./").strip("/"))


def _folder(fd: int, path: bytes) -> Folder:
    return Folder(fd, path, b"/proc/self/fd/%d/" % fd)


def _link_text(name: bytes, here: Folder, found: OSError) -> bytes:
    """Text of the link *name*; raises *found* when it is not a link."""
    try:
        return os.readlink(name, dir_fd=here.fd)
    except OSError:
        raise found from None


def _is_bad(component: bytes) -> bool:
    return component == b".." or b"\0" in component or len(component) > MAX_NAME


def _bad_name(path: bytes) -> DataError:
    """What is said of a name with such a component."""
    return DataError(
        shown(path), "is not a name that a layer can hold: '..', NUL or a component too long"
    )
