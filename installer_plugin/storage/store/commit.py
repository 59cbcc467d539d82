"""Takes staged layers and an image's record into a target store, so that a crash leaves no half.

Order: directories are renamed into place and flushed, then the records that mention them are
replaced, layers before images, each after a fresh last-write token (containers/storage layers.go and
images.go, Save). What has no record does not exist for the store.
"""

from __future__ import annotations

import os
import shutil
from base64 import b32encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.atomic import replace_file
from installer_plugin.process.runner import Runner
from installer_plugin.storage.layer.page_cache import sync_file_system
from installer_plugin.storage.layer.paths import split_path
from installer_plugin.storage.store import locks
from installer_plugin.storage.store.consistency import LINK_ID, SMALL_FILE
from installer_plugin.storage.store.graph_root import IMAGES_JSON, LAYERS_JSON, GraphRoot
from installer_plugin.storage.store.records import (
    ImageRecord,
    LayerRecord,
    big_data_file_name,
    dump_records,
)

LINK_LENGTH = 26
"""Of the short names in ``overlay/l`` (containers/storage drivers/overlay, generateID)."""
DROPPED_KEYS = frozenset(("names", "names-history", "mapped-layers"))
"""Keys of a record that are not taken over: an image gets its names when it is complete, and layers
with shifted owners stay behind."""

StoredLayer = tuple[GraphRoot, LayerRecord]


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image in its stores, as it is while their locks are held."""

    store: GraphRoot
    record: ImageRecord
    layers: tuple[StoredLayer, ...]
    """Base first."""


def commit(source: SourceImage, graph_root: Path, staging: Path, runner: Runner) -> None:
    """Add *source*'s staged layers and its record, without names, to the store *graph_root*.

    What is in *staging* is laid out as in the store.

    Layers that another writer has added meanwhile are left as they are. Raises DataError, OSError and
    CommandError; the records are then as before.
    """
    with (
        locks.exclusive(graph_root, locks.LAYERS_LOCK) as layers_lock,
        locks.exclusive(graph_root, locks.IMAGES_LOCK) as images_lock,
        GraphRoot.open(graph_root) as target,
    ):
        records = target.read_records()
        added = []
        for position, layer in enumerate(source.layers):
            if layer[1].id not in records.layers:
                _place_layer(source.layers[: position + 1], target, staging)
                added.append(_kept(layer[1].raw))
        new_image = source.record.id not in {image.id for image in records.images}
        if new_image:
            _place_big_data(source, graph_root)
        sync_file_system(graph_root, runner)
        if added:
            kept = [layer.raw for layer in records.layers.values()]
            layers_lock.announce_write()
            replace_file(graph_root / LAYERS_JSON, dump_records([*kept, *added]))
        if new_image:
            images = [image.raw for image in records.images]
            images_lock.announce_write()
            new = _kept(source.record.raw)
            replace_file(graph_root / IMAGES_JSON, dump_records([*images, new]))


def _kept(raw: Mapping[str, object]) -> Mapping[str, object]:
    return {key: value for key, value in raw.items() if key not in DROPPED_KEYS}


def _place_layer(chain: Sequence[StoredLayer], target: GraphRoot, staging: Path) -> None:
    """Rename the staged top layer of *chain* into place, with links that are fresh in the target.

    ``l/X`` in a ``lower`` file is looked for in a reader's primary store first: a link name taken
    over from the source could lead into another store's layer.
    """
    store, layer = chain[-1]
    staged = staging / "overlay" / layer.id
    link = b32encode(os.urandom(LINK_LENGTH)).decode()[:LINK_LENGTH]
    _write(staged / "link", link)
    if layer.parent is not None:
        _write(staged / "lower", _lower(target, layer.parent))
        if store.root.has_entry(f"overlay/{layer.id}/lower-layers"):
            parents = ":".join(parent.id for _, parent in reversed(chain[:-1]))
            _write(staged / "lower-layers", parents)
    overlay, side = target.path / "overlay", target.path / "overlay-layers"
    _replace(staged, overlay / layer.id)
    (overlay / "l" / link).symlink_to(f"../{layer.id}/diff")
    tar_split = split_path(layer.id)
    _replace(staging / tar_split, target.path / tar_split)
    if layer.big_data_names:
        _replace(staging / "overlay-layers" / layer.id, side / layer.id)


def _lower(target: GraphRoot, parent: str) -> str:
    """``lower`` of a layer on *parent*: the parent's link, then what the parent itself is on."""
    folder = f"overlay/{parent}"
    link = target.read(f"{folder}/link", limit=LINK_LENGTH).decode(errors="replace")
    if not LINK_ID.fullmatch(link):
        raise DataError(target.shown(f"{folder}/link"), f"is {link!r}, expected a link name")
    below = ""
    if target.root.has_entry(f"{folder}/lower"):
        below = ":" + target.read(f"{folder}/lower", limit=SMALL_FILE).decode(errors="replace")
    return f"l/{link}{below}"


def _replace(staged: Path, place: Path) -> None:
    """Move *staged* to *place*; what is there has no record, so a writer died before it wrote one."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    staged.rename(place)


def _place_big_data(source: SourceImage, graph_root: Path) -> None:
    folder = graph_root / "overlay-images" / source.record.id
    folder.mkdir(mode=0o700, exist_ok=True)
    for key in source.record.big_data_names:
        content = source.store.big_data(source.record, key)
        replace_file(folder / big_data_file_name(key), content)


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o644)
    path.write_text(text)
