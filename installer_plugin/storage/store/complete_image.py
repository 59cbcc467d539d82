"""Gives an image in the target store its names and manifests, under the store's own lock.

Tools that copy between stores rewrite the manifest, drop manifest lists and cannot write a name
that is pinned by digest (container-libs#197). The record is therefore completed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.atomic import replace_file
from installer_plugin.model import ImageId, ManifestDigest
from installer_plugin.storage.base import Manifests
from installer_plugin.storage.store import locks
from installer_plugin.storage.store.graph_root import IMAGES_JSON, RECORDS_LIMIT, GraphRoot
from installer_plugin.storage.store.records import (
    MANIFEST_KEY,
    ImageRecord,
    big_data_file_name,
    dump_records,
    parse_images,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an image's record is to have beside what the copying tool wrote."""

    image_id: ImageId
    names: tuple[str, ...]
    digest: ManifestDigest | None
    """The manifest to run by default; None leaves what the tool wrote."""
    manifests: Manifests


def complete_images(graph_root: Path, completions: Sequence[Completion]) -> None:
    """Add names and manifests to the images' records at once, taking the names away from other images.

    What is there already is kept. A crash leaves the old records or the new ones, because big data is
    on disk before the records that mention it are renamed into place. Raises DataError when an image
    is not in the store, and OSError.
    """
    wanted = _merged(completions)
    with locks.exclusive(graph_root, locks.IMAGES_LOCK) as lock, GraphRoot.open(graph_root) as root:
        images = _images(root)
        missing = wanted.keys() - {image.id for image in images}
        if missing:
            message = f"is not in {root.shown(IMAGES_JSON)} after it was copied"
            raise DataError(f"image {min(missing)}", message)
        updated = _updated(images, wanted)
        if updated == [image.raw for image in images]:
            return
        for image_id, completion in wanted.items():
            _write_manifests(graph_root / "overlay-images" / image_id, completion.manifests)
        lock.announce_write()
        replace_file(graph_root / IMAGES_JSON, dump_records(updated))


def are_complete(graph_root: Path, completions: Sequence[Completion]) -> bool:
    """Whether the images are there with all names and manifests; raises DataError."""
    wanted = _merged(completions)
    with GraphRoot.open(graph_root) as root:
        images = _images(root)
    return _updated(images, wanted) == [image.raw for image in images] and wanted.keys() <= {
        image.id for image in images
    }


def _images(root: GraphRoot) -> tuple[ImageRecord, ...]:
    return parse_images(root.read(IMAGES_JSON, RECORDS_LIMIT), root.shown(IMAGES_JSON))


def _merged(completions: Sequence[Completion]) -> dict[ImageId, Completion]:
    """One completion for each image; of names that several images are to have, the last one gets them."""
    owners = {name: each.image_id for each in completions for name in each.names}
    found: dict[ImageId, Completion] = {}
    for each in completions:
        before = found.get(each.image_id)
        names = [name for name in each.names if owners[name] == each.image_id]
        found[each.image_id] = Completion(
            image_id=each.image_id,
            names=tuple(_union(before.names if before else (), names)),
            digest=each.digest or (before.digest if before else None),
            manifests={**(before.manifests if before else {}), **each.manifests},
        )
    return found


def _updated(
    images: Sequence[ImageRecord], wanted: Mapping[ImageId, Completion]
) -> list[Mapping[str, object]]:
    owners = {name: each.image_id for each in wanted.values() for name in each.names}
    return [_completed(image, owners, wanted.get(ImageId(image.id))) for image in images]


def _completed(
    image: ImageRecord, owners: Mapping[str, ImageId], wanted: Completion | None
) -> Mapping[str, object]:
    kept = [name for name in image.names if owners.get(name, image.id) == image.id]
    if wanted is None:
        return image.raw if len(kept) == len(image.names) else {**image.raw, "names": kept}
    added = {_manifest_key(digest): digest for digest in wanted.manifests}
    sizes = {_manifest_key(digest): len(data) for digest, data in wanted.manifests.items()}
    return {
        **image.raw,
        "digest": wanted.digest or image.raw.get("digest"),
        "names": _union(kept, wanted.names),
        "big-data-names": _union(image.big_data_names, tuple(added)),
        "big-data-sizes": {**image.big_data_sizes, **sizes},
        "big-data-digests": {**image.big_data_digests, **added},
    }


def _union(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*first, *second)))


def _manifest_key(digest: ManifestDigest) -> str:
    return f"{MANIFEST_KEY}-{digest}"


def _write_manifests(folder: Path, manifests: Manifests) -> None:
    for digest, content in manifests.items():
        path = folder / big_data_file_name(_manifest_key(digest))
        if not path.exists():
            replace_file(path, content)
