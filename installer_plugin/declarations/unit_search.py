"""Finds Quadlet units inside a root and loads them with the drop-ins that apply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from errno import ENOENT

from installer_plugin.declarations.podman_version import installed_podman
from installer_plugin.declarations.quadlet import (
    UNIT_DIRECTORIES,
    USER_UNITS,
    QuadletUnit,
    drop_in_directories,
    own_drop_in_directories,
)
from installer_plugin.declarations.quadlet_rules import DropIns, QuadletRules, unit_extensions
from installer_plugin.declarations.unit_syntax import Unit, parse_unit
from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs, printable

MASK = "/dev/null"
"""A link to it stands for an empty file; the device itself is never opened."""
_SCANNED = (".container", ".image", ".volume")
_UNIT_LIMIT = 16 << 20
"""Bytes of a unit that is read for no more than its syntax."""
MAX_DEPTH = 64
"""Directories above one that is searched; walking deeper costs the square of the depth."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A unit, and what is wrong with its drop-ins (those are left out)."""

    unit: QuadletUnit
    errors: tuple[DataError, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """Every unit that Quadlet's system generator finds in a root."""

    units: tuple[QuadletUnit, ...]
    """Containers, images and volumes, those that another file shadows left out."""
    folders: Mapping[str, str]
    """Directory in which each of them was found, by name."""
    malformed: Mapping[str, tuple[DataError, ...]]
    """What the generator fails to load, by directory."""


class UnitDirectories:
    """The directories of a root that Quadlet's system generator searches, in its order."""

    def __init__(self, root: Rootfs) -> None:
        """Search *root*."""
        self._root = root
        self.rules = _rules(root)
        """Those of the podman that *root* has."""
        self._entries = dict(_search(root))
        """Names in each directory; most of what is looked for is not there, this knows it."""

    def searched(self, name: str, path: str) -> bool:
        """Whether the system's generator loads the unit *name*, whose file is at *path*."""
        found = self._first(name, self._entries)
        return found is not None and self._leads_to(found, path)

    def _leads_to(self, link: str, path: str) -> bool:
        try:
            return self._root.resolve(link).path == path
        except OSError:
            return False

    def scan(self) -> Scanned:
        """Load every unit that the system's generator finds; raises OSError."""
        units: list[QuadletUnit] = []
        malformed: dict[str, tuple[DataError, ...]] = {}
        seen: dict[str, str] = {}
        extensions = unit_extensions(self.rules.version)
        for folder, names in self._entries.items():
            errors: list[DataError] = []
            for name in sorted(names - seen.keys()):
                if not name.endswith(extensions):
                    continue
                try:
                    unit = self._scanned(name, _join(folder, name))
                except DataError as error:
                    errors.append(error)
                    continue
                seen[name] = folder
                units += [unit] if name.endswith(_SCANNED) else []
            if errors:
                malformed[folder] = tuple(errors)
        return Scanned(units=tuple(units), folders=seen, malformed=malformed)

    def _scanned(self, name: str, path: str) -> QuadletUnit:
        """The unit as the generator takes it: its bytes need not be UTF-8, bad drop-ins are left out."""
        text = "" if _is_masked(self._root, path) else _lenient(self._root, path)
        own = parse_unit(text, printable(path))
        drop_ins, _ = self._drop_ins(name, path, self.rules.drop_ins)
        return QuadletUnit(
            name=name,
            path=self._followed(path),
            text=text,
            own=own,
            merged=own.merged(drop_ins),
        )

    def _followed(self, path: str) -> str:
        """Where *path* leads; a link that leads nowhere stays where it is."""
        try:
            return self._root.resolve(path).path
        except OSError:
            return path

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
        return self._first(name, self._with(beside))

    def _first(self, name: str, entries: Mapping[str, frozenset[str]]) -> str | None:
        for folder, names in entries.items():
            path = _join(folder, name)
            if name not in names:
                continue
            if _is_masked(self._root, path) or self._root.exists(path):
                return path
        return None

    def load(self, name: str, path: str) -> Loaded:
        """Load the unit *name* from *path*, with the drop-ins that apply for the root's podman.

        Raises DataError when its own file is not readable.
        """
        text = _read(self._root, path)
        own = parse_unit(text, printable(path))
        drop_ins, errors = self._drop_ins(name, path, self.rules.drop_ins)
        merged = own.merged(drop_ins)
        unit = QuadletUnit(name=name, path=path, text=text, own=own, merged=merged)
        return Loaded(unit, tuple(errors))

    def merged_by(self, unit: QuadletUnit, rule: DropIns) -> Unit:
        """A loaded unit with the drop-ins that apply by another rule; those with errors are left out."""
        drop_ins, _ = self._drop_ins(unit.name, unit.path, rule)
        return unit.own.merged(drop_ins)

    def shadow(self, name: str, path: str) -> str | None:
        """Path of another unit that Quadlet takes instead of *path* for *name*, if there is one."""
        found = self.find(name, beside=path)
        return None if found is None or self._leads_to(found, path) else found

    def _with(self, beside: str) -> Mapping[str, frozenset[str]]:
        """The search path; the own directory of a unit that lies elsewhere comes last."""
        own = beside.rpartition("/")[0]
        if own not in self._entries:
            return {**self._entries, own: frozenset(_names(self._root, own))}
        return self._entries

    def _drop_ins(self, name: str, path: str, rule: DropIns) -> tuple[list[Unit], list[DataError]]:
        """Drop-ins in the order in which they apply: by file name, whatever their directory."""
        found: dict[str, str] = {}
        errors: list[DataError] = []
        for directory in self._drop_in_directories(name, path, rule):
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

    def _drop_in_directories(self, name: str, path: str, rule: DropIns) -> Iterator[str]:
        """Those that exist; a file name in an earlier one hides the same name in later ones."""
        if rule is DropIns.NONE:
            return
        wanted = own_drop_in_directories(name) if rule is DropIns.OWN else drop_in_directories(name)
        folders = self._with(path).items()
        if rule is DropIns.BY_SEARCH_DIRECTORY:
            pairs = ((directory, folder) for folder in folders for directory in wanted)
        else:
            pairs = ((directory, folder) for directory in wanted for folder in folders)
        for directory, (folder, names) in pairs:
            if directory in names:
                yield _join(folder, directory)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _rules(root: Rootfs) -> QuadletRules:
    try:
        return QuadletRules(installed_podman(root))
    except DataError as error:
        # No package, no rule: the newest apply, and what depends on it says why.
        return QuadletRules(None, f"{error.subject} {error.message}")
    except OSError as error:
        return QuadletRules(None, f"the package database cannot be read: {error.strerror}")


def _search(root: Rootfs) -> Iterator[tuple[str, frozenset[str]]]:
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


def _lenient(root: Rootfs, path: str) -> str:
    """Text of a unit as the generator takes it, which does not ask for UTF-8."""
    try:
        return root.read_bytes(path, limit=_UNIT_LIMIT).decode(errors="surrogateescape")
    except OSError as error:
        raise DataError(printable(path), f"cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(printable(path), error.message) from error


def _list(root: Rootfs, path: str) -> tuple[str, ...]:
    try:
        return root.list(path)
    except OSError as error:
        if error.errno == ENOENT:  # a link that leads nowhere is ignored
            return ()
        raise DataError(printable(path), f"cannot be listed: {error.strerror}") from error
