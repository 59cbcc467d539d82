"""Results as text for people and as JSON documents for programs; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from installer_plugin.errors import BoundImagesError, Problem
from installer_plugin.events import counted, iec
from installer_plugin.model import (
    BoundImage,
    Finding,
    ResolvedImage,
    VerifiedImage,
)

NOTHING = "no bound images declared"
SHORT_ID = 12
"""Hex digits of an image ID that podman shows."""

FIRST = frozenset(("lock", "hooks"))
"""Documents that are as they were first; those with images have one form of them since version 2."""

Document = dict[str, object]


def document(kind: str, source: str, **fields: object) -> Document:
    """A JSON document of ours; ``schema`` names its form and changes when that does."""
    version = 1 if kind in FIRST else 2
    return {"schema": f"bootc-bound-images/{kind}/{version}", "source": source, **fields}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need be, numbers to the right; the last column is free to run on."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if title in ("SIZE", "LAYERS") else cell.ljust(width)
            for title, cell, width in zip(head[:-1], row[:-1], widths, strict=True)
        ]
        lines.append("  ".join((*cells, row[-1])).rstrip())
    return "\n".join(lines)


def bound_text(images: Sequence[BoundImage]) -> str:
    """Declared images, one a line, with the place of each declaration."""
    if not images:
        return NOTHING
    rows = [(image.kind, _declared_in(image), image.reference) for image in images]
    return table(("KIND", "DECLARED IN", "IMAGE"), rows)


def _declared_in(image: BoundImage) -> str:
    line = f":{image.location.line}" if image.location.line is not None else ""
    return f"{image.location.unit}{line}"


def resolved_text(images: Sequence[ResolvedImage]) -> str:
    """Resolved images, one a line, and what they sum up to."""
    if not images:
        return NOTHING
    rows = [
        (image.image_id[:SHORT_ID], str(len(image.layers)), iec(image.size), image.bound.reference)
        for image in images
    ]
    layers = {
        tuple(layer.diff_id for layer in image.layers[: end + 1]): image.layers[end].size
        for image in images
        for end in range(len(image.layers))
    }
    total = f"{counted(len(images), 'image')}, {counted(len(layers), 'layer')}, {iec(sum(layers.values()))}"
    return table(("IMAGE ID", "LAYERS", "SIZE", "IMAGE"), rows) + f"\n{total}"


def verified_text(images: Sequence[VerifiedImage], target: str) -> str:
    """Verified images, one a line, and what was proven of them."""
    if not images:
        return NOTHING
    rows = [
        (image.image_id[:SHORT_ID], str(len(image.diff_ids)), iec(image.size), image.reference)
        for image in images
    ]
    checks = dict.fromkeys(check for image in images for check in image.checks)
    proof = f"{counted(len(images), 'image')} verified on {target}: {', '.join(checks)}"
    return table(("IMAGE ID", "LAYERS", "SIZE", "IMAGE"), rows) + f"\n{proof}"


def undeclared_text(references: Sequence[str]) -> str:
    """What a target's receipt lists and its deployments do not."""
    them = "it" if len(references) == 1 else "them"
    said = f"{counted(len(references), 'image')} of the receipt not expected"
    return f"{said}, since no deployment declares {them}: {', '.join(references)}"


def locked_text(count: int, file: str) -> str:
    """How many bound images a lock file has."""
    return f"{counted(count, 'bound image')} locked in {file}"


def findings_text(findings: Sequence[tuple[str, Finding]]) -> str:
    """Findings with the image each is about, most serious first."""
    ordered = sorted(findings, key=lambda pair: pair[1].severity != "warning")
    return "\n".join(
        f"{finding.severity}: {reference} ({finding.location}): {finding.message}\n"
        f"  consequence: {finding.consequence} [{finding.code}]"
        for reference, finding in ordered
    )


def problems_text(problems: Sequence[Problem]) -> str:
    """Problems, each with its next step."""
    return "\n".join(
        f"error: {problem}" + (f"\n  hint: {problem.hint}" if problem.hint else "")
        for problem in problems
    )


def finding_json(reference: str, finding: Finding) -> Document:
    """A finding about the image *reference*."""
    return {
        "reference": reference,
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "consequence": finding.consequence,
        "where": str(finding.location),
    }


def problem_json(problem: Problem) -> Document:
    """A problem."""
    return {
        "subject": problem.subject,
        "where": problem.where,
        "message": problem.message,
        "hint": problem.hint,
    }


def error_json(error: BoundImagesError) -> Mapping[str, object]:
    """The document that a failed command prints in place of its result."""
    return {
        "schema": "bootc-bound-images/error/1",
        "exit_code": int(error.exit_code),
        "problems": [problem_json(problem) for problem in error.problems],
    }
