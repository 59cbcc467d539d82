"""What Quadlet makes of a unit: its image, the unit it refers to, where its drop-ins are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from installer_plugin.declarations.unit_syntax import Unit
from installer_plugin.model import UnitKind

SECTIONS = {UnitKind.CONTAINER: "Container", UnitKind.IMAGE: "Image"}
"""Section that declares a unit's image."""
UNIT_DIRECTORIES = (
    "run/containers/systemd",
    "etc/containers/systemd",
    "usr/share/containers/systemd",
)
"""Where the generator looks for system units, first wins; directories below them count too."""
USER_UNITS = "etc/containers/systemd/users"
"""Units of user sessions, which the system's generator passes over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The value that counts for a key with one value, and where it was set."""

    value: str
    """Without the quotes around it; ``%`` not yet expanded."""
    written: str
    """As it stands in the file."""
    path: str
    line: int
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadletUnit:
    """A unit as Quadlet loads it."""

    name: str
    """By which Quadlet knows it; it decides which drop-ins apply."""
    path: str
    """The unit's own file, relative to the root."""
    text: str
    """Content of that file."""
    own: Unit
    """What that file says alone."""
    merged: Unit
    """The same with its drop-ins."""


def setting(unit: Unit, kind: UnitKind, key: str) -> Setting | None:
    """The value of *key* in the section of *kind*, None when it is nowhere set."""
    found = unit.last(SECTIONS[kind], key)
    if found is None:
        return None
    return Setting(
        value=unquote(found.value),
        written=found.value,
        path=found.path,
        line=found.line,
        lines=found.lines,
    )


def unquote(value: str) -> str:
    """Remove one pair of double quotes around the whole *value*.

    Single quotes and quotes inside are part of the value. Older generators remove any number of
    double quotes at either end, also a lone one; newer ones keep what is not a pair.
    """
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


def expand_percent(value: str) -> str:
    """``%%`` -> ``%``; raises ValueError for a specifier: only a running systemd expands those."""
    parts = value.split("%%")
    for part in parts:
        before, percent, after = part.partition("%")
        if percent:
            seen = f"the specifier {f'%{after[0]}'!r}" if after else "a lone %"
            raise ValueError(f"{value!r} has {seen} after {before!r}, expected %% for a percent")
    return "%".join(parts)


def referenced_unit(image: str) -> str | None:
    """Name of the ``.image`` or ``.build`` unit that a container's ``Image=`` refers to, if any."""
    return image if image.endswith((".image", ".build")) else None


def drop_in_directories(name: str) -> tuple[str, ...]:
    """Names of the drop-in directories of the unit *name*, the most specific first.

    For ``a-b@i.container``: its own, ``a-b@.container.d``, ``a-@.container.d``, ``a-.container.d``
    and ``container.d``. A file name found in an earlier one hides the same name in later ones.
    """
    suffix = PurePosixPath(name).suffix
    stem, at, instance = name.removesuffix(suffix).partition("@")
    broad_first = [f"{suffix}.d".removeprefix(".")]
    parts = stem.split("-")
    for count in range(1, len(parts)):
        prefix = "-".join(parts[:count]) + "-"
        broad_first.append(f"{prefix}{suffix}.d")
        if at:
            broad_first.append(f"{prefix}@{suffix}.d")
    if instance:
        broad_first.append(f"{stem}@{suffix}.d")
    broad_first.append(f"{name}.d")
    return tuple(reversed(broad_first))


def own_drop_in_directories(name: str) -> tuple[str, ...]:
    """Of those, what a podman before 5.2 knows: the unit's own and its template's."""
    suffix = PurePosixPath(name).suffix
    stem, _, instance = name.removesuffix(suffix).partition("@")
    return (f"{name}.d", f"{stem}@{suffix}.d") if instance else (f"{name}.d",)
