"""Takes away from the target again what verification refutes: it does not stay under its name.

A store that held images before is brought back to exactly that. Of one that was made by this run, the
refuted images go: a later run then copies them, instead of finding them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from installer_plugin.errors import DataError, VerificationError
from installer_plugin.events import Events
from installer_plugin.model import CopiedImage, ImageId
from installer_plugin.storage.store.repair import remove_images
from installer_plugin.storage.store.rollback import forget, roll_back
from installer_plugin.storage.store.target_store import TargetStore

STAGE = "retract"


@contextmanager
def retracted_if_refuted(
    images: Sequence[CopiedImage], target: TargetStore, events: Events
) -> Iterator[None]:
    """Take back what the run that copied *images* has added, when the body refutes anything.

    The error goes on. What cannot be taken back is a warning: the error says what matters. An image
    that was there before is left as it is, also when it is refuted. Raises OSError when the target is
    proven and that cannot be noted.
    """
    try:
        yield
    except VerificationError as error:
        subjects = {problem.subject for problem in error.problems}
        _take_back([i for i in images if i.resolved.bound.reference in subjects], target, events)
        raise
    forget(target)


def _take_back(refuted: Sequence[CopiedImage], target: TargetStore, events: Events) -> None:
    """*refuted* may be empty: a label or the store itself can be what is wrong."""
    added = {
        image.resolved.image_id: image.resolved.bound.reference
        for image in refuted
        if not image.already_there
    }
    left = [image.resolved.bound.reference for image in refuted if image.already_there]
    if left:
        message = (
            f"was there before and is left: remove {target.graph_root} to have it copied again"
        )
        events.warn(STAGE, f"{', '.join(left)}: {message}")
    try:
        if roll_back(target):
            events.warn(STAGE, f"{target.graph_root} is again as it was before")
        elif added:
            _remove(added, target, events)
    except (DataError, OSError) as error:
        events.warn(STAGE, f"{target.graph_root} cannot be brought back to what it was: {error}")


def _remove(refuted: Mapping[ImageId, str], target: TargetStore, events: Events) -> None:
    remove_images(target.graph_root, frozenset(refuted))
    names = ", ".join(refuted.values())
    events.warn(STAGE, f"{names}: not what was copied, removed from {target.graph_root} again")
