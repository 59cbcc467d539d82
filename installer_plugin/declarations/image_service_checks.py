"""Findings about the service that Quadlet makes of an ``.image``: it pulls, bound or not.

Tried with podman 4.3, 5.4 and 5.8: without a network nothing but a pull policy *and* access to the
store lets ``podman image pull`` succeed, and there is a policy from 5.6 on.
"""

from __future__ import annotations

from collections.abc import Iterator

from installer_plugin.declarations.boot_units import (
    argument_values,
    call_of,
    extension,
    service_of,
    starters,
)
from installer_plugin.declarations.declaration import Declaration, Surroundings
from installer_plugin.declarations.quadlet import QuadletUnit, unquote
from installer_plugin.declarations.quadlet_rules import PULL_POLICY
from installer_plugin.declarations.store_access import STORE_ARGUMENT
from installer_plugin.declarations.unit_syntax import Assignment
from installer_plugin.model import Finding, Severity

_OUTSIDE = (
    "keep the file outside Quadlet's directories: bootc's link finds it there too, and a container "
    "can name the image itself"
)
_TRUE = ("1", "yes", "true", "on")


def image_services(declaration: Declaration, surroundings: Surroundings) -> Iterator[Finding]:
    """The services of the bound unit, and of the ``.image`` that it refers to."""
    made = {unit.path for unit in surroundings.units}
    for unit in declaration.own_units():
        if extension(unit) == ".image" and unit.path in made:
            yield from image_service(declaration, unit, surroundings)


def image_service(
    declaration: Declaration, unit: QuadletUnit, surroundings: Surroundings
) -> Iterator[Finding]:
    """An ``.image`` among Quadlet's units is a service that pulls, unless all is set against it."""
    found = unit.merged.last("Image", "Image")
    if found is None:
        return
    lacking = _lacking(unit, surroundings)
    if lacking or not surroundings.rules.has_pull_policy:
        by = ", ".join(starters(unit, surroundings.units))
        when = f"started for {by}" if by else "when something starts it"
        yield Finding(
            code="image-service-pulls",
            severity=Severity.WARNING,
            message=f"Quadlet makes {service_of(unit)} of {unit.name}, which runs `podman image "
            "pull` although the image is bound",
            consequence=f"{when}, it fails without a network, and so does what requires it; "
            + _cure(lacking, surroundings),
            location=declaration.located(found.path, found.line),
        )
    elif _pull_policy(unit) == "newer":
        yield _asks_for_newer(declaration, unit, found)


def _lacking(unit: QuadletUnit, surroundings: Surroundings) -> list[str]:
    """Settings without which the service pulls what is there."""
    lacking = [] if _pull_policy(unit) in ("missing", "never", "newer") else ["Policy=missing"]
    if not call_of(unit).reaches_store(surroundings.stores):
        lacking.append(STORE_ARGUMENT)
    all_tags = unit.merged.last("Image", "AllTags")
    if all_tags is not None and unquote(all_tags.value).lower() in _TRUE:
        lacking.append("AllTags=false")
    return lacking


def _cure(lacking: list[str], surroundings: Surroundings) -> str:
    if not surroundings.rules.has_pull_policy:
        return f"{surroundings.rules} has no Policy= against it: {_OUTSIDE}"
    return f"add {' and '.join(lacking)} to [Image] (podman {PULL_POLICY} or newer), or {_OUTSIDE}"


def _pull_policy(unit: QuadletUnit) -> str:
    """The policy with which the service pulls; podman's own name for it."""
    key = unit.merged.last("Image", "Policy")
    policies = [unquote(key.value)] if key is not None and key.value else []
    policies += [value for value, _ in argument_values(unit, "--policy")]
    policy = policies[-1].lower() if policies else "always"
    return {"ifnotpresent": "missing", "": "missing", "ifnewer": "newer"}.get(policy, policy)


def _asks_for_newer(declaration: Declaration, unit: QuadletUnit, found: Assignment) -> Finding:
    return Finding(
        code="pull-policy",
        severity=Severity.WARNING,
        message=f"{service_of(unit)} asks the registry for a newer image",
        consequence="with a network, containers run what it got and not what was bound",
        location=declaration.located(found.path, found.line),
    )
