"""Images as local stores have them, to be read: by us, and by tools that trust what they read."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from installer_plugin.errors import DataError, Problem
from installer_plugin.model import DiffId, ResolvedImage
from installer_plugin.storage.base import search_order
from installer_plugin.storage.engine.source_check import REPULL, LayerFiles, layer_problems
from installer_plugin.storage.layer.proof import stored_entries
from installer_plugin.storage.layer.tar_split import FileEntry
from installer_plugin.storage.layer.tree import LayerTree
from installer_plugin.storage.store import locks
from installer_plugin.storage.store.commit import SourceImage, StoredLayer
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.records import Records, layer_chain

_OpenedStore = tuple[GraphRoot, Records]


class OpenStores(ExitStack):
    """Local stores, each opened and read once, when an image first asks for it. A context manager."""

    def __init__(self, graph_roots: Sequence[Path], *, target: Path | None = None) -> None:
        """*graph_roots*: primary first; layers may be in any of them.

        With *target*, the store that is written meanwhile, the locks of all others that were opened
        are held shared to the end: nobody removes what is read. The target may be one of the sources
        (a running system's podman has bootc's store as an additional one) and is ours to write.
        """
        super().__init__()
        self._graph_roots = graph_roots
        self._target = target
        self._opened: dict[Path, _OpenedStore] = {}

    def source_of(self, image: ResolvedImage) -> SourceImage:
        """What the stores have of *image*; raises DataError, also when it has gone meanwhile."""
        order = search_order(image, self._graph_roots)
        return _find_source([self._store(path) for path in order], image)

    def _store(self, path: Path) -> _OpenedStore:
        if path not in self._opened:
            locked = self._target is not None and not path.samefile(self._target)
            if locked:
                self.enter_context(locks.shared(path))
            store = self.enter_context(GraphRoot.open(path))
            self._opened[path] = store, store.read_records() if locked else store.load()
        return self._opened[path]


def _find_source(opened: Sequence[_OpenedStore], image: ResolvedImage) -> SourceImage:
    """The image's record in the first store of *opened*, and its layers in any of them.

    Raises DataError when it has gone since it was resolved.
    """
    store, records = opened[0]
    record = next((each for each in records.images if each.id == image.image_id), None)
    if record is None:
        raise DataError(
            f"image {image.image_id}",
            f"has gone from {store.path} since it was found there",
            hint=f"podman pull {image.bound.reference}",
        )
    where = {id_: root for root, each in reversed(opened) for id_ in each.layers}
    layers = {id_: layer for _, each in reversed(opened) for id_, layer in each.layers.items()}
    chain = layer_chain(record.layer, layers.get)
    return SourceImage(store, record, tuple((where[layer.id], layer) for layer in chain))


def source_problems(
    selected: Sequence[tuple[ResolvedImage, bool]],
    stores: Sequence[Path],
    missing: Container[tuple[DiffId, ...]] | None,
    target: Path | None = None,
) -> Iterator[Problem]:
    """What will keep the stored images from being copied and proven, each layer examined once.

    *selected*: images, each with whether a tool copies it. *missing*: the layers that will be copied,
    by the chain of their diff IDs; None for all. *target*: a directory on the target's file system.
    """
    examined: set[str] = set()
    with OpenStores(stores) as opened:
        for image, by_tool in selected:
            chain: tuple[DiffId, ...] = ()
            try:
                source = opened.source_of(image)
            except DataError as error:
                yield error.problem(hint=f"podman pull {image.bound.reference}")
                continue
            for stored, layer in zip(source.layers, image.layers, strict=True):
                chain = (*chain, layer.diff_id)
                if stored[1].id in examined or (missing is not None and chain not in missing):
                    continue
                examined.add(stored[1].id)
                for problem in layer_problems(stored, by_tool=by_tool, target=target):
                    yield replace(problem, where=image.bound.reference)


def require_own_content(images: Sequence[ResolvedImage], stores: Sequence[Path]) -> None:
    """Raise DataError unless all content of *images* is in regular files of their own layers."""
    with OpenStores(stores) as opened:
        layers = {each[1].id: each for image in images for each in opened.source_of(image).layers}
        for stored in layers.values():
            _require_own_files(stored)


def _require_own_files(stored: StoredLayer) -> None:
    store, layer = stored
    folder = f"overlay/{layer.id}/diff"
    if not store.root.has_entry(f"overlay-layers/{layer.id}.tar-split.gz"):
        return  # packed again from what is there, where links are links and fifos are fifos
    with (
        store.root.directory(folder) as diff,
        LayerTree(os.dup(diff)) as tree,
        stored_entries(store.root, layer.id) as entries,
    ):
        files = LayerFiles(tree, diff, store.shown(folder))
        for entry in entries:
            if isinstance(entry, FileEntry) and entry.size and (fault := files.fault(entry)):
                raise DataError(files.path(entry.name), fault, hint=REPULL)
