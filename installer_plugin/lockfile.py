"""Lock files: the digests that bound images had when they were approved (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from installer_plugin.errors import DataError
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
    entries = load_entries(content, where, SCHEMA)
    locked = {}
    for index, entry in enumerate(entries):
        at = f"{where}: images[{index}]"
        reference = entry.get("reference")
        if not isinstance(reference, str) or not reference:
            raise DataError(at, f"reference is {reference!r}, expected an image reference")
        if reference in locked:
            raise DataError(at, f"locks {reference} a second time")
        try:
            locked[reference] = LockedImage(
                reference=reference,
                image_id=parse_image_id(entry.get("image_id")),
                digest=parse_manifest_digest(entry.get("digest")),
            )
        except ValueError as error:
            raise DataError(at, str(error)) from error
    return locked


def load_entries(content: bytes, where: str, schema: str) -> Sequence[Mapping[str, object]]:
    """The ``images`` of a JSON document of ours; raises DataError when it is not of *schema*."""
    try:
        data: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != schema:
        seen = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise DataError(where, f"has the schema {seen!r}, expected {schema!r}")
    entries = data.get("images")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(where, "images is no array of objects")
    return entries
