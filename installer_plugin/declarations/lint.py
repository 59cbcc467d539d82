"""Findings about a declaration that is usable: what it will lead to on the installed system."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import PurePosixPath

from installer_plugin.declarations.boot_checks import boot_findings
from installer_plugin.declarations.declaration import (
    Declaration,
    Surroundings,
    stored_name,
    well_formed,
)
from installer_plugin.declarations.quadlet import SECTIONS, Setting, expand_percent
from installer_plugin.declarations.reference import DEFAULT_TAG, parse_reference
from installer_plugin.model import Finding, Severity, UnitKind

KEYS_THAT_CHANGE_THE_IMAGE = frozenset({"AllTags", "Arch", "DecryptionKey", "OS", "Variant"})
"""Keys of an ``.image`` after which podman would get another or a further image than bootc does."""
KEYS_OF_THE_PULL = frozenset({
    "AuthFile",
    "CertDir",
    "ContainersConfModule",
    "Creds",
    "GlobalArgs",
    "PodmanArgs",
    "Policy",
    "PullSecret",
    "Retry",
    "RetryDelay",
    "TLSVerify",
})  # fmt: skip
"""Keys of an ``.image`` that say how to get it."""
KEYS_OF_THE_SERVICE = frozenset({"GlobalArgs", "PodmanArgs", "Policy"})
"""Of those, the ones that matter to the service that Quadlet makes of an ``.image``."""

_UPGRADE = "bootc on the installed system will read the same file at the next upgrade and "
_REFUSE = "fail, and so does `bootc install` when it reads the file"


def lint(
    declarations: Sequence[Declaration], surroundings: Surroundings
) -> tuple[tuple[Finding, ...], ...]:
    """Findings about each of *declarations*, in their order."""
    at_boot = boot_findings(declarations, surroundings)
    return tuple(
        (*chain(*(check(each) for check in _CHECKS), _duplicates(each, declarations)), *booted)
        for each, booted in zip(declarations, at_boot, strict=True)
    )


def _tag(declaration: Declaration) -> Iterator[Finding]:
    reference = parse_reference(declaration.reference)
    if reference.is_pinned:
        return
    stale = (
        "bootc pulls a bound image only while its name is absent: installed systems keep what they "
        "have, new ones get another; pin it with @sha256:... to decide when it changes"
    )
    if reference.tag is None:
        yield declaration.warning("missing-tag", "the reference has neither tag nor digest", stale)
    elif reference.tag == DEFAULT_TAG:
        yield declaration.warning("floating-tag", f"the tag {reference.tag!r} moves", stale)
    else:
        yield declaration.note("floating-tag", f"the tag {reference.tag!r} can be moved", stale)


def _short_name(declaration: Declaration) -> Iterator[Finding]:
    if parse_reference(declaration.reference).is_short:
        yield declaration.warning(
            "short-name",
            f"{declaration.reference!r} names no registry",
            "podman's short-name aliases and search registries decide which image is meant, and "
            "they may differ between the machine that installs and the one that runs it",
        )


def _pruned(declaration: Declaration) -> Iterator[Finding]:
    reference = parse_reference(declaration.reference)
    stored = stored_name(declaration.reference)
    if declaration.bootc.value != declaration.reference:
        return
    if stored != declaration.reference or reference.is_short:
        before = " and a registry before it" if reference.is_short else ""
        yield declaration.warning(
            "pruned-by-bootc",
            f"podman stores what it pulls as {stored!r}{before}, not as {declaration.reference!r}",
            "bootc removes images that do not literally have the declared name: what it pulls at "
            "an upgrade it deletes again at the end of the same upgrade",
        )


def _no_effect(declaration: Declaration) -> Iterator[Finding]:
    unit = declaration.image_unit
    if declaration.kind is UnitKind.IMAGE:
        unit = declaration.unit
    if unit is None:
        return
    is_service = declaration.is_service or unit is declaration.image_unit
    of_service = KEYS_OF_THE_SERVICE if is_service else frozenset[str]()
    for assignment in unit.merged.assignments:
        if assignment.section != SECTIONS[UnitKind.IMAGE]:
            continue
        if assignment.key in KEYS_THAT_CHANGE_THE_IMAGE:
            severity, what = Severity.WARNING, "the image for the host's architecture is installed"
        elif assignment.key in KEYS_OF_THE_PULL - of_service:
            severity, what = Severity.NOTE, "bootc pulls with its own settings and credentials"
        else:
            continue
        consequence = f"the key has no effect on what is installed: {what}"
        yield declaration.at(
            assignment, "key-without-effect", severity=severity, consequence=consequence
        )


def _bootc_refuses(declaration: Declaration) -> Iterator[Finding]:
    error = declaration.bootc.error
    if error is not None:
        seen = f"bootc does not understand the file: {error}"
        yield declaration.warning("bootc-refuses", seen, _UPGRADE + _REFUSE)


def _bootc_misreads(declaration: Declaration) -> Iterator[Finding]:
    """Where the unit's own file already reads differently, and because of which syntax."""
    own, value = declaration.own, declaration.bootc.value
    if own is None or value is None or value == _expanded(own):
        return
    if own.line != declaration.bootc.line:
        code, what = "bootc-other-line", "takes Image= from another line"
    elif own.value != own.written:
        code, what = "bootc-quotes", "keeps the quotes as part of the value"
    elif own.lines > 1 or value.endswith("\\"):
        code, what = "bootc-continuation", "does not join continuation lines"
    else:
        code, what = "bootc-comment", "cuts every line at the first '#' or ';'"
    consequence = _look_for(value) if well_formed(value) else _REFUSE
    yield declaration.warning(
        code,
        f"bootc's reader {what}: it sees {value!r} instead of {own.value!r}",
        _UPGRADE + consequence,
    )


def _expanded(own: Setting) -> str | None:
    try:
        return expand_percent(own.value)
    except ValueError:
        return None


def _look_for(value: str) -> str:
    return f"look for {value!r}, and may remove the image that the container runs"


def _bootc_overlooks(declaration: Declaration) -> Iterator[Finding]:
    """What the files around the unit say, which bootc never opens."""
    value, unit = declaration.bootc.value, declaration.image_unit
    if declaration.effective.path != declaration.unit.own.path:
        yield declaration.warning(
            "bootc-drop-in",
            f"a drop-in sets Image= to {declaration.effective.value!r}; bootc ignores drop-ins",
            _UPGRADE + (_look_for(value) if value else _REFUSE),
        )
    if unit is not None:
        yield declaration.warning(
            "bootc-image-unit",
            f"Image= refers to the unit {unit.name!r}; bootc does not follow it",
            _UPGRADE + f"take {unit.name!r} for an image's name, which it fails to pull",
        )
    if declaration.image_tag is not None:
        yield declaration.warning(
            "bootc-image-tag",
            f"containers run the image as {declaration.image_tag!r} (ImageTag=), unknown to bootc",
            _UPGRADE + "store a new image without that name: its containers will not start",
        )


def _link(declaration: Declaration) -> Iterator[Finding]:
    suffix = PurePosixPath(declaration.unit.name).suffix
    if suffix != f".{declaration.kind}":
        yield declaration.warning(
            "extension-differs",
            f"the link is a '.{declaration.kind}', the unit {declaration.unit.name!r} is none",
            f"bootc reads the section [{SECTIONS[declaration.kind]}] because of the link's name; "
            "Quadlet goes by the unit's own name and may run another image, or none",
        )
    if declaration.shadow is not None:
        yield declaration.warning(
            "unit-shadowed",
            f"Quadlet takes {declaration.shadow} for the unit {declaration.unit.name!r}",
            "the image of the linked file is installed, but another file decides what runs",
        )
    if declaration.leaves_root:
        yield declaration.warning(
            "link-leaves-root",
            "the link has more '..' than directories above it",
            "it is followed as if the root were '/', as bootc does; a tool that follows it through "
            "a mount point reads a file of another system",
        )


def _unfinished(declaration: Declaration) -> Iterator[Finding]:
    units = [declaration.unit, *filter(None, [declaration.image_unit])]
    for place in (place for unit in units for place in unit.merged.unfinished):
        yield declaration.warning(
            "unfinished-line",
            f"the line at {place} ends in a backslash and nothing follows",
            "Quadlet drops the line without a word",
        )


def _duplicates(declaration: Declaration, others: Iterable[Declaration]) -> Iterator[Finding]:
    name = stored_name(declaration.reference)
    links = [
        other.location.link
        for other in others
        if other is not declaration and stored_name(other.reference) == name
    ]
    if links:
        yield declaration.note(
            "duplicate-image",
            f"the same image is bound by {', '.join(links)}",
            "bootc looks for it once for each link; it is installed once here",
        )


_Check = Callable[[Declaration], Iterator[Finding]]
_CHECKS: tuple[_Check, ...] = (
    _tag,
    _short_name,
    _pruned,
    _no_effect,
    _bootc_refuses,
    _bootc_misreads,
    _bootc_overlooks,
    _link,
    _unfinished,
)
