"""Which images an OS image declares: from the links of bootc's directory to bound images."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from installer_plugin.declarations.boot_units import kind_of
from installer_plugin.declarations.bootc_reader import read_as_bootc
from installer_plugin.declarations.claimed_names import (
    Claims,
    bootc_claims,
    claimed_names,
    disputed,
    store_names,
)
from installer_plugin.declarations.declaration import Declaration, OtherPodman, Surroundings
from installer_plugin.declarations.default_stores import read_default_stores
from installer_plugin.declarations.lint import lint
from installer_plugin.declarations.quadlet import (
    SECTIONS,
    QuadletUnit,
    Setting,
    expand_percent,
    referenced_unit,
    setting,
)
from installer_plugin.declarations.quadlet_rules import DropIns
from installer_plugin.declarations.reference import parse_reference, placeholder, split_transport
from installer_plugin.declarations.store_access import BOOTC_STORE, service_environment
from installer_plugin.declarations.unit_search import UnitDirectories
from installer_plugin.declarations.unit_syntax import Unit
from installer_plugin.errors import DataError, Problem, SourceImageError
from installer_plugin.files.rootfs import Rootfs, printable
from installer_plugin.model import BoundImage, Location, UnitKind

LINKS = "usr/lib/bootc/bound-images.d"
_KINDS = {f".{kind}": kind for kind in UnitKind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """All that a root declares, usable or not."""

    images: tuple[BoundImage, ...]
    """In the order of the links' names."""
    problems: tuple[Problem, ...]
    declared: bool
    """False when the directory of links is absent or empty: the image binds nothing."""


def discover(root: Rootfs) -> Discovered:
    """Read every declaration below *root*; a bad one becomes a problem and stops no other."""
    try:
        names = _links(root)
    except SourceImageError as error:
        return Discovered(images=(), problems=error.problems, declared=True)
    directories = UnitDirectories(root)
    declarations: list[Declaration] = []
    problems: list[Problem] = []
    for name in names:
        try:
            declarations.append(_Entry(root, directories, name).read())
        except SourceImageError as error:
            problems += error.problems
        except OSError as error:
            problems.append(_unreadable(name, error))
    claims = claimed_names(declarations)
    problems += disputed(declarations, claims)
    return Discovered(
        images=tuple(_bound_images(declarations, claims, _surroundings(root, directories))),
        problems=tuple(problems),
        declared=bool(names),
    )


def require_sound(discovered: Discovered) -> tuple[BoundImage, ...]:
    """The bound images; raises SourceImageError with every problem when there is one."""
    if discovered.problems:
        raise SourceImageError(*discovered.problems)
    return discovered.images


def _links(root: Rootfs) -> tuple[str, ...]:
    try:
        return root.list(LINKS)
    except OSError as error:
        # A link that leads nowhere is not an absent directory: someone meant it to be there.
        if error.errno == errno.ENOENT and not root.has_entry(LINKS):
            return ()
        raise _refused(
            LINKS,
            f"cannot be listed ({error.strerror}), expected a directory",
            hint="make it a directory of symbolic links, or remove it",
        ) from error


def _unreadable(name: str, error: OSError) -> Problem:
    return Problem(
        subject=printable(name),
        where=printable(f"{LINKS}/{name}"),
        message=f"cannot be read: {error.strerror}, expected a readable link and file",
        hint="look into the log of the system that holds the root: its disk may fail",
    )


def _refused(subject: str, message: str, *, where: str = "", hint: str) -> SourceImageError:
    return SourceImageError.of(subject, message, where=where, hint=hint)


def _value(unit: Unit, kind: UnitKind) -> str:
    found = setting(unit, kind, "Image")
    return found.value if found else ""


class _Entry:
    """One entry of the directory on its way to a declaration; each step may refuse it."""

    def __init__(self, root: Rootfs, directories: UnitDirectories, name: str) -> None:
        self._root = root
        self._directories = directories
        self._name = name
        self._shown = printable(name)
        self._link = f"{LINKS}/{name}"

    def read(self) -> Declaration:
        """Follow the link and read what it leads to; raises SourceImageError."""
        self._require_link()
        kind = self._kind()
        path, leaves_root = self._target()
        unit = self._load(self._directories.name_of(self._link), path)
        self._require_no_auth_file(unit, kind)
        effective = self._image(unit, kind)
        found, image_unit = self._followed(unit, kind, effective)
        tagged = image_unit or (unit if kind is UnitKind.IMAGE else None)
        return Declaration(
            kind=kind,
            location=self._at(found.path, found.line),
            reference=self._reference(found, "Image="),
            unit=unit,
            own=setting(unit.own, kind, "Image"),
            effective=effective,
            image_unit=image_unit,
            image_tag=self._image_tag(tagged),
            bootc=read_as_bootc(unit.text, kind),
            shadow=self._shadow(unit.name, path),
            leaves_root=leaves_root,
            is_service=self._directories.searched(unit.name, path),
            by_other_podman=self._by_other_podman(unit, image_unit),
        )

    def _by_other_podman(self, *units: QuadletUnit | None) -> tuple[OtherPodman, ...]:
        """Where other podmans merge the drop-ins of *units* to another ``Image=``."""
        return tuple(
            OtherPodman(releases=rule.releases, own=own, other=other)
            for unit in units
            if unit is not None and (kind := kind_of(unit)) is not None
            for rule in DropIns
            if rule.is_current
            for own in (_value(unit.merged, kind),)
            for other in (_value(self._directories.merged_by(unit, rule), kind),)
            if own != other
        )

    def _shadow(self, name: str, path: str) -> str | None:
        found = self._directories.shadow(name, path)
        return None if found is None else printable(found)

    def _at(self, path: str, line: int | None) -> Location:
        return Location(link=printable(self._link), unit=printable(path), line=line)

    def _refuse(self, message: str, *, where: str = "", hint: str) -> SourceImageError:
        return _refused(self._shown, message, where=where or printable(self._link), hint=hint)

    def _require_link(self) -> None:
        try:
            self._name.encode()
        except UnicodeEncodeError:
            hint = "rename it: bootc refuses the whole directory"
            raise self._refuse("its name is not UTF-8, expected text", hint=hint) from None
        kind = self._root.type_of(self._link)
        if kind != "symbolic link":
            raise self._refuse(
                f"is a {kind}, expected a symbolic link to an .image or .container file",
                hint="replace it by a link, or remove it: bootc refuses the whole directory",
            )

    def _kind(self) -> UnitKind:
        suffix = PurePosixPath(self._name).suffix
        if suffix not in _KINDS:
            seen = f"ends in {printable(suffix)!r}" if suffix else "has no extension"
            raise self._refuse(
                f"{seen}, expected .image or .container",
                hint="rename the link: its own extension tells bootc what it leads to",
            )
        return _KINDS[suffix]

    def _target(self) -> tuple[str, bool]:
        """Path of the file at the end of the link, and whether the link climbed above the root."""
        try:
            resolved = self._root.resolve(self._link)
        except OSError as error:
            raise self._unreachable(error) from error
        return resolved.path, resolved.climbed

    def _unreachable(self, error: OSError) -> SourceImageError:
        if error.errno == errno.ELOOP:
            return self._refuse("leads in a circle, expected a file", hint="correct the link")
        if error.errno != errno.ENOENT:
            seen = f"cannot be followed: {error.strerror}"
            return self._refuse(seen, hint="correct the link or what lies on its way")
        text = printable(self._root.readlink(self._link))
        if self._root.climbs(self._link):
            return self._refuse(
                f"leads out of the root ({text}), expected a file in the image",
                hint="write the link as an absolute path, it is followed inside the image",
            )
        return self._refuse(
            f"dangles: {text} does not exist, expected a file in the image",
            hint="add the unit file to the image, or remove the link",
        )

    def _load(self, name: str, path: str) -> QuadletUnit:
        """The unit with its drop-ins; one that cannot be read may hide the image that runs."""
        try:
            loaded = self._directories.load(name, path)
        except DataError as error:
            raise SourceImageError(self._data_problem(error)) from error
        if loaded.errors:
            raise SourceImageError(*map(self._data_problem, loaded.errors))
        return loaded.unit

    def _data_problem(self, error: DataError) -> Problem:
        return Problem(
            subject=self._shown,
            message=error.message,
            where=f"{printable(self._link)} -> {error.subject}",
            hint="correct the file; it has to be a small UTF-8 text file in unit syntax",
        )

    def _require_no_auth_file(self, unit: QuadletUnit, kind: UnitKind) -> None:
        found = setting(unit.own, kind, "AuthFile")
        if kind is UnitKind.IMAGE and found is not None:
            raise self._refuse(
                "AuthFile= is set, expected none: bootc refuses it, also when it is empty",
                where=str(self._at(found.path, found.line)),
                hint="remove AuthFile=, bootc's own pull secret is /etc/ostree/auth.json",
            )

    def _image(self, unit: QuadletUnit, kind: UnitKind) -> Setting:
        section = SECTIONS[kind]
        found = setting(unit.merged, kind, "Image")
        if found is None:
            raise self._refuse(
                f"has no Image= in [{section}]",
                where=str(self._at(unit.path, None)),
                hint=self._missing_image_hint(unit, kind),
            )
        if not found.value:
            raise self._refuse(
                f"Image= in [{section}] is empty, expected an image reference",
                where=str(self._at(found.path, found.line)),
                hint="set Image=, or remove the link",
            )
        if kind is UnitKind.CONTAINER and self._has_rootfs(unit):
            raise self._refuse(
                "has Image= and Rootfs=, expected one of them: Quadlet refuses the unit",
                where=str(self._at(found.path, found.line)),
                hint="remove Rootfs=, or remove the link",
            )
        return found

    @staticmethod
    def _has_rootfs(unit: QuadletUnit) -> bool:
        found = setting(unit.merged, UnitKind.CONTAINER, "Rootfs")
        return found is not None and bool(found.value)

    def _missing_image_hint(self, unit: QuadletUnit, kind: UnitKind) -> str:
        for other in UnitKind:
            if other is not kind and setting(unit.merged, other, "Image") is not None:
                return f"[{SECTIONS[other]}] has one: let the link's name end in .{other}"
        keys = {a.key for a in unit.merged.assignments if a.key.lower() == "image"}
        if keys - {"Image"}:
            return f"write Image=, not {printable(min(keys - {'Image'}))}="
        if kind is UnitKind.CONTAINER and self._has_rootfs(unit):
            return "a container with Rootfs= has no image to bind: remove the link"
        return "set Image=, or remove the link"

    def _followed(
        self, unit: QuadletUnit, kind: UnitKind, image: Setting
    ) -> tuple[Setting, QuadletUnit | None]:
        """The setting that names an image, and the ``.image`` unit it came from, if from one."""
        name = referenced_unit(image.value) if kind is UnitKind.CONTAINER else None
        if name is None:
            return image, None
        where = str(self._at(image.path, image.line))
        if name.endswith(".build"):
            raise self._refuse(
                f"Image={printable(name)} is built on the running system, expected an image",
                where=where,
                hint="bind an image from a registry: a .build unit's image cannot be installed",
            )
        path = self._directories.find(name, beside=unit.path)
        if path is None:
            raise self._refuse(
                f"Image={printable(name)} is a unit, and in none of Quadlet's directories",
                where=where,
                hint="add the .image unit to /usr/share/containers/systemd",
            )
        image_unit = self._load(name, path)
        return self._image(image_unit, UnitKind.IMAGE), image_unit

    def _image_tag(self, unit: QuadletUnit | None) -> str | None:
        found = setting(unit.merged, UnitKind.IMAGE, "ImageTag") if unit else None
        return self._reference(found, "ImageTag=") if found and found.value else None

    def _reference(self, found: Setting, key: str) -> str:
        where = str(self._at(found.path, found.line))
        try:
            text = expand_percent(found.value)
        except ValueError as error:
            raise self._refuse(
                f"{key} {error}",
                where=where,
                hint="write the name out: bootc refuses systemd specifiers in bound images",
            ) from error
        if (variable := placeholder(text)) is not None:
            raise self._refuse(
                f"{key}{printable(text)} has the variable {variable}, expected a name written out",
                where=where,
                hint="put the value in when the OS image is built: bootc takes the text as it "
                "stands, only a running systemd would replace a variable",
            )
        transport, rest = split_transport(text)
        if transport is not None:
            # podman would pull docker://, but bootc looks the literal string up in a store, where
            # no image can have it, and its clean-up compares it with names that never have it.
            raise self._refuse(
                f"{key}{printable(text)} has the transport {transport!r}, expected a plain name",
                where=where,
                hint=f"write {printable(rest)}: bootc finds no image by a name with a transport"
                if transport == "docker"
                else "bind an image by its name in a registry",
            )
        try:
            parse_reference(text)
        except ValueError as error:
            hint = "correct the image reference"
            if "#" in text or ";" in text:
                hint = "put the comment on a line of its own: in a value, # and ; start none"
            raise self._refuse(f"{key} {printable(str(error))}", where=where, hint=hint) from error
        return text


def _surroundings(root: Rootfs, directories: UnitDirectories) -> Surroundings:
    scanned = directories.scan()
    environments = [service_environment(unit.merged) for unit in scanned.units]
    return Surroundings(
        rules=directories.rules,
        stores=read_default_stores(root, environments, BOOTC_STORE),
        units=scanned.units,
        folders=scanned.folders,
        malformed=scanned.malformed,
    )


def _bound_images(
    declarations: Sequence[Declaration], claims: Claims, surroundings: Surroundings
) -> list[BoundImage]:
    wanted = bootc_claims(declarations, claims)
    return [
        BoundImage(
            kind=declaration.kind,
            location=declaration.location,
            reference=declaration.reference,
            names=store_names(declaration, wanted),
            bootc_name=declaration.bootc.value,
            findings=findings,
        )
        for declaration, findings in zip(
            declarations, lint(declarations, surroundings), strict=True
        )
    ]
