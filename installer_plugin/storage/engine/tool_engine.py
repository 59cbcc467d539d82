"""What engines share that have a tool copy one image after the other."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

from installer_plugin.model import ResolvedImage, SourceKind
from installer_plugin.process.runner import Runner
from installer_plugin.process.threads import alongside
from installer_plugin.storage.engine.base import Moved, Place
from installer_plugin.storage.engine.source_layers import require_own_content
from installer_plugin.storage.engine.space import free_room

POLL_SECONDS = 0.5
"""How often the target's free space is looked at."""


class ToolEngine(ABC):
    """An engine whose tool copies one image a call and tells no progress."""

    stages_on_target = False

    def copy_all(
        self, images: Sequence[ResolvedImage], place: Place, moved: Moved
    ) -> Generator[ResolvedImage]:
        """See :class:`~installer_plugin.storage.engine.base.Engine`."""
        for number, image in enumerate(images):
            moved(image, 0)
            scratch = place.scratch / str(number)
            scratch.mkdir()
            with _watched(place.graph_root, partial(moved, image)):
                self.copy(image, place.graph_root, scratch)
            shutil.rmtree(scratch)
            yield image

    @abstractmethod
    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """Copy *image* under its image ID alone; names are given later, when all of it is there.

        *scratch* is an empty directory on a roomy file system. Raises CommandError and DataError.
        """


class StoreToolEngine(ToolEngine):
    """One whose tool reads local stores, and believes what it reads."""

    def __init__(self, stores: Sequence[Path], runner: Runner) -> None:
        """*stores*: the local stores, primary first; layers may be in any of them."""
        self.stores = tuple(stores)
        self.runner = runner

    def copy_all(
        self, images: Sequence[ResolvedImage], place: Place, moved: Moved
    ) -> Generator[ResolvedImage]:
        """The same once nothing in the stores leads the tool astray; raises DataError."""
        kind = SourceKind.CONTAINERS_STORAGE
        require_own_content([image for image in images if image.source.kind is kind], self.stores)
        yield from super().copy_all(images, place, moved)


@contextmanager
def _watched(graph_root: Path, grown: Callable[[int], None]) -> Iterator[None]:
    """Tell now and then by how many bytes the target's file system has grown.

    The target is being installed and has no other writer; the figure is for eyes only.
    """

    def watch(ended: Event) -> None:
        before = free_room(graph_root).bytes
        while not ended.wait(POLL_SECONDS):
            now = free_room(graph_root).bytes
            grown(max(before - now, 0))
            before = min(before, now)

    with alongside(watch, "copy-progress"):
        yield
