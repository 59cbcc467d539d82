"""Lock files: the digests that bound images had when they were approved (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from installer_plugin.errors import DataError
from installer_plugin.fields import parse_document
from installer_plugin.model import (
    ImageId,
    ManifestDigest,
    ResolvedImage,
    parse_image_id,
    parse_manifest_digest,
)

SCHEMA = "bootc-bound-images/lock/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedImage:
    """What one bound reference must resolve to."""

    reference: str
    image_id: ImageId
    digest: ManifestDigest

    def mismatch(self, image: ResolvedImage) -> str | None:
        """How *image* differs from what was locked; None when it does not."""
        if image.image_id != self.image_id:
            return f"its image ID is {image.image_id}, the lock file demands {self.image_id}"
        if self.digest not in image.manifest_digests:
            return f"it has no manifest {self.digest}, which the lock file demands"
        return None


def lock_images(images: Sequence[ResolvedImage]) -> tuple[LockedImage, ...]:
    """What *images* are now, one entry a reference, sorted."""
    locked = {
        image.bound.reference: LockedImage(
            reference=image.bound.reference, image_id=image.image_id, digest=image.digest
        )
        for image in images
    }
    return tuple(locked[reference] for reference in sorted(locked))


def dump_lock(images: Sequence[LockedImage]) -> str:
    """The lock file's text; the same images give the same bytes."""
    entries = [
        {"reference": image.reference, "image_id": image.image_id, "digest": image.digest}
        for image in images
    ]
    return json.dumps({"schema": SCHEMA, "images": entries}, indent=2) + "\n"


def parse_lock(content: bytes, where: str) -> Mapping[str, LockedImage]:
    """A lock file by reference; raises DataError that names *where* and the entry."""
    locked: dict[str, LockedImage] = {}
    for entry in parse_document(content, where, (SCHEMA,)).objects("images"):
        reference = entry.reference()
        if reference in locked:
            raise DataError(entry.where, f"locks {reference} a second time")
        locked[reference] = LockedImage(
            reference=reference,
            image_id=entry.parsed("image_id", parse_image_id),
            digest=entry.parsed("digest", parse_manifest_digest),
        )
    return locked
