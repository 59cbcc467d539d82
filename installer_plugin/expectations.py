"""What a finished target itself demands: its deployments' declarations, receipt and lock file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from installer_plugin.declarations.reference import parse_reference
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.lockfile import LockedImage
from installer_plugin.model import BoundImage, Expected, ManifestDigest, ResolvedImage

Item = TypeVar("Item", bound=str)

DEPLOY = "ostree/deploy"


def deployment_paths(root: Rootfs) -> Iterator[str]:
    """Directories of all ostree deployments below a physical root (``ostree/deploy/OS/deploy/CSUM.N``).

    Deployments of the composefs backend are images, not directories; they are not among them.
    """
    if not root.is_dir(DEPLOY):
        return
    for stateroot in root.list(DEPLOY):
        folder = f"{DEPLOY}/{stateroot}/deploy"
        if root.is_dir(folder):
            for name in root.list(folder):
                if root.is_dir(f"{folder}/{name}"):
                    yield f"{folder}/{name}"


def deployments(physical_root: Path) -> tuple[str, ...]:
    """The same for the physical root at a path."""
    with Rootfs.open(physical_root) as root:
        return tuple(deployment_paths(root))


def open_deployment(physical_root: Path, path: str) -> Rootfs:
    """The deployment at *path* as a root of its own; raises OSError."""
    return Rootfs.open(physical_root / path)


def expected_of_bound(images: Sequence[BoundImage], where: str) -> tuple[Expected, ...]:
    """What declarations demand: the names, and the digest where one is pinned."""
    return tuple(
        Expected(
            reference=image.reference,
            names=image.names,
            manifest_digests=_pinned(image.reference),
            where=f"{where}{image.location}",
        )
        for image in images
    )


def expected_of_resolved(images: Sequence[ResolvedImage]) -> tuple[Expected, ...]:
    """What a copy has to have achieved."""
    return tuple(
        Expected(
            reference=image.bound.reference,
            names=image.names,
            image_id=image.image_id,
            manifest_digests=image.manifest_digests,
            where=str(image.bound.location),
        )
        for image in images
    )


def expected_of_lock(lock: Mapping[str, LockedImage], where: str) -> tuple[Expected, ...]:
    """What a lock file demands."""
    return tuple(
        Expected(
            reference=image.reference,
            names=(image.reference,),
            image_id=image.image_id,
            manifest_digests=(image.digest,),
            where=where,
        )
        for image in lock.values()
    )


def merged(demands: Sequence[Expected]) -> tuple[Expected, ...]:
    """One demand for each reference, with all names and digests that any of *demands* asks for.

    Demands for different image IDs stay apart: at most one of them can hold, and the other is told.
    """
    found: dict[tuple[str, str | None], Expected] = {}
    ids = {demand.reference: demand.image_id for demand in demands if demand.image_id}
    for demand in demands:
        image_id = demand.image_id or ids.get(demand.reference)
        key = (demand.reference, image_id)
        before = found.get(key)
        found[key] = replace(
            demand,
            image_id=image_id,
            names=_union(before.names if before else (), demand.names),
            manifest_digests=_union(
                before.manifest_digests if before else (), demand.manifest_digests
            ),
            where=before.where if before else demand.where,
        )
    return tuple(found.values())


def _union(first: tuple[Item, ...], second: tuple[Item, ...]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _pinned(reference: str) -> tuple[ManifestDigest, ...]:
    digest = parse_reference(reference).digest
    return (ManifestDigest(digest),) if digest else ()
