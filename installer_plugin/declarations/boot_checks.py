"""Findings about what podman will do with a bound image when the installed system boots.

All of it was tried with real podmans (4.3, 5.4, 5.8) and real generators (4.4 to 5.8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from installer_plugin.declarations.boot_units import (
    argument_values,
    call_of,
    extension,
    names_of,
    section,
    service_of,
    uses,
)
from installer_plugin.declarations.declaration import Declaration, Surroundings, stored_name
from installer_plugin.declarations.image_service_checks import image_service, image_services
from installer_plugin.declarations.quadlet import QuadletUnit, unquote
from installer_plugin.declarations.quadlet_checks import (
    dropped_directory,
    ignored_lines,
    other_podmans,
    refused,
    refused_keys,
    user_unit,
)
from installer_plugin.declarations.store_access import (
    BOOTC_STORE,
    STORE_ARGUMENT,
    PodmanCall,
    describe,
    split_words,
)
from installer_plugin.model import Finding, Severity, UnitKind

_AUTO_UPDATE = "io.containers.autoupdate"


def boot_findings(
    declarations: Sequence[Declaration], surroundings: Surroundings
) -> list[tuple[Finding, ...]]:
    """Findings about each of *declarations*; about units that nobody binds, at the first alone."""
    said: set[tuple[str, str, int | None]] = set()
    found: list[tuple[Finding, ...]] = []
    for declaration in declarations:
        findings = [f for check in _CHECKS for f in check(declaration, surroundings)]
        said.update(map(_key, findings))
        for unit in _others(declaration, declarations, surroundings):
            others = [*_about_other(declaration, unit, surroundings)]
            findings += [each for each in others if _key(each) not in said]
            said.update(map(_key, others))
        found.append(tuple(findings))
    return found


def _key(finding: Finding) -> tuple[str, str, int | None]:
    return finding.code, finding.location.unit, finding.location.line


def _others(
    declaration: Declaration, declarations: Sequence[Declaration], surroundings: Surroundings
) -> list[QuadletUnit]:
    """Units that use the same image and are not bound themselves."""
    bound = {each.unit.path for each in declarations}
    names = {stored_name(declaration.reference)}
    if declaration.image_tag is not None:
        names.add(stored_name(declaration.image_tag))
    return [
        unit
        for unit in surroundings.units
        if unit.path not in bound
        and any(names & names_of(use.image, surroundings.units) for use in uses(unit))
    ]


def _about_other(
    declaration: Declaration, unit: QuadletUnit, surroundings: Surroundings
) -> Iterator[Finding]:
    if extension(unit) == ".image":
        yield from image_service(declaration, unit, surroundings)
    elif not call_of(unit).reaches_store(surroundings.stores):
        use = next(uses(unit))
        yield Finding(
            code="unlinked-without-store",
            severity=Severity.WARNING,
            message=f"{unit.name} uses the image without being bound, and its podman does not look "
            f"into {BOOTC_STORE}" + _looked_at(surroundings),
            consequence=f"{service_of(unit)} pulls the image from its registry although it is on "
            f"the disk, and fails without a network: add {STORE_ARGUMENT} to [{section(unit)}]",
            location=declaration.located(use.assignment.path, use.assignment.line),
        )
    yield from _pulls(declaration, unit)
    yield from _auto_update(declaration, unit)
    yield from refused_keys(declaration, unit, surroundings)


def _looked_at(surroundings: Surroundings) -> str:
    seen = describe(surroundings.stores)
    return f" ({seen})" if seen else ""


def _own_access(declaration: Declaration, surroundings: Surroundings) -> Iterator[Finding]:
    if declaration.kind is not UnitKind.CONTAINER:
        return
    call = PodmanCall.of(declaration.unit.merged, "Container")
    if not call.reaches_store(surroundings.stores):
        yield declaration.warning(
            "no-additional-image-store",
            f"no {STORE_ARGUMENT} in the unit" + _looked_at(surroundings),
            "podman will not look into bootc's store: the service pulls the image from its "
            "registry at the first start, and fails without a network",
        )


def _own_pulls(declaration: Declaration, surroundings: Surroundings) -> Iterator[Finding]:
    del surroundings
    yield from _pulls(declaration, declaration.unit)
    yield from _auto_update(declaration, declaration.unit)


def _pulls(declaration: Declaration, unit: QuadletUnit) -> Iterator[Finding]:
    """A pull policy of a container; the last of ``Pull=`` and the arguments counts."""
    if extension(unit) != ".container":
        return
    key = unit.merged.last("Container", "Pull")
    policies = [(unquote(key.value), key)] if key is not None and key.value else []
    policies += argument_values(unit, "--pull")
    if policies and policies[-1][0].lower() in ("always", "newer"):
        yield declaration.at(
            policies[-1][1],
            "pull-policy",
            consequence="podman asks the registry at each start although the image is bound: the "
            "service may run another image, or fail without a network",
        )


def _auto_update(declaration: Declaration, unit: QuadletUnit) -> Iterator[Finding]:
    """What makes ``podman auto-update`` replace the image: a key, or the label that it sets."""
    if extension(unit) != ".container":
        return
    key = unit.merged.last("Container", "AutoUpdate")
    labels = [(unquote(key.value), key)] if key is not None and key.value else []
    for assignment in unit.merged.all("Container", "Label"):
        labels += [
            (value, assignment)
            for name, _, value in (word.partition("=") for word in split_words(assignment.value))
            if name == _AUTO_UPDATE
        ]
    for option in ("--label", "-l"):
        for text, assignment in argument_values(unit, option):
            name, _, value = text.partition("=")
            labels += [(value, assignment)] if name == _AUTO_UPDATE else []
    for _, assignment in (each for each in labels if each[0] in ("registry", "image")):
        yield declaration.at(
            assignment,
            "auto-update",
            consequence="`podman auto-update` pulls from the registry and restarts the container "
            "with what it got: not the image that was bound, until bootc brings the next",
        )


_Check = Callable[[Declaration, Surroundings], Iterable[Finding]]
_CHECKS: tuple[_Check, ...] = (
    _own_access,
    _own_pulls,
    image_services,
    refused,
    ignored_lines,
    user_unit,
    dropped_directory,
    other_podmans,
)
