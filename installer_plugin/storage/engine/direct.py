"""Engine ``direct``: layers and records from store to store, byte for byte.

Trees are staged beside the target store on its file system and renamed into it by
:mod:`~installer_plugin.storage.store.commit`. A layer is therefore complete or absent, and a second run
goes on where the first one was ended.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError, is_full
from installer_plugin.model import ResolvedImage
from installer_plugin.process.pool import Crew
from installer_plugin.process.pool_worker import Moved as JobMoved
from installer_plugin.process.runner import Runner
from installer_plugin.storage.base import Moved, Place
from installer_plugin.storage.engine.direct_guards import image_refusal
from installer_plugin.storage.engine.source_layers import OpenStores
from installer_plugin.storage.layer.jobs import CopyLayer, layer_work, path_for_others
from installer_plugin.storage.layer.tree_copy import READ_HINT
from installer_plugin.storage.store.commit import SourceImage, StoredLayer, commit
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.records import big_data_file_name


@dataclass(frozen=True, slots=True)
class _Task:
    """An image that is to be copied, as its stores have it."""

    image: ResolvedImage
    source: SourceImage


class DirectEngine:
    """Copies between local stores without going through tar streams."""

    name = "direct"
    tools = ("setpriv",)
    stages_on_target = True

    def __init__(self, stores: Sequence[Path], crew: Crew, runner: Runner) -> None:
        """*stores*: the local stores, primary first; layers may be in any of them."""
        self._stores = tuple(stores)
        self._crew = crew
        self._runner = runner

    def copy_all(
        self, images: Sequence[ResolvedImage], place: Place, moved: Moved
    ) -> Generator[ResolvedImage]:
        """See :class:`~installer_plugin.storage.base.Engine`; scratch is on the target's disk.

        Layers of all images are copied at the same time, those of the first image first. The sources'
        locks are held shared throughout: nobody removes what is being read.
        """
        with ExitStack() as stack:
            tasks = deque(self._open(images, place.graph_root, stack))
            missing = _missing(tasks, place.graph_root)
            for task in tasks:
                moved(task.image, 0)
            copied = stack.enter_context(closing(self._layers_copied(missing, place, moved)))
            waiting = set(missing)
            while tasks:
                needed = {layer.id for _, layer in tasks[0].source.layers}
                while not waiting.isdisjoint(needed):
                    waiting.remove(next(copied))
                task = tasks.popleft()
                commit(task.source, place.graph_root, place.scratch, self._runner)
                yield task.image

    def _open(
        self, images: Sequence[ResolvedImage], target: Path, stack: ExitStack
    ) -> Iterator[_Task]:
        """Lock the images' stores, read them again and guard what was found in them."""
        stores = stack.enter_context(OpenStores(self._stores, target=target))
        for image in images:
            source = stores.source_of(image)
            refusal = image_refusal(source.layers, signatures=False)
            if refusal:
                raise DataError(image.bound.reference, f"cannot be copied directly ({refusal})")
            yield _Task(image, source)

    def _layers_copied(
        self, missing: Mapping[str, tuple[ResolvedImage, StoredLayer]], place: Place, moved: Moved
    ) -> Generator[str]:
        """Stage all that is *missing*; gives each layer's ID when it is complete."""
        owners = [image for image, _ in missing.values()]
        jobs = [_staged(layer, place.scratch) for _, layer in missing.values()]
        with closing(self._crew.do(jobs)) as said:
            for message in said:
                if isinstance(message, JobMoved):
                    moved(owners[message.index], message.count)
                else:
                    yield jobs[message.index].layer_id


def _staged(stored: StoredLayer, scratch: Path) -> CopyLayer:
    """Put all of a layer but its tree below *scratch*; the job that is left."""
    store, record = stored
    staged = scratch / record.id
    staged.mkdir(mode=0o700)
    for name in ("diff", "work", "merged", *(() if record.parent else ("empty",))):
        (staged / name).mkdir(mode=0o700)
    name = f"{record.id}.tar-split.gz"
    _copy_file(store, f"overlay-layers/{name}", scratch / name)
    for key in record.big_data_names:
        folder = scratch / f"{record.id}.big-data"
        folder.mkdir(mode=0o700, exist_ok=True)
        file_name = big_data_file_name(key)
        _copy_file(store, f"overlay-layers/{record.id}/{file_name}", folder / file_name)
    return CopyLayer(
        store=path_for_others(store.root),
        layer_id=record.id,
        target=staged / "diff",
        weight=layer_work(store.root, record.id, record.diff_size),
        shareable=record.diff_size or 0,
        shown=store.shown(f"overlay/{record.id}/diff"),
    )


def _missing(
    tasks: Sequence[_Task], graph_root: Path
) -> dict[str, tuple[ResolvedImage, StoredLayer]]:
    """Layers that the target lacks, by ID, each with the first image that needs it.

    An incomplete one in the target is for the store's own code to remove.
    """
    with GraphRoot.open(graph_root) as target:
        present = target.load().layers
    missing: dict[str, tuple[ResolvedImage, StoredLayer]] = {}
    for task in tasks:
        for stored in task.source.layers:
            id_ = stored[1].id
            if id_ in present and present[id_].incomplete:
                raise DataError(
                    f"layer {id_}",
                    f"was left incomplete in {graph_root}",
                    hint=f"remove {graph_root} and let it be written again",
                )
            if id_ not in present:
                missing.setdefault(id_, (task.image, stored))
    return missing


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
