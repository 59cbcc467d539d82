"""What a layer's tar headers say, compared with the layer's tree, in the order of the stream.

The stream's hash does not cover what unpacking turned into file attributes. Whiteouts of the stream
(``.wh.NAME``) are character devices 0:0 on disk, and its opaque marks (``.wh..wh..opq``) an attribute
of the directory. Not checked, because the stream says nothing binding about it: times of directories
and links, owners of whiteouts, and directories that the stream only implies (they have to belong to
root and to have no special mode bits).

The layer's root is special: containers-storage makes it before it unpacks, with the mode of the
parent layer's root, and passes over an entry ``./`` (but not ``/``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import file_type
from installer_plugin.storage.layer import tar_header
from installer_plugin.storage.layer.attributes import (
    OPAQUE,
    Fault,
    faults,
    is_as_said,
    is_whiteout,
    mode_fault,
    type_fault,
    xattr_faults,
)
from installer_plugin.storage.layer.defects import Defect, Defects
from installer_plugin.storage.layer.tar_header import Header
from installer_plugin.storage.layer.tree import LayerTree, Place, joined, shown

WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
ROOT_MODES = (0o555, 0o755)
"""Of a base layer's root: what containers-storage makes (defaultPerms), before and after 2020."""


Seen = tuple[os.stat_result, Mapping[str, bytes]]
"""Status and extended attributes of what is at a place."""


class Made(NamedTuple):
    """What the entries of a part of a layer have made, when nothing was wrong with any of them."""

    names: Mapping[bytes, set[bytes]]
    """By directory."""
    opaque: tuple[set[bytes], set[bytes]]
    """Directories that should be, and those that are."""
    whiteouts: set[bytes]
    root: tuple[set[int], set[tuple[int, int]]]
    """Modes and owners that the layer's root may have."""


class MetadataCheck:
    """Takes a layer's headers one by one, then :meth:`finish`."""

    def __init__(
        self, tree: LayerTree, defects: Defects, parent_root: os.stat_result | None
    ) -> None:
        """*parent_root*: status of the parent layer's root; None for a base layer."""
        self._tree = tree
        self._defects = defects
        self._root_modes = set(ROOT_MODES)
        self._root_owners = {(0, 0)}
        if parent_root is not None:
            self._root_modes |= {parent_root.st_mode & 0o777, parent_root.st_mode & 0o755}
            self._root_owners.add((parent_root.st_uid, parent_root.st_gid))
        self._names: dict[bytes, set[bytes]] = {b"": set()}
        """Names the stream has made, by directory."""
        self._opaque: set[bytes] = set()
        self._seen_opaque: set[bytes] = set()
        self._whiteouts: set[bytes] = set()
        self._held_whiteouts: dict[bytes, str] = {}
        self._held_faults: dict[tuple[int, int], dict[str, Defect]] = {}

    def check(self, header: Header) -> Place | None:
        """Compare one entry; where it is, when it is a file that has content, and of the right size.

        Such a file is open then: the tree's :meth:`~LayerTree.take_file` gives it.
        Raises DataError for a name that no layer can hold.
        """
        try:
            place = self._tree.place(header.name)
        except OSError as error:
            self._unreachable(header, error)
            return None
        if header.kind == tar_header.GLOBAL:
            self._names.setdefault(place.folder.path, set())  # unpacking makes its directory
            return None
        if place.name.startswith(WHITEOUT_PREFIX):
            self._mark(place)
            return None
        if place.name == b".":
            self._root_modes.add(header.mode)
            self._root_owners.add((header.uid, header.gid))
            return None
        names = self._names.get(place.folder.path)
        if names is None:
            names = self._names[place.folder.path] = set()
        if place.name in names and not self._replaces_whiteout(place) and header.size:
            self._defects.add(place.path, "is twice in the layer's tar stream, expected once")
            return None
        names.add(place.name)
        return self._compare(header, place)

    def finish(self, tick: Callable[[], None]) -> None:
        """Check what only the whole stream can say; *tick* is called now and then and may raise."""
        for path, message in self._held_whiteouts.items():
            # A whiteout below a whiteout cannot be made, and is not needed.
            if not any(ancestor in self._whiteouts for ancestor in _ancestors(path)):
                self._defects.add(path, message)
        for held in self._held_faults.values():
            for defect in held.values():
                self._defects.append(defect)
        self._check_root()
        self._check_extra(tick)
        for path in sorted(self._opaque ^ self._seen_opaque):
            seen, expected = ("marked", "not") if path in self._seen_opaque else ("not", "marked")
            self._defects.add(path, f"is {seen} opaque, expected {expected}: {OPAQUE}")

    def made(self) -> Made | None:
        """What the entries so far have made; None when something may be wrong with them."""
        if self._held_whiteouts or self._held_faults:
            return None
        opaque = self._opaque, self._seen_opaque
        return Made(self._names, opaque, self._whiteouts, (self._root_modes, self._root_owners))

    def take(self, made: Made) -> bool:
        """Add what a part has made; False when it has a name that is known, so that order matters."""
        for path, names in made.names.items():
            known = self._names.setdefault(path, set())
            if not known.isdisjoint(names):
                return False
            known |= names
        self._opaque |= made.opaque[0]
        self._seen_opaque |= made.opaque[1]
        self._whiteouts |= made.whiteouts
        self._root_modes |= made.root[0]
        self._root_owners |= made.root[1]
        return True

    def _unreachable(self, header: Header, error: OSError) -> None:
        if header.kind == tar_header.GLOBAL:
            return
        folder, _, name = header.name.rstrip(b"/").rpartition(b"/")
        if name.startswith(WHITEOUT_PREFIX) and name != OPAQUE_NAME:
            path = joined(
                folder.removeprefix(b"./").lstrip(b"/"), name.removeprefix(WHITEOUT_PREFIX)
            )
            self._held_whiteouts[path] = f"cannot be reached: {error.strerror}, expected a whiteout"
        else:
            self._defects.add(header.name, f"cannot be reached: {error.strerror}")

    def _replaces_whiteout(self, place: Place) -> bool:
        """Whether the stream removed the name just before it made it again."""
        if place.path not in self._whiteouts:
            return False
        self._whiteouts.remove(place.path)
        self._held_whiteouts.pop(place.path, None)
        return True

    def _mark(self, place: Place) -> None:
        """A whiteout or an opaque mark."""
        if place.name == OPAQUE_NAME:
            self._opaque.add(place.folder.path)
            self._names.setdefault(place.folder.path, set())
            return
        removed = Place(place.folder, place.name.removeprefix(WHITEOUT_PREFIX))
        if removed.name in {b"", b".", b".."}:
            raise DataError(shown(place.path), "is not a usable whiteout, expected .wh. and a name")
        path = removed.path
        self._names.setdefault(place.folder.path, set()).add(removed.name)
        self._whiteouts.add(path)
        expected = "expected a whiteout (character device 0:0)"
        try:
            seen = self._tree.lstat(removed)
        except OSError as error:
            # Kept back: an entry of the same name may follow and replace the whiteout.
            self._held_whiteouts[path] = f"is missing: {error.strerror}, {expected}"
            return
        if not is_whiteout(seen):
            self._held_whiteouts[path] = f"is a {file_type(seen.st_mode)}, {expected}"

    def _compare(self, header: Header, place: Place) -> Place | None:
        try:
            seen = self._tree.lstat(place)
            # A regular file, as long as the content that comes next in the stream.
            has_content = 0 < header.size == seen.st_size and stat.S_ISREG(seen.st_mode)
            if has_content:
                self._tree.open_file(place)  # what is asked of a descriptor is quicker answered
                xattrs = self._tree.file_xattrs()
            else:
                xattrs = self._tree.xattrs(place)
            if not xattrs and is_as_said(header, seen):
                return place if has_content else None
            if header.kind == tar_header.HARD_LINK:
                self._compare_link(header, place, (seen, xattrs))
                return None
            wrong_type = type_fault(header, seen)
            if wrong_type is not None:
                self._defects.add(place.path, wrong_type.message)
                return None
            if header.kind == tar_header.SYMLINK:
                self._compare_target(header, place)
            elif header.kind == tar_header.DIRECTORY:
                self._names.setdefault(place.path, set())
            self._report(place, seen, self._faults(header, place, (seen, xattrs)))
        except OSError as error:
            self._defects.add(place.path, _unusable(error))
            return None
        return place if has_content else None

    def _compare_target(self, header: Header, place: Place) -> None:
        text = self._tree.readlink(place)
        if text != header.target:
            wanted = os.fsdecode(header.target)
            self._defects.add(place.path, f"leads to {os.fsdecode(text)!r}, expected {wanted!r}")

    def _compare_link(self, header: Header, place: Place, found_there: Seen) -> None:
        path, seen = place.path, found_there[0]
        found = self._faults(header, place, found_there)
        try:
            target = self._tree.lstat(self._tree.place(header.target))
        except OSError:
            target = None
        key = seen.st_dev, seen.st_ino
        if target is None or key != (target.st_dev, target.st_ino):
            self._defects.add(
                path, f"is a file of its own, expected a hard link to {shown(header.target)}"
            )
            return
        # Where the headers of one file differ, whichever was unpacked last has won.
        held = self._held_faults.get(key, {})
        for attribute in held.keys() - {fault.attribute for fault in found}:
            del held[attribute]

    def _faults(self, header: Header, place: Place, found_there: Seen) -> tuple[Fault, ...]:
        seen, xattrs = found_there
        if OPAQUE in xattrs and stat.S_ISDIR(seen.st_mode):
            self._note_opaque(place.path, xattrs[OPAQUE])
        if OPAQUE in header.xattrs:
            self._opaque.add(place.path)
        return tuple(faults(header, seen, xattrs))

    def _report(self, place: Place, seen: os.stat_result, found: Iterable[Fault]) -> None:
        for fault in found:
            if seen.st_nlink > 1 and stat.S_ISREG(seen.st_mode) and fault.attribute != "size":
                held = self._held_faults.setdefault((seen.st_dev, seen.st_ino), {})
                held.setdefault(fault.attribute, Defect(shown(place.path), fault.message))
            else:
                self._defects.add(place.path, fault.message)

    def _note_opaque(self, path: bytes, value: bytes) -> None:
        if value == b"y":
            self._seen_opaque.add(path)
        else:
            self._defects.add(path, f"has {OPAQUE} {value!r}, expected b'y' or not set")

    def _check_root(self) -> None:
        place = self._tree.place(b".")
        seen = self._tree.lstat(place)
        if stat.S_IMODE(seen.st_mode) not in self._root_modes:
            modes = " or ".join(f"{mode:04o}" for mode in sorted(self._root_modes))
            self._defects.add(b"", f"has mode {stat.S_IMODE(seen.st_mode):04o}, expected {modes}")
        if (seen.st_uid, seen.st_gid) not in self._root_owners:
            owners = " or ".join(f"{uid}:{gid}" for uid, gid in sorted(self._root_owners))
            found = f"{seen.st_uid}:{seen.st_gid}"
            self._defects.add(b"", f"belongs to {found}, expected {owners}")
        xattrs = self._tree.xattrs(place)
        if OPAQUE in xattrs:
            self._note_opaque(b"", xattrs[OPAQUE])

    def _check_extra(self, tick: Callable[[], None]) -> None:
        """Look into every directory of the layer for what the stream does not have."""
        implied = {above for path in self._names for above in (path, *_ancestors(path))}
        implied.discard(b"")
        for path in implied:
            folder, _, name = path.rpartition(b"/")
            if name not in self._names.setdefault(folder, set()):
                self._names[folder].add(name)
                self._check_implied(Place(self._tree.folder(folder), name))
        for path, expected in self._names.items():
            tick()
            names = self._tree.names(self._tree.folder(path))
            if not expected.issuperset(names):
                for name in sorted(set(names) - expected):
                    self._defects.add(
                        joined(path, name), "is not in the image's layer, expected nothing here"
                    )

    def _check_implied(self, place: Place) -> None:
        """A directory without a tar header; unpacking makes it for what is in it."""
        seen, xattrs = self._tree.lstat(place), self._tree.xattrs(place)
        if (seen.st_uid, seen.st_gid) != (0, 0):
            owner = f"{seen.st_uid}:{seen.st_gid}"
            self._defects.add(place.path, f"belongs to {owner}, expected 0:0: no tar header has it")
        if stat.S_IMODE(seen.st_mode) & ~0o777:
            self._defects.add(place.path, mode_fault(seen, 0o755).message)
        for fault in xattr_faults({}, xattrs):
            self._defects.add(place.path, fault.message)
        if OPAQUE in xattrs:
            self._note_opaque(place.path, xattrs[OPAQUE])


def _ancestors(path: bytes) -> Iterable[bytes]:
    """Directories above *path*, nearest first, without the root."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


def _unusable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be read: {error.strerror}"
