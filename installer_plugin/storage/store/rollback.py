"""Brings a target store back to what it held before a run that fails: what was proven stays as it was.

Before anything is changed in a store that holds images, a note of it is put next to the store. It goes
when the store is proven again, and is what a failed run is rolled back by, byte for byte. A run that is
killed leaves it: the next one is rolled back as far as the first of them.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.atomic import replace_file, sync_directory
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import ResolvedImage
from installer_plugin.storage.store import locks
from installer_plugin.storage.store.graph_root import (
    IMAGES_JSON,
    LAYERS_JSON,
    RECORDS_LIMIT,
    GraphRoot,
)
from installer_plugin.storage.store.records import (
    ImageRecord,
    LayerRecord,
    Records,
    big_data_file_name,
    dump_records,
    layer_id,
    parse_images,
    parse_layers,
)
from installer_plugin.storage.store.repair import remove_layer, remove_unfinished
from installer_plugin.storage.store.target_store import TargetStore

NOTE = "bound-images-before.json"
"""Beside the store, in bootc's directory."""
SCHEMA = "bootc-bound-images/before/1"
NOTE_LIMIT = 4 * RECORDS_LIMIT
TOOL_FILES = (
    "mounts", "overlay-containers", "storage.lock", "tmp", "userns.lock",
    "overlay/backingFsBlockDev", "overlay/staging", "overlay/tempdirs",
    "overlay-layers/tmp", "overlay-layers/volatile-layers.json", "overlay-images/tmp",
)  # fmt: skip
"""What containers-storage makes in a store that it opens for writing, beside images and layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a store held, and what was then to be added."""

    files: Mapping[str, bytes]
    """Records and lock files, by their paths in the store."""
    absent: tuple[str, ...]
    """Those of TOOL_FILES that were not there."""
    images: frozenset[str]
    """IDs of the images that were to be copied, whether they were there or not."""
    layers: frozenset[str]
    """IDs of their layers."""

    @property
    def image_records(self) -> tuple[ImageRecord, ...]:
        """As they were."""
        return parse_images(self.files[IMAGES_JSON], NOTE)

    @property
    def layer_records(self) -> tuple[LayerRecord, ...]:
        """As they were."""
        return parse_layers(self.files[LAYERS_JSON], NOTE)


_KEPT_FILES = (IMAGES_JSON, LAYERS_JSON, *locks.LOCK_FILES)


def remember(target: TargetStore, images: Sequence[ResolvedImage]) -> None:
    """Note what the store holds before *images* are added; nothing when it holds none.

    A note of an earlier run that was never proven is kept, and covers *images* too. It is written where
    :func:`remove_unfinished` finds what a killed run leaves of it. Raises DataError and OSError.
    """
    with (
        locks.exclusive(target.graph_root, locks.LAYERS_LOCK),
        locks.exclusive(target.graph_root, locks.IMAGES_LOCK),
        GraphRoot.open(target.graph_root) as store,
    ):
        if not store.read_records().images:
            return
        before = _noted(target) or _seen(store)
        added = {layer for image in images for layer in _layer_ids(image)}
        before = replace(
            before,
            images=before.images.union(image.image_id for image in images),
            layers=before.layers | added,
        )
        staging = target.graph_root / "overlay-images"
        replace_file(target.bootc_dir / NOTE, _dumped(before), staging=staging)


def forget(target: TargetStore) -> None:
    """Remove the note: what the store holds now is proven. Raises OSError."""
    note = target.bootc_dir / NOTE
    if note.exists():
        note.unlink()
        sync_directory(target.bootc_dir)


def roll_back(target: TargetStore) -> bool:
    """Take away what was added to the store since it was noted; False when it was not.

    What another program has added meanwhile stays. Names go first, and layers are marked incomplete
    before their files go, so that a crash leaves what :func:`remove_unfinished` removes. Raises
    DataError and OSError.
    """
    before = _noted(target)
    if before is None:
        return False
    remove_unfinished(target.graph_root)
    with (
        locks.exclusive(target.graph_root, locks.LAYERS_LOCK) as layers_lock,
        locks.exclusive(target.graph_root, locks.IMAGES_LOCK) as images_lock,
        GraphRoot.open(target.graph_root) as store,
    ):
        rolled = _Rolled(store, before, store.read_records())
        rolled.roll_images(images_lock)
        rolled.roll_layers(layers_lock)
        if rolled.is_as_before:
            rolled.restore_files((layers_lock, images_lock))
    forget(target)
    return True


class _Rolled:
    """A store that is being rolled back, its locks held."""

    def __init__(self, store: GraphRoot, before: Before, now: Records) -> None:
        self._store = store
        self._before = before
        self._now = now
        self._old_images = {image.id: image for image in before.image_records}
        self._old_layers = {layer.id for layer in before.layer_records}
        self._foreign = [
            image
            for image in now.images
            if image.id not in self._old_images and image.id not in before.images
        ]

    @property
    def is_as_before(self) -> bool:
        """Whether nobody else has changed the store meanwhile."""
        gone = self._old_images.keys() - {image.id for image in self._now.images}
        return not (self._foreign or gone or self._strange_layers())

    def _strange_layers(self) -> Collection[str]:
        return self._now.layers.keys() - self._old_layers - self._before.layers

    def roll_images(self, lock: locks.HeldLock) -> None:
        taken = {name for image in self._foreign for name in image.names}
        there = {image.id for image in self._now.images}
        old = [image for id_, image in self._old_images.items() if id_ in there]
        kept = [*(_without(image, taken) for image in old), *(image.raw for image in self._foreign)]
        lock.announce_write()
        replace_file(self._store.path / IMAGES_JSON, dump_records(kept))
        for image in self._now.images:
            folder = self._store.path / "overlay-images" / image.id
            if image.id in self._old_images:
                _remove_others(folder, self._old_images[image.id])
            elif image.id in self._before.images and folder.is_dir():
                shutil.rmtree(folder)

    def roll_layers(self, lock: locks.HeldLock) -> None:
        needed = {
            layer.id for image in self._foreign for layer in self._now.chain(image.layer)
        } | self._old_layers
        needed |= {layer.id for id_ in self._strange_layers() for layer in self._now.chain(id_)}
        doomed = [id_ for id_ in self._now.layers if id_ not in needed]
        if not doomed:
            return
        file = self._store.path / LAYERS_JSON
        lock.announce_write()
        replace_file(file, dump_records(_marked(self._now.layers.values(), doomed)))
        for id_ in doomed:
            remove_layer(self._store, id_)
        kept = [layer.raw for id_, layer in self._now.layers.items() if id_ not in doomed]
        lock.announce_write()
        replace_file(file, dump_records(kept))

    def restore_files(self, held: Sequence[locks.HeldLock]) -> None:
        """Put the very bytes back; the old tokens are right again, for the records they stand for."""
        for name in (IMAGES_JSON, LAYERS_JSON):
            replace_file(self._store.path / name, self._before.files[name])
        for name, lock in zip(locks.LOCK_FILES, held, strict=True):
            lock.restore(self._before.files[name])
        for name in self._before.absent:
            _remove(self._store.path / name)


def _marked(
    layers: Collection[LayerRecord], doomed: Collection[str]
) -> Iterator[Mapping[str, object]]:
    for layer in layers:
        yield {**layer.raw, "flags": {"incomplete": True}} if layer.id in doomed else layer.raw


def _without(image: ImageRecord, taken: Collection[str]) -> Mapping[str, object]:
    kept = [name for name in image.names if name not in taken]
    return image.raw if len(kept) == len(image.names) else {**image.raw, "names": kept}


def _remove_others(folder: Path, image: ImageRecord) -> None:
    """Remove big data that *image* did not have."""
    known = set(map(big_data_file_name, image.big_data_names))
    for path in folder.iterdir():
        if path.name not in known:
            path.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _layer_ids(image: ResolvedImage) -> Iterator[str]:
    """The IDs that the image's layers get in any store."""
    parent: str | None = None
    for layer in image.layers:
        parent = layer_id(parent, layer.diff_id)
        yield parent


def _seen(store: GraphRoot) -> Before:
    files = {
        name: store.read(name, RECORDS_LIMIT) if store.root.has_entry(name) else b""
        for name in _KEPT_FILES
    }
    absent = tuple(name for name in TOOL_FILES if not store.root.has_entry(name))
    return Before(files=files, absent=absent, images=frozenset(), layers=frozenset())


def _dumped(before: Before) -> bytes:
    data = {
        "schema": SCHEMA,
        "files": {
            name: base64.standard_b64encode(content).decode()
            for name, content in before.files.items()
        },
        "absent": before.absent,
        "images": sorted(before.images),
        "layers": sorted(before.layers),
    }
    return json.dumps(data).encode()


def _noted(target: TargetStore) -> Before | None:
    """The note of an earlier run; None when there is none, or one that was not written by us."""
    try:
        with Rootfs.open(target.bootc_dir) as folder:
            if not folder.has_entry(NOTE):
                return None
            data = json.loads(folder.read_bytes(NOTE, limit=NOTE_LIMIT))
        return Before(
            files={name: base64.standard_b64decode(data["files"][name]) for name in _KEPT_FILES},
            absent=tuple(name for name in TOOL_FILES if name in data["absent"]),
            images=frozenset(map(str, data["images"])),
            layers=frozenset(map(str, data["layers"])),
        )
    except (ValueError, LookupError, TypeError) as error:
        shown = str(target.bootc_dir / NOTE)
        raise DataError(shown, f"is damaged: {error}", hint=f"remove {shown}") from error
