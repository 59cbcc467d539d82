"""Findings about what Quadlet makes of a bound unit: another image, another's service, or none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from installer_plugin.declarations.boot_units import kind_of, section, service_of
from installer_plugin.declarations.declaration import Declaration, Surroundings
from installer_plugin.declarations.quadlet import USER_UNITS, QuadletUnit
from installer_plugin.declarations.quadlet_rules import NEWEST
from installer_plugin.model import Finding, Severity


def refused(declaration: Declaration, surroundings: Surroundings) -> Iterator[Finding]:
    """Keys for which Quadlet refuses the bound unit, or the ``.image`` that it refers to."""
    if declaration.is_service:
        for unit in declaration.own_units():
            yield from refused_keys(declaration, unit, surroundings)


def refused_keys(
    declaration: Declaration, unit: QuadletUnit, surroundings: Surroundings
) -> Iterator[Finding]:
    """Keys for which this podman's Quadlet refuses the whole unit."""
    kind = kind_of(unit)
    if kind is None:
        return
    for assignment in unit.merged.assignments:
        if assignment.section != section(unit):
            continue
        refusal = surroundings.rules.refusal(kind, assignment.key)
        doubt = surroundings.rules.doubt(kind, assignment.key)
        if refusal is not None or doubt is not None:
            yield declaration.at(
                assignment,
                "quadlet-refuses-key",
                severity=Severity.WARNING if refusal is not None else Severity.NOTE,
                consequence=f"{refusal or doubt}: Quadlet refuses {unit.name} as a whole then, there "
                f"is no {service_of(unit)} at boot, and a container that refers to it has no image",
            )


def ignored_lines(declaration: Declaration, surroundings: Surroundings) -> Iterator[Finding]:
    """Settings that a later line of the same file takes back."""
    del surroundings
    for unit in declaration.own_units():
        for key in ("Image", "ImageTag"):
            lines = [
                a for a in unit.merged.assignments if (a.section, a.key) == (section(unit), key)
            ]
            for path, group in groupby(lines, key=lambda assignment: assignment.path):
                *ignored, last = group
                written = [each for each in ignored if each.value]
                if not written:
                    continue
                numbers = ", ".join(str(each.line) for each in written)
                yield Finding(
                    code="ignored-line",
                    severity=Severity.WARNING,
                    message=f"{key}= is set {len(written) + 1} times: line {last.line} counts, "
                    f"line{'s' if len(written) > 1 else ''} {numbers} not",
                    consequence="a unit has one image; the others are not installed: give each a "
                    "file and a link of its own",
                    location=declaration.located(path, written[0].line),
                )


def user_unit(declaration: Declaration, surroundings: Surroundings) -> Iterator[Finding]:
    """Units below a directory ``users``: for sessions of users in one place, for root in others."""
    del surroundings
    path = declaration.unit.path
    if path.startswith(USER_UNITS):
        yield declaration.warning(
            "user-unit",
            f"{path} is a unit of users' sessions: root's Quadlet ignores it",
            "no system service runs the image; a user's podman has a store of its own, and may not "
            "be allowed to read bootc's",
        )
    elif declaration.is_service and "/containers/systemd/users/" in f"/{path}":
        yield declaration.warning(
            "user-unit",
            f"{path} looks like a unit of users' sessions",
            f"up to podman {NEWEST} Quadlet makes a service of root of it, at the system's boot; "
            f"only /{USER_UNITS} is left to users",
        )


def dropped_directory(declaration: Declaration, surroundings: Surroundings) -> Iterator[Finding]:
    """Malformed neighbours: one takes all units of its directory down with it."""
    if not surroundings.rules.drops_directories:
        return
    for unit in declaration.own_units():
        folder = surroundings.folders.get(unit.name, "")
        for error in surroundings.malformed.get(folder, ()):
            path, _, line = error.subject.rpartition(":")
            yield Finding(
                code="unit-directory-dropped",
                severity=Severity.WARNING,
                message=f"{error.subject}: {error.message}",
                consequence=f"for one unit that it cannot load, Quadlet (from podman 5.0) ignores "
                f"all units in /{folder}: there is no {service_of(unit)} at boot",
                location=declaration.located(path, int(line))
                if line.isdecimal()
                else declaration.located(error.subject, None),
            )


def other_podmans(declaration: Declaration, surroundings: Surroundings) -> Iterator[Finding]:
    """Drop-ins that other releases of podman merge to another image."""
    for each in declaration.by_other_podman:
        yield declaration.warning(
            "podman-versions-differ",
            f"{surroundings.rules} runs {each.own!r}, {each.releases} runs {each.other!r}",
            "drop-ins apply in another way there: what is installed is what the image's own podman "
            "runs; name a drop-in differently in each directory and all agree",
        )
