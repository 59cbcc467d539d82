"""Stage resolve: bound images -> resolved images, by asking the sources in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from installer_plugin.declarations.reference import parse_reference
from installer_plugin.errors import DataError, Problem
from installer_plugin.model import BoundImage, ResolvedImage
from installer_plugin.process.runner import CommandError
from installer_plugin.storage.base import Found, ImageSource


@dataclass(frozen=True, slots=True)
class Resolution:
    """What was found, and every image that was not."""

    images: tuple[ResolvedImage, ...]
    problems: tuple[Problem, ...]


def resolve(bound: Sequence[BoundImage], sources: Sequence[ImageSource]) -> Resolution:
    """Find every image of *bound* in the first source that has it; nothing is raised for one that is
    missing or damaged, so that all of them are reported together.
    """
    images: list[ResolvedImage] = []
    problems: list[Problem] = []
    for image in bound:
        outcome = _resolve_one(image, sources)
        if isinstance(outcome, Problem):
            problems.append(outcome)
        else:
            images.append(outcome)
    return Resolution(tuple(images), tuple(problems))


def _resolve_one(bound: BoundImage, sources: Sequence[ImageSource]) -> ResolvedImage | Problem:
    for source in sources:
        try:
            found = source.find(bound.reference)
        except DataError as error:
            return Problem(
                subject=bound.reference,
                where=str(bound.location),
                message=f"{error.subject} {error.message}",
                hint=error.hint,
            )
        except CommandError as error:
            return error.problem(bound.reference, hint=f"check the store {source.label}")
        if found:
            return _checked(bound, found)
    return _missing(bound, sources)


def _checked(bound: BoundImage, found: Found) -> ResolvedImage | Problem:
    pinned = parse_reference(bound.reference).digest
    if pinned is not None and pinned not in found.manifest_digests:
        return Problem(
            subject=bound.reference,
            where=str(bound.location),
            message=f"the image of that name in {found.location} has no manifest {pinned}",
            hint=f"podman pull {bound.reference}",
        )
    return ResolvedImage(
        bound=bound,
        names=_names(bound, found),
        source=found.location,
        image_id=found.image_id,
        digest=found.digest,
        manifest_digests=found.manifest_digests,
        layers=found.layers,
        compressed=found.compressed,
        platform=found.platform,
    )


def _names(bound: BoundImage, found: Found) -> tuple[str, ...]:
    """Declared names as written, then the complete name that podman looks each of them up by."""
    completed = (parse_reference(name) for name in bound.names)
    full = (str(name.normalised()) for name in completed if not name.is_short)
    stored = (found.name,) if found.name else ()
    return tuple(dict.fromkeys((*bound.names, *full, *stored)))


def _missing(bound: BoundImage, sources: Sequence[ImageSource]) -> Problem:
    remedy = sources[0].remedy(bound.reference) if sources else "name a store with --store"
    searched = ", ".join(source.label for source in sources if source.label) or "no store at all"
    return Problem(
        subject=bound.reference,
        where=str(bound.location),
        message=f"not found in {searched}, expected there before the installation begins",
        hint=remedy,
    )
