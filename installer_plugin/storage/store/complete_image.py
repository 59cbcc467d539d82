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


def complete_image(graph_root: Path, wanted: Completion) -> None:
    """Add names and manifests to the image's record, taking the names away from other images.

    What is there already is kept. A crash leaves the old record or the new one, because big data is
    on disk before the record that mentions it is renamed into place. Raises DataError when the image
    is not in the store, and OSError.
    """
    with locks.exclusive(graph_root, locks.IMAGES_LOCK) as lock, GraphRoot.open(graph_root) as root:
        shown = root.shown(IMAGES_JSON)
        images = parse_images(root.read(IMAGES_JSON, RECORDS_LIMIT), shown)
        if wanted.image_id not in {image.id for image in images}:
            raise DataError(f"image {wanted.image_id}", f"is not in {shown} after it was copied")
        updated = [_updated(image, wanted) for image in images]
        if updated == [image.raw for image in images]:
            return
        _write_manifests(graph_root / "overlay-images" / wanted.image_id, wanted.manifests)
        lock.announce_write()
        replace_file(graph_root / IMAGES_JSON, dump_records(updated))


def _updated(image: ImageRecord, wanted: Completion) -> Mapping[str, object]:
    if image.id != wanted.image_id:
        kept = [name for name in image.names if name not in wanted.names]
        return image.raw if len(kept) == len(image.names) else {**image.raw, "names": kept}
    added = {_manifest_key(digest): digest for digest in wanted.manifests}
    sizes = {_manifest_key(digest): len(data) for digest, data in wanted.manifests.items()}
    return {
        **image.raw,
        "digest": wanted.digest or image.raw.get("digest"),
        "names": _union(image.names, wanted.names),
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
