"""Engine ``direct``: layers and records from store to store, byte for byte.

Trees are staged beside the target store on its file system and renamed into it by
:mod:`~installer_plugin.storage.store.commit`. A layer is therefore complete or absent, and a second run
goes on where the first one was ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.model import ResolvedImage
from installer_plugin.process.pool import Crew
from installer_plugin.process.pool_worker import Ended
from installer_plugin.process.runner import Runner
from installer_plugin.storage.engine.base import Moved, Place
from installer_plugin.storage.engine.direct_guards import image_refusal
from installer_plugin.storage.engine.source_layers import OpenStores
from installer_plugin.storage.engine.staging import ReadingBack, reading_back, staged
from installer_plugin.storage.layer.read_back import ReadBack
from installer_plugin.storage.store.commit import SourceImage, StoredLayer, commit
from installer_plugin.storage.store.graph_root import GraphRoot


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
    ) -> Generator[ResolvedImage | ReadBack]:
        """See :class:`~installer_plugin.storage.engine.base.Engine`; scratch is on the target's disk.

        Layers of all images are copied at the same time, those of the first image first. The sources'
        locks are held shared throughout: nobody removes what is being read.
        """
        with ExitStack() as stack:
            tasks = deque(self._open(images, place.graph_root, stack))
            missing = _missing(tasks, place.graph_root)
            for task in tasks:
                moved(task.image, 0)
            done = stack.enter_context(closing(self._done(missing, place, moved)))
            waiting = set(missing)
            yield from self._committed(tasks, waiting, place)
            for what in done:
                if isinstance(what, ReadBack):
                    yield what
                else:
                    waiting.remove(what)
                    yield from self._committed(tasks, waiting, place)

    def _committed(
        self, tasks: deque[_Task], waiting: Collection[str], place: Place
    ) -> Generator[ResolvedImage]:
        """Take the images into the store that need none of the layers *waiting*, in their order."""
        while tasks and not any(layer.id in waiting for _, layer in tasks[0].source.layers):
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

    def _done(
        self, missing: Mapping[str, tuple[ResolvedImage, StoredLayer]], place: Place, moved: Moved
    ) -> Generator[str | ReadBack]:
        """Stage all that is *missing*; gives each layer's ID when it is there, and when it is proven."""
        owners = [image for image, _ in missing.values()]
        layers = [layer for _, layer in missing.values()]
        copies = staged(layers, place.scratch)
        if place.read_back and self._crew.worth(copies) > 1:
            plan = reading_back(layers, copies, place)
        else:
            plan = ReadingBack(copies)
        with closing(self._crew.do([*plan.copies, *plan.proofs], plan.needs)) as said:
            for message in said:
                is_copy = message.index < len(copies)
                if isinstance(message, Ended):
                    if is_copy:
                        yield copies[message.index].layer_id
                    else:
                        yield from plan.flawless(message)
                elif is_copy:
                    moved(owners[message.index], message.count)


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
