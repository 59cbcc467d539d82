"""A usable declaration, and what is known of the root around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from installer_plugin.declarations.bootc_reader import BootcReading
from installer_plugin.declarations.default_stores import DefaultStores
from installer_plugin.declarations.quadlet import QuadletUnit, Setting
from installer_plugin.declarations.quadlet_rules import QuadletRules
from installer_plugin.declarations.reference import parse_reference, split_transport
from installer_plugin.declarations.unit_syntax import Assignment
from installer_plugin.errors import DataError
from installer_plugin.model import Finding, Location, Severity, UnitKind


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPodman:
    """``Image=`` as other releases of podman merge it, where that differs."""

    releases: str
    """For people."""
    own: str
    other: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A usable declaration with all that was seen on the way to its image."""

    kind: UnitKind
    location: Location
    reference: str
    """The effective image reference."""
    unit: QuadletUnit
    """What the link leads to."""
    own: Setting | None
    """``Image=`` of that file alone."""
    effective: Setting
    """``Image=`` of the unit with its drop-ins."""
    image_unit: QuadletUnit | None
    """The ``.image`` that a container refers to."""
    image_tag: str | None
    bootc: BootcReading
    shadow: str | None
    """Another file that Quadlet takes instead of the unit."""
    leaves_root: bool
    """Whether the link climbs above the root on its way."""
    is_service: bool = False
    """Whether the unit lies where Quadlet makes a service of it."""
    by_other_podman: tuple[OtherPodman, ...] = ()

    def finding(self, code: str, severity: Severity, message: str, consequence: str) -> Finding:
        """A finding at the place of ``Image=``."""
        return Finding(
            code=code,
            severity=severity,
            message=message,
            consequence=consequence,
            location=self.location,
        )

    def warning(self, code: str, message: str, consequence: str) -> Finding:
        """Works now, fails or surprises later."""
        return self.finding(code, Severity.WARNING, message, consequence)

    def note(self, code: str, message: str, consequence: str) -> Finding:
        """Has no effect, or could be said better."""
        return self.finding(code, Severity.NOTE, message, consequence)

    def at(
        self,
        assignment: Assignment,
        code: str,
        *,
        severity: Severity = Severity.WARNING,
        consequence: str,
    ) -> Finding:
        """A finding about a key other than ``Image=``; its value is left out, it may be a secret."""
        return Finding(
            code=code,
            severity=severity,
            message=f"{assignment.key}= is set in [{assignment.section}]",
            consequence=consequence,
            location=self.located(assignment.path, assignment.line),
        )

    def own_units(self) -> Iterator[QuadletUnit]:
        """The linked unit, and the ``.image`` that it refers to."""
        yield self.unit
        if self.image_unit is not None:
            yield self.image_unit

    def located(self, path: str, line: int | None) -> Location:
        """A place in a file that has to do with the declaration."""
        return Location(link=self.location.link, unit=path, line=line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the root has next to the declarations."""

    rules: QuadletRules
    """Of the podman there."""
    stores: DefaultStores = field(default_factory=DefaultStores)
    """Of the podman there."""
    units: tuple[QuadletUnit, ...] = ()
    """All that Quadlet makes services of, whether they are bound or not."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Where Quadlet finds each of them, by name."""
    malformed: Mapping[str, tuple[DataError, ...]] = field(default_factory=dict)
    """Units that Quadlet cannot load, by directory."""


def well_formed(text: str | None) -> bool:
    """Whether *text* is an image reference without a transport."""
    if not text or split_transport(text)[0] is not None:
        return False
    try:
        parse_reference(text)
    except ValueError:
        return False
    return True


def stored_name(text: str) -> str:
    """The name under which podman stores the image that it pulls as *text*, a reference."""
    return str(parse_reference(text).normalised())
