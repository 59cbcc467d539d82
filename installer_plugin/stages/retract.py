"""Takes refuted images away from the target again: what is not proven does not stay under its name.

A later run then copies them anew, instead of finding them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from installer_plugin.errors import DataError, VerificationError
from installer_plugin.events import Events
from installer_plugin.model import ImageId, ResolvedImage
from installer_plugin.storage.store.repair import remove_images
from installer_plugin.storage.store.target_store import TargetStore

STAGE = "retract"


@contextmanager
def retracted_if_refuted(
    images: Sequence[ResolvedImage], target: TargetStore, events: Events
) -> Iterator[None]:
    """Remove those of *images* from *target* that a VerificationError of the body is about.

    The error goes on. When they cannot be removed, that is a warning: the error says what matters.
    """
    try:
        yield
    except VerificationError as error:
        subjects = {problem.subject for problem in error.problems}
        refuted = {
            image.image_id: image.bound.reference
            for image in images
            if image.bound.reference in subjects
        }
        if refuted:
            _remove(refuted, target, events)
        raise


def _remove(refuted: Mapping[ImageId, str], target: TargetStore, events: Events) -> None:
    names = ", ".join(refuted.values())
    try:
        remove_images(target.graph_root, frozenset(refuted))
    except (DataError, OSError) as error:
        events.warn(STAGE, f"{names}: not what was copied, and cannot be removed again: {error}")
    else:
        events.warn(STAGE, f"{names}: not what was copied, removed from {target.graph_root} again")
