"""Takes away from a target store what is not to stay: what killed writers left, and refuted images.

It is done as the store's own code would do it (containers/storage layers.go, deleteInternal).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.atomic import replace_file
from installer_plugin.storage.store import locks
from installer_plugin.storage.store.consistency import LINK_ID, SMALL_FILE
from installer_plugin.storage.store.graph_root import IMAGES_JSON, LAYERS_JSON, GraphRoot
from installer_plugin.storage.store.records import (
    MANIFEST_KEY,
    ImageRecord,
    Records,
    big_data_file_name,
    dump_records,
)

_LAYER_ID = re.compile(r"[0-9a-f]{64}")
_HALF_WRITTEN = ("overlay-layers/.*.tmp", "overlay-images/.*.tmp", "overlay-images/*/.*.tmp")
"""What replace_file leaves when it is killed; all who write there hold the locks."""


def remove_unfinished(graph_root: Path) -> None:
    """Remove what a killed writer left: incomplete layers, images without a config, half-written files.

    containers-storage does this to layers when it opens a store for writing (layers.go, load): files
    first, then the record, so that a crash repeats it. It makes an image's record before its config and
    manifests, and whoever copies with its code gives the name last. Raises DataError and OSError.
    """
    with (
        locks.exclusive(graph_root, locks.LAYERS_LOCK) as layers_lock,
        locks.exclusive(graph_root, locks.IMAGES_LOCK) as images_lock,
        GraphRoot.open(graph_root) as store,
    ):
        for pattern in _HALF_WRITTEN:
            for path in graph_root.glob(pattern):
                path.unlink()
        records = store.read_records()
        unfinished = [image for image in records.images if _is_unfinished(store, image)]
        if unfinished:
            images_lock.announce_write()
            kept_images = [image.raw for image in records.images if image not in unfinished]
            replace_file(graph_root / IMAGES_JSON, dump_records(kept_images))
        for image in unfinished:
            if store.root.is_dir(f"overlay-images/{image.id}"):
                shutil.rmtree(graph_root / "overlay-images" / image.id)
        abandoned = {id_ for id_ in records.abandoned() if _LAYER_ID.fullmatch(id_)}
        if not abandoned:
            return
        for layer_id in abandoned:
            remove_layer(store, layer_id)
        kept = [layer.raw for id_, layer in records.layers.items() if id_ not in abandoned]
        layers_lock.announce_write()
        replace_file(graph_root / LAYERS_JSON, dump_records(kept))


def _is_unfinished(store: GraphRoot, image: ImageRecord) -> bool:
    """Whether the writer of *image* died before it was whole; a list of images has no layer."""
    needed = (image.config_key, MANIFEST_KEY)
    if image.names or image.layer is None:
        return False
    folder = f"overlay-images/{image.id}"
    return not all(
        key in image.big_data_names and store.root.has_entry(f"{folder}/{big_data_file_name(key)}")
        for key in needed
    )


def remove_images(graph_root: Path, image_ids: Collection[str]) -> None:
    """Remove images and the layers that nothing else is built on.

    Names go first; layers are marked incomplete before their files go, so that after a crash
    :func:`remove_unfinished` goes on. Raises DataError and OSError.
    """
    with (
        locks.exclusive(graph_root, locks.LAYERS_LOCK) as layers_lock,
        locks.exclusive(graph_root, locks.IMAGES_LOCK) as images_lock,
        GraphRoot.open(graph_root) as store,
    ):
        records = store.read_records()
        doomed = _layers_of_these_alone(records, image_ids)
        images_lock.announce_write()
        staying = [image.raw for image in records.images if image.id not in image_ids]
        replace_file(graph_root / IMAGES_JSON, dump_records(staying))
        for image in records.images:
            if image.id in image_ids:
                shutil.rmtree(graph_root / "overlay-images" / image.id)
        marked = [
            {**layer.raw, "flags": {"incomplete": True}} if id_ in doomed else layer.raw
            for id_, layer in records.layers.items()
        ]
        layers_lock.announce_write()
        replace_file(graph_root / LAYERS_JSON, dump_records(marked))
        for layer_id in doomed:
            remove_layer(store, layer_id)
        kept = [layer.raw for id_, layer in records.layers.items() if id_ not in doomed]
        layers_lock.announce_write()
        replace_file(graph_root / LAYERS_JSON, dump_records(kept))


def _layers_of_these_alone(records: Records, image_ids: Collection[str]) -> frozenset[str]:
    """Layers of the images that neither another image nor another layer needs."""

    def chain(top: str | None) -> set[str]:
        try:
            return {layer.id for layer in records.chain(top)}
        except DataError:
            return set()  # a broken chain: nothing of it is known to be of these images alone

    own = set().union(*(chain(image.layer) for image in records.images if image.id in image_ids))
    tops = [image.layer for image in records.images if image.id not in image_ids]
    tops += [id_ for id_ in records.layers if id_ not in own]
    return frozenset(own.difference(*map(chain, tops)))


def remove_layer(store: GraphRoot, layer_id: str) -> None:
    """Remove all files of a layer whose record is marked incomplete; the caller holds the locks."""
    folder, side = store.path / "overlay" / layer_id, store.path / "overlay-layers"
    if store.root.has_entry(f"overlay/{layer_id}/link"):
        link = store.read(f"overlay/{layer_id}/link", SMALL_FILE).decode("latin-1")
        if LINK_ID.fullmatch(link):
            (store.path / "overlay/l" / link).unlink(missing_ok=True)
    for place in (folder, side / layer_id):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
    (side / f"{layer_id}.tar-split.gz").unlink(missing_ok=True)
