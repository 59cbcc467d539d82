"""Copies a layer's tree with everything that layers are made of, alone or together with others.

Several processes that copy one tree all walk all of its directories, in the same order, and make those
that are missing; each copies a bundle of entries, then the next one that nobody has taken. The last to
end gives the directories their attributes, when all that is in them has been made. Whatever goes wrong
here, or when the tree changes meanwhile, verification finds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from installer_plugin.errors import DataError, is_full
from installer_plugin.files.rootfs import Closing
from installer_plugin.storage.layer.entry_copy import AHEAD_FILES, EntryCopy, Folder
from installer_plugin.storage.layer.file_copy import Moved, copy_xattrs
from installer_plugin.storage.layer.tree import joined, shown

BUNDLE = 128
"""Entries that one process takes at a time; the last bundle may be the largest file."""
OPEN_LEVELS = 64
"""Directories that are kept open while the tree goes deeper."""

READ_HINT = "look at the source's disk (dmesg), or remove the image there and pull it again"
WRITE_HINT = "look at the target's file system (df, dmesg)"

TakeTurn = Callable[[], int]
"""The next number, of those from 0 on, that no other process has been given."""


def copy_tree(source: int, target: int, moved: Moved) -> None:
    """Copy the directory *source* onto the empty directory *target*, both open descriptors.

    Raises OSError when the target is full, and DataError with the path in the tree for everything else.
    """
    with EntryCopy(target, moved) as entries, _TreeCopy(entries) as copy, _blamed(entries):
        copy.run(source, target)


def copy_part(source: int, target: int, moved: Moved, take_turn: TakeTurn, links: int) -> None:
    """Copy what nobody else copies of *source* onto *target*; directories get no attributes yet.

    *links*: an open directory on the target's file system, shared by all who copy the tree: files of
    several names are made there. Raises as :func:`copy_tree` does.
    """
    with (
        EntryCopy(target, moved, links) as entries,
        _PartCopy(entries, take_turn) as copy,
        _blamed(entries),
    ):
        copy.run(source, target)


def finish_parts(source: int, target: int, links: int) -> None:
    """Give the directories of a tree their attributes, once all its parts are copied; empty *links*.

    Raises as :func:`copy_tree` does.
    """
    with EntryCopy(target, lambda _: None) as entries, _Finish(entries) as copy, _blamed(entries):
        copy.run(source, target)
        # Opened again: on btrfs a directory that is open does not show what is made later (Linux 6.5).
        for name in os.listdir(f"/proc/self/fd/{links}/."):  # noqa: PTH208 - the same for all names
            os.unlink(name, dir_fd=links)


@contextmanager
def _blamed(copy: EntryCopy) -> Iterator[None]:
    """Say in an error what *copy* was at; a full disk is for others to explain."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise
        hint = READ_HINT if copy.reading else WRITE_HINT
        raise DataError(shown(copy.at), _blame(copy, error), hint=hint) from error
    except DataError as error:
        raise DataError(shown(copy.at), error.message, hint=error.hint) from error


def _blame(copy: EntryCopy, error: OSError) -> str:
    """What went wrong on which side."""
    if error.errno == errno.ENODATA:
        return f"cannot be read from the source: {error.strerror}"
    if error.errno == errno.EIO:
        return f"cannot be copied: {error.strerror}, of the source's disk or the target's"
    verb = "read from the source" if copy.reading else "written to the target"
    return f"cannot be {verb}: {error.strerror}"


class _TreeCopy(Closing):
    """One tree on its way. Use as a context manager."""

    def __init__(self, entries: EntryCopy) -> None:
        self._entries = entries
        self._folders: list[Folder] = []
        """From the root to the one that is being copied."""

    def close(self) -> None:
        """Close all directories that are open."""
        for folder in self._folders:
            folder.close()

    def run(self, source: int, target: int) -> None:
        """Copy the directory *source*, depth first; raises OSError."""
        self._enter(".", b"", source, target)
        while self._folders:
            folder = self._folders[-1]
            if folder.below:
                name = folder.below.pop()
                path = joined(folder.path, os.fsencode(name))
                self._entries.is_at(path, reading=False)
                self._make_folder(name, folder.target)
                self._enter(name, path, folder.source, folder.target)
            else:
                self._entries.is_at(folder.path, reading=True)
                self._finish(folder)
                self._leave()

    def _enter(self, name: str, path: bytes, source: int, target: int) -> None:
        folder = Folder(path)
        self._folders.append(folder)
        self._entries.is_at(path, reading=True)
        folder.open(name, source, target)
        if len(self._folders) > OPEN_LEVELS:
            self._folders[-OPEN_LEVELS - 1].close()
        self._fill(folder)

    def _leave(self) -> None:
        folder = self._folders[-1]
        if len(self._folders) > 1 and self._folders[-2].source < 0:
            self._folders[-2].open("..", folder.source, folder.target)
        self._folders.pop().close()

    def _fill(self, folder: Folder) -> None:
        """Copy what is in *folder*, but note directories for later.

        In the order of inodes: it is about the order in which they lie on the disk.
        """
        with os.scandir(folder.source) as found:
            entries = sorted(found, key=os.DirEntry.inode)
        names = [each.name for each in entries if not each.is_dir(follow_symlinks=False)]
        if len(names) != len(entries):
            folder.below += [x.name for x in entries if x.is_dir(follow_symlinks=False)]
        for start in range(0, len(names), AHEAD_FILES):
            self._copy(folder, names[start : start + AHEAD_FILES])

    def _make_folder(self, name: str, target: int) -> None:
        os.mkdir(name, 0o700, dir_fd=target)

    def _copy(self, folder: Folder, names: Sequence[str]) -> None:
        self._entries.copy(folder, names)

    def _finish(self, folder: Folder) -> None:
        """Give *folder* its attributes: all that is in it has been made."""
        seen = os.fstat(folder.source)
        self._entries.is_at(folder.path, reading=False)
        os.fchown(folder.target, seen.st_uid, seen.st_gid)
        os.fchmod(folder.target, stat.S_IMODE(seen.st_mode))
        copy_xattrs(folder.source, folder.target)
        os.utime(folder.target, ns=(seen.st_atime_ns, seen.st_mtime_ns))


class _PartCopy(_TreeCopy):
    """One of several that copy a tree."""

    def __init__(self, entries: EntryCopy, take_turn: TakeTurn) -> None:
        super().__init__(entries)
        self._take_turn = take_turn
        self._mine = take_turn()
        """Number of the bundle that is ours."""
        self._passed = 0
        """Entries that were met so far."""

    def _make_folder(self, name: str, target: int) -> None:
        with suppress(FileExistsError):  # made by another process
            super()._make_folder(name, target)

    def _copy(self, folder: Folder, names: Sequence[str]) -> None:
        bundle = self._passed // BUNDLE
        self._passed += len(names)
        while self._mine < bundle:
            self._mine = self._take_turn()
        if self._mine == bundle:
            super()._copy(folder, names)

    def _finish(self, folder: Folder) -> None:
        """Leave it to whoever ends last."""


class _Finish(_TreeCopy):
    """What is left when all parts have been copied."""

    def _make_folder(self, name: str, target: int) -> None:
        """It has been made."""

    def _copy(self, folder: Folder, names: Iterable[str]) -> None:
        """They have been copied."""
