"""Images as local stores have them, to be read: by us, and by tools that trust what they read."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from installer_plugin.errors import DataError, Problem
from installer_plugin.model import DiffId, ResolvedImage
from installer_plugin.process.pool import Crew
from installer_plugin.process.pool_worker import Ended
from installer_plugin.storage.base import search_order
from installer_plugin.storage.engine.source_check import REPULL, LayerFiles
from installer_plugin.storage.engine.source_jobs import CheckLayer, Examined, check_work
from installer_plugin.storage.layer.jobs import path_for_others
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.layer.proof import stored_entries
from installer_plugin.storage.layer.tar_split import FileEntry
from installer_plugin.storage.layer.tree import LayerTree
from installer_plugin.storage.store import locks
from installer_plugin.storage.store.commit import SourceImage, StoredLayer
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.records import Records, layer_chain

_OpenedStore = tuple[GraphRoot, Records]
Whole = Mapping[str, bool]
"""IDs of layers that were examined and have nothing wrong, each with whether a tool may read it."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCheck:
    """What of the local stores is to be examined."""

    images: Sequence[tuple[ResolvedImage, bool]]
    """Each with whether a tool copies it."""
    stores: Sequence[Path]
    missing: Container[tuple[DiffId, ...]] | None = None
    """The layers that will be copied, by the chain of their diff IDs; None for all."""
    target: Path | None = None
    """A directory on the target's file system; None when it is not known."""
    whole: Whole = field(default_factory=dict)
    """Layers that need not be looked at again."""


def check_stored(asked: SourceCheck, crew: Crew) -> tuple[tuple[Problem, ...], Whole]:
    """What will keep the stored images from being copied and proven, and which layers are whole.

    Each layer is examined once, all of them by as many processes as it is worth. Problems come in the
    order of the images and of their layers. Raises CommandError for a process that ends without an
    answer.
    """
    with OpenStores(asked.stores) as opened:
        places: list[Problem | tuple[str, str]] = []
        checks: dict[str, CheckLayer] = {}
        for image, by_tool in asked.images:
            try:
                source = opened.source_of(image)
            except DataError as error:
                places.append(error.problem(hint=f"podman pull {image.bound.reference}"))
                continue
            for stored in _missing(image, source, asked.missing):
                id_ = stored[1].id
                if id_ not in checks:
                    places.append((id_, image.bound.reference))
                    checks[id_] = _check(stored, asked.target)
                if by_tool:
                    checks[id_] = replace(checks[id_], by_tool=True)
        found = _examined(
            [each for each in checks.values() if not is_known(each, asked.whole)], crew
        )
    problems: list[Problem] = []
    for place in places:
        if isinstance(place, Problem):
            problems.append(place)
        elif place[0] in found:
            problems += (replace(each, where=place[1]) for each in found[place[0]].problems)
    return tuple(problems), {**asked.whole, **_whole(checks, found)}


def _missing(
    image: ResolvedImage, source: SourceImage, missing: Container[tuple[DiffId, ...]] | None
) -> Iterator[StoredLayer]:
    """The layers of an image that will be copied."""
    chain: tuple[DiffId, ...] = ()
    for stored, layer in zip(source.layers, image.layers, strict=True):
        chain = (*chain, layer.diff_id)
        if missing is None or chain in missing:
            yield stored


def _check(stored: StoredLayer, target: Path | None) -> CheckLayer:
    store, layer = stored
    return CheckLayer(
        store=path_for_others(store.root),
        shown=store.path,
        layer_id=layer.id,
        size=layer.diff_size,
        target=target,
        weight=check_work(store.root, layer.id),
    )


def _examined(checks: Sequence[CheckLayer], crew: Crew) -> Mapping[str, Examined]:
    """What was found out about each layer; the largest one is begun first."""
    jobs = sorted(checks, key=lambda check: check.weight, reverse=True)
    found = {}
    with closing(crew.do(jobs)) as said:
        for message in said:
            if isinstance(message, Ended):
                if not isinstance(message.result, Examined):
                    raise TypeError(f"{message.result!r:.100} says nothing about a layer")
                found[jobs[message.index].layer_id] = message.result
    return found


def is_known(check: CheckLayer, whole: Whole) -> bool:
    """Whether *check* would find nothing that was not looked for before."""
    return check.layer_id in whole and (whole[check.layer_id] or not check.by_tool)


def _whole(checks: Mapping[str, CheckLayer], found: Mapping[str, Examined]) -> Whole:
    return {
        id_: checks[id_].by_tool
        for id_, each in found.items()
        if not each.problems and not each.untried
    }


def require_own_content(images: Sequence[ResolvedImage], stores: Sequence[Path]) -> None:
    """Raise DataError unless all content of *images* is in regular files of their own layers."""
    with OpenStores(stores) as opened:
        layers = {each[1].id: each for image in images for each in opened.source_of(image).layers}
        for stored in layers.values():
            _require_own_files(stored)


def _require_own_files(stored: StoredLayer) -> None:
    store, layer = stored
    folder = tree_path(layer.id)
    if not store.root.has_entry(split_path(layer.id)):
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
