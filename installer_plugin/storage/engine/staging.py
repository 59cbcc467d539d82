"""Layers that are staged next to a target store: side files at once, trees by jobs, and proofs of those.

What is staged is laid out as in the store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from installer_plugin.errors import DataError, is_full
from installer_plugin.process.pool_worker import Ended
from installer_plugin.process.schedule import Needs
from installer_plugin.storage.engine.base import Place
from installer_plugin.storage.layer.jobs import (
    CopyLayer,
    ProveLayer,
    layer_work,
    path_for_others,
)
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.layer.proof import LayerClaim, LayerProof, Reading
from installer_plugin.storage.layer.read_back import (
    LayerFiles,
    ReadBack,
    StagedOrStored,
    layer_files,
)
from installer_plugin.storage.layer.tree_copy import READ_HINT
from installer_plugin.storage.store.commit import StoredLayer
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.records import LayerRecord, big_data_file_name

WORTH_A_FLUSH = 64 << 20
"""Work on a layer below which it does not pay to flush it alone, only to read it back the sooner."""


def staged(layers: Sequence[StoredLayer], scratch: Path) -> tuple[CopyLayer, ...]:
    """Put all of the layers but their trees below *scratch*; the jobs that are left."""
    for folder in ("overlay", "overlay-layers"):
        (scratch / folder).mkdir(mode=0o700)
    return tuple(_staged(store, layer, scratch) for store, layer in layers)


def _staged(store: GraphRoot, record: LayerRecord, scratch: Path) -> CopyLayer:
    folder = scratch / "overlay" / record.id
    folder.mkdir(mode=0o700)
    for name in ("diff", "work", "merged", *(() if record.parent else ("empty",))):
        (folder / name).mkdir(mode=0o700)
    side = Path("overlay-layers", record.id)
    names = [side / big_data_file_name(key) for key in record.big_data_names]
    if names:
        (scratch / side).mkdir(mode=0o700)
    for name in (Path(split_path(record.id)), *names):
        _copy_file(store, str(name), scratch / name)
    tree = tree_path(record.id)
    return CopyLayer(
        store=path_for_others(store.root),
        layer_id=record.id,
        target=scratch / tree,
        weight=layer_work(store.root, record.id, record.diff_size),
        shown=store.shown(tree),
    )


def _copy_file(store: GraphRoot, path: str, target: Path) -> None:
    """Copy a side file of a layer, as the store keeps it: for its owner alone."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as copy, os.fdopen(store.root.open_file(path), "rb") as source:
            shutil.copyfileobj(source, copy)
    except OSError as error:
        if is_full(error):
            raise
        message = f"cannot be copied from the source: {error.strerror}"
        raise DataError(store.shown(path), message, hint=READ_HINT) from error


@dataclass(frozen=True, slots=True)
class ReadingBack:
    """Copies of which the large ones are proven as soon as they are on the disk."""

    copies: tuple[CopyLayer, ...]
    proofs: tuple[ProveLayer, ...] = ()
    needs: Needs = field(default_factory=dict)
    """For both, the proofs counted after the copies."""
    files: Mapping[str, LayerFiles] = field(default_factory=dict)
    """Of the layers that are proven."""

    def flawless(self, message: Ended) -> Iterator[ReadBack]:
        """What a proof has come to; nothing if the layer has to be looked at again."""
        result = message.result
        if isinstance(result, LayerProof) and not result.defects:
            claim = self.proofs[message.index - len(self.copies)].claim
            yield ReadBack(claim, result, self.files[claim.id])


def reading_back(
    layers: Sequence[StoredLayer], copies: Sequence[CopyLayer], place: Place
) -> ReadingBack:
    """The jobs *copies* of *layers*, and the proofs that may begin before all of them have ended."""
    at = {copy.layer_id: number for number, copy in enumerate(copies)}
    jobs, proofs = list(copies), list[ProveLayer]()
    needs, files = dict[int, Collection[int]](), dict[str, LayerFiles]()
    with StagedOrStored(place.scratch, place.graph_root) as root:
        for number, ((_, layer), copy) in enumerate(zip(layers, copies, strict=True)):
            if copy.weight < WORTH_A_FLUSH or layer.diff_id is None:
                continue
            claim = LayerClaim(
                id=layer.id, parent=layer.parent, diff_id=layer.diff_id, size=layer.diff_size
            )
            jobs[number] = replace(copy, flushed=True)
            needs[len(jobs) + len(proofs)] = _needed(at, layer)
            proofs.append(
                ProveLayer(place.graph_root, claim, Reading(), copy.weight, place.scratch)
            )
            files[layer.id] = layer_files(root, claim)
    return ReadingBack(tuple(jobs), tuple(proofs), needs, files)


def _needed(at: Mapping[str, int], layer: LayerRecord) -> Collection[int]:
    """The copies that a layer's proof waits for: its own, and its parent's, whose attributes matter."""
    return [at[id_] for id_ in (layer.id, layer.parent or "") if id_ in at]
