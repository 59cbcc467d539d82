"""Finds Quadlet units inside a root and loads them with the drop-ins that apply."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from errno import ENOENT

from installer_plugin.declarations.quadlet import (
    UNIT_DIRECTORIES,
    USER_UNITS,
    QuadletUnit,
    drop_in_directories,
)
from installer_plugin.declarations.unit_syntax import Unit, parse_unit
from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs, printable

MASK = "/dev/null"
"""A link to it stands for an empty file; the device itself is never opened."""
MAX_DEPTH = 64
"""Directories above one that is searched; walking deeper costs the square of the depth."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A unit, and what is wrong with its drop-ins (those are left out)."""

    unit: QuadletUnit
    errors: tuple[DataError, ...]


class UnitDirectories:
    """The directories of a root that Quadlet's system generator searches, in its order."""

    def __init__(self, root: Rootfs) -> None:
        self._root = root
        self._entries = dict(_search(root))
        """Names in each directory; most of what is looked for is not there, this knows it."""

    def name_of(self, link: str) -> str:
        """The name by which Quadlet knows the unit that *link* leads to; raises OSError.

        A unit may be a link itself. Quadlet goes by the name in its own directories, not by that of
        the file at the end.
        """
        hops = list(_hops(self._root, link))
        known = [name for folder, name in hops if folder in self._entries]
        return known[0] if known else hops[-1][1]

    def find(self, name: str, *, beside: str) -> str | None:
        """Path of the unit *name*: in Quadlet's directories, then in that of the file *beside*."""
        if "/" in name or "\0" in name:
            return None
        for folder, names in self._with(beside).items():
            path = _join(folder, name)
            if name not in names:
                continue
            if _is_masked(self._root, path) or self._root.exists(path):
                return path
        return None

    def load(self, name: str, path: str) -> Loaded:
        """Load the unit *name* from *path*; raises DataError when its own file is not readable."""
        text = _read(self._root, path)
        own = parse_unit(text, printable(path))
        drop_ins, errors = self._drop_ins(name, path)
        merged = own.merged(drop_ins)
        unit = QuadletUnit(name=name, path=path, text=text, own=own, merged=merged)
        return Loaded(unit, tuple(errors))

    def shadow(self, name: str, path: str) -> str | None:
        """Path of another unit that Quadlet takes instead of *path* for *name*, if there is one."""
        found = self.find(name, beside=path)
        if found is None or (self._root.exists(found) and self._root.resolve(found).path == path):
            return None
        return found

    def _with(self, beside: str) -> Mapping[str, Collection[str]]:
        """The search path; the own directory of a unit that lies elsewhere comes last."""
        own = beside.rpartition("/")[0]
        if own not in self._entries:
            return {**self._entries, own: _names(self._root, own)}
        return self._entries

    def _drop_ins(self, name: str, path: str) -> tuple[list[Unit], list[DataError]]:
        """Drop-ins in the order in which they apply: by file name, whatever their directory."""
        found: dict[str, str] = {}
        errors: list[DataError] = []
        for directory in self._drop_in_directories(name, path):
            try:
                files = _list(self._root, directory)
            except DataError as error:
                errors.append(error)
                continue
            for file in files:
                if file.endswith(".conf"):
                    found.setdefault(file, f"{directory}/{file}")
        drop_ins: list[Unit] = []
        for file in sorted(found):
            try:
                drop_ins.append(parse_unit(_read(self._root, found[file]), printable(found[file])))
            except DataError as error:
                errors.append(error)
        return drop_ins, errors

    def _drop_in_directories(self, name: str, path: str) -> Iterator[str]:
        wanted = drop_in_directories(name)
        for folder, names in self._with(path).items():
            yield from (_join(folder, directory) for directory in wanted if directory in names)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _search(root: Rootfs) -> Iterator[tuple[str, Collection[str]]]:
    """Directories in search order with the names in them; each once, whatever links lead to it."""
    seen: set[str] = set()
    users = _resolved_directory(root, USER_UNITS) or USER_UNITS
    for top in UNIT_DIRECTORIES:
        pending = [top]
        while pending:
            path = _resolved_directory(root, pending.pop())
            # The generator compares strings here, so it leaves out "users-extra" as well.
            if path is None or path in seen or path.endswith(".d") or path.startswith(users):
                continue
            if path.count("/") >= MAX_DEPTH:
                continue
            seen.add(path)
            names = _names(root, path)
            yield path, frozenset(names)
            pending += [_join(path, name) for name in reversed(names)]


def _names(root: Rootfs, path: str) -> tuple[str, ...]:
    try:
        return root.list(path)
    except OSError:
        return ()


def _resolved_directory(root: Rootfs, path: str) -> str | None:
    try:
        resolved = root.resolve(path).path
    except OSError:
        return None
    return resolved if root.is_dir(resolved) else None


def _hops(root: Rootfs, link: str) -> Iterator[tuple[str, str]]:
    """Directory and name of each place that the chain of links beginning at *link* goes through."""
    while root.is_link(link):
        folder, _, _ = link.rpartition("/")
        text = root.readlink(link)
        target = text if text.startswith("/") else f"{folder}/{text}"
        above, _, name = target.rpartition("/")
        folder = root.resolve(above).path
        yield folder, name
        link = _join(folder, name)


def _is_masked(root: Rootfs, path: str) -> bool:
    try:
        return root.is_link(path) and root.readlink(path) == MASK
    except OSError:
        return False


def _read(root: Rootfs, path: str) -> str:
    if _is_masked(root, path):
        return ""
    try:
        return root.read_text(path)
    except OSError as error:
        raise DataError(printable(path), f"cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(printable(path), error.message) from error


def _list(root: Rootfs, path: str) -> tuple[str, ...]:
    try:
        return root.list(path)
    except OSError as error:
        if error.errno == ENOENT:  # a link that leads nowhere is passed over
            return ()
        raise DataError(printable(path), f"cannot be listed: {error.strerror}") from error
