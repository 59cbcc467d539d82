"""A layer that is read back as soon as it has been copied, while others still are.

It is read where it was staged, or where it has been moved to meanwhile. Whether the layer that is in
the store in the end is the one that was read, its files say: no other has their inode numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from installer_plugin.files.rootfs import Closing, Resolved, Rootfs
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.layer.proof import LayerClaim, LayerProof, LayerRoot

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """What tells the files of a layer from all others on the file system."""

    trees: tuple[tuple[int, int], ...]
    """Device and inode number of its directory, and of its parent's, which it is compared with."""
    split: tuple[int, int, int, int]
    """The same of its tar-split file, its size, and when it was written, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A layer that was read from the target's disk and has no defects."""

    claim: LayerClaim
    proof: LayerProof
    files: LayerFiles


class StagedOrStored(Closing):
    """A store of which some layers are staged: they are looked for there first. A context manager.

    A layer goes from there to the store, never back: what is in neither was in neither.
    """

    def __init__(self, staged: Path, store: Path) -> None:
        """Open both directories; raises OSError."""
        with ExitStack() as stack:
            self._roots = [stack.enter_context(Rootfs.open(path)) for path in (staged, store)]
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Close both."""
        self._opened.close()

    def resolve(self, path: str) -> Resolved:
        """As :meth:`Rootfs.resolve`."""
        return self._first(lambda root: root.resolve(path))

    def open_directory(self, path: str) -> int:
        """As :meth:`Rootfs.open_directory`."""
        return self._first(lambda root: root.open_directory(path))

    def open_file(self, path: str) -> int:
        """As :meth:`Rootfs.open_file`."""
        return self._first(lambda root: root.open_file(path))

    def _first(self, look: Callable[[Rootfs], T]) -> T:
        staged, store = self._roots
        try:
            return look(staged)
        except FileNotFoundError:
            return look(store)


def layer_files(root: LayerRoot, claim: LayerClaim) -> LayerFiles:
    """The files that the proof of a layer reads; raises OSError and DataError."""
    ids = (claim.id, claim.parent) if claim.parent else (claim.id,)
    trees = [_status(root.open_directory(tree_path(id_))) for id_ in ids]
    split = _status(root.open_file(split_path(claim.id)))
    return LayerFiles(
        tuple((tree.st_dev, tree.st_ino) for tree in trees),
        (split.st_dev, split.st_ino, split.st_size, split.st_mtime_ns),
    )


def _status(fd: int) -> os.stat_result:
    """The status of an open file, which is closed."""
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
