"""What every copy engine offers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from installer_plugin.model import ResolvedImage
from installer_plugin.storage.layer.read_back import ReadBack


@dataclass(frozen=True, slots=True)
class Place:
    """Where engines copy to."""

    graph_root: Path
    """The target store."""
    scratch: Path
    """An empty directory on a roomy file system."""
    read_back: bool = False
    """Whether what was copied is to be proven while the rest is copied, by engines that can."""


Moved = Callable[[ResolvedImage, int], None]
"""Told that an image has so many bytes more; 0 when its copying begins."""


class Engine(Protocol):
    """A way to get images' layers and configs into a target store."""

    @property
    def name(self) -> str:
        """As given to ``--engine`` and shown in reports."""

    @property
    def tools(self) -> tuple[str, ...]:
        """Programs it runs."""

    @property
    def stages_on_target(self) -> bool:
        """Whether its scratch directory has to be on the target's file system."""

    def copy_all(
        self, images: Sequence[ResolvedImage], place: Place, moved: Moved
    ) -> Generator[ResolvedImage | ReadBack]:
        """Copy *images*, each of another ID, and yield each as soon as all of it is in the store.
        To be closed when no more is wanted. Of layers that were read back meanwhile the flawless ones
        are yielded too.

        It is there under its image ID alone: names are given later. Raises CommandError, DataError
        and OSError.
        """
