"""Which units of a root come to run an image, and as which services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from installer_plugin.declarations.declaration import stored_name, well_formed
from installer_plugin.declarations.quadlet import QuadletUnit, expand_percent, unquote
from installer_plugin.declarations.store_access import PodmanCall, split_words
from installer_plugin.declarations.unit_syntax import Assignment
from installer_plugin.model import UnitKind

SECTION_OF = {".container": "Container", ".image": "Image", ".volume": "Volume"}
"""By the unit's own extension, which is what Quadlet goes by."""
_INSTALL_KEYS = ("WantedBy", "RequiredBy", "UpheldBy")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUse:
    """An image in a unit, and the assignment that names it."""

    image: str
    """As written: a reference or an ``.image`` unit."""
    assignment: Assignment


def extension(unit: QuadletUnit) -> str:
    """Extension of the unit's own name, as ``PurePosixPath.suffix`` has it.

    Each unit is asked about each other: the path of a file takes twenty times as long to make.
    """
    dot = unit.name.rfind(".")
    return unit.name[dot:] if 0 < dot < len(unit.name) - 1 else ""


def section(unit: QuadletUnit) -> str:
    """The section that Quadlet reads; "" for a unit of another type."""
    return SECTION_OF.get(extension(unit), "")


def kind_of(unit: QuadletUnit) -> UnitKind | None:
    """The kind by the unit's own extension, when bootc knows such a kind."""
    return next((kind for kind in UnitKind if extension(unit) == f".{kind}"), None)


def uses(unit: QuadletUnit) -> Iterator[ImageUse]:
    """Images that the unit runs, mounts or makes a volume of."""
    found = unit.merged.last(section(unit), "Image")
    if found is not None and (extension(unit) != ".volume" or _has_image_driver(unit)):
        yield ImageUse(image=unquote(found.value), assignment=found)
    if extension(unit) == ".container":
        for mount in unit.merged.all("Container", "Mount"):
            yield from (ImageUse(image=i, assignment=mount) for i in _mounted(unquote(mount.value)))


def _has_image_driver(unit: QuadletUnit) -> bool:
    driver = unit.merged.last("Volume", "Driver")
    return driver is not None and unquote(driver.value) == "image"


def _mounted(text: str) -> list[str]:
    """Images in ``type=image,source=...``, whose fields are quoted as in CSV."""
    import csv  # noqa: PLC0415 - slow to load, and seldom needed

    fields = [field.partition("=") for field in next(csv.reader([text], strict=False), [])]
    if ("type", "=", "image") not in fields:
        return []
    return [value for key, _, value in fields if key in ("source", "src")]


def names_of(image: str, units: Sequence[QuadletUnit]) -> frozenset[str]:
    """Names by which stores know *image*; an ``.image`` unit stands for what it names."""
    if image.endswith(".image"):
        named = next((unit for unit in units if unit.name == image), None)
        keys = ("Image", "ImageTag")
        found = [named.merged.last("Image", key) for key in keys] if named else []
        return frozenset().union(*(_stored(unquote(each.value)) for each in found if each))
    return _stored(image)


def _stored(text: str) -> frozenset[str]:
    try:
        text = expand_percent(text)
    except ValueError:
        return frozenset()
    return frozenset({stored_name(text)}) if well_formed(text) else frozenset()


def service_of(unit: QuadletUnit) -> str:
    """The service that Quadlet makes of *unit*."""
    named = unit.merged.last(section(unit), "ServiceName")
    if named is not None and named.value:
        return f"{unquote(named.value)}.service"
    suffix = {".image": "-image", ".volume": "-volume"}.get(extension(unit), "")
    return f"{PurePosixPath(unit.name).stem}{suffix}.service"


def starters(unit: QuadletUnit, units: Sequence[QuadletUnit]) -> list[str]:
    """What has the service of the ``.image`` *unit* started: units that refer to it, targets."""
    referring = [
        other.name for other in units if any(use.image == unit.name for use in uses(other))
    ]
    targets = [each.value for key in _INSTALL_KEYS for each in unit.merged.all("Install", key)]
    return [*dict.fromkeys([*referring, *targets])]


def call_of(unit: QuadletUnit) -> PodmanCall:
    """The podman that the unit's service starts."""
    return PodmanCall.of(unit.merged, section(unit))


def argument_values(unit: QuadletUnit, option: str) -> list[tuple[str, Assignment]]:
    """Values of *option* in ``PodmanArgs=``, in its own word or behind ``=``."""
    found: list[tuple[str, Assignment]] = []
    for assignment in unit.merged.all(section(unit), "PodmanArgs"):
        words = iter(split_words(assignment.value))
        for word in words:
            name, equals, value = word.partition("=")
            if name == option:
                found.append((value if equals else next(words, ""), assignment))
    return found
