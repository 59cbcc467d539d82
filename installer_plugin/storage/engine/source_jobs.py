"""Examining stored layers, as values that another process of ours can be told.

Several processes examine one large layer together, each the chunks of its tar-split file that nobody
else has. They only ever say that nothing is wrong: as soon as anything might be, the layer is examined
again by one process, whose words are the answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError, Problem
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.process.pool_worker import Progress
from installer_plugin.process.turns import Turns, turns
from installer_plugin.storage.engine.source_check import REPULL, LayerFiles, LayerWalk
from installer_plugin.storage.layer.jobs import layer_work
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.layer.proof import stored_entries, stored_split
from installer_plugin.storage.layer.tar_header import HeaderReader
from installer_plugin.storage.layer.tar_split import Chunk, read_chunks
from installer_plugin.storage.layer.tree import LayerTree

MAX_PROBLEMS = 5
"""Problems of one layer that are listed; a layer that lost its files may have thousands."""
COPYING_TAKES = 4
"""How many times as long as looking at an entry, without its content."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found out about a layer."""

    problems: tuple[Problem, ...]
    """The first ones: parts that are missing or short, entries that cannot be carried."""
    untried: bool = False
    """Whether it has large attributes, which have to be tried on a target that is not known yet."""


@dataclass(frozen=True, slots=True)
class PartExamined:
    """What one process has found in its chunks; nothing is wrong with any entry."""

    size: int
    """Bytes of its chunks."""
    names: tuple[bytes, ...]
    """Names of its entries."""
    removed: tuple[bytes, ...]
    """Names that its whiteouts remove."""
    untried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLayer:
    """Look for what keeps a stored layer from being copied and proven."""

    store: Path
    """Graph root, by a path that other processes find it by."""
    shown: Path
    """The same as messages show it."""
    layer_id: str
    size: int | None
    """Bytes of its stream as the store has recorded them."""
    by_tool: bool = False
    """Whether a program reads it that confines no link to the layer."""
    target: Path | None = None
    """A directory that can be written, of the file system that the layer is to be on; None when it is
    not known."""
    weight: int = 1

    @property
    def shareable(self) -> int:
        """All of it."""
        return self.weight

    @property
    def folder(self) -> str:
        """The layer's tree, in the store."""
        return tree_path(self.layer_id)

    @property
    def split(self) -> str:
        """Its tar-split file, in the store."""
        return split_path(self.layer_id)

    def run(self, progress: Progress) -> Examined:
        """See :func:`examined`."""
        with Rootfs.open(self.store) as root:
            return examined(root, self, progress)

    @contextmanager
    def parts(self, count: int) -> Iterator[Sequence[CheckPart]]:
        """The same, done by *count* processes together."""
        with turns() as chunks:
            yield [CheckPart(self, count, chunks)] * count

    def joined(self, results: Sequence[object]) -> Examined:
        """What the parts come to; the layer is examined again unless nothing is wrong."""
        parts = [part for part in results if isinstance(part, PartExamined)]
        if len(parts) == len(results) and self._agree(parts):
            return Examined((), any(part.untried for part in parts))
        return self.run(lambda _: None)

    def _agree(self, parts: Sequence[PartExamined]) -> bool:
        """Whether no entry of one part matters to another, and they are as long as was recorded."""
        names = {name for part in parts for name in part.names}
        apart = len(names) == sum(len(part.names) for part in parts)
        removed = any(not names.isdisjoint(part.removed) for part in parts)
        size = sum(part.size for part in parts)
        return apart and not removed and self.size in {None, size}

    @contextmanager
    def walk(self, root: Rootfs) -> Iterator[LayerWalk]:
        """A walk through the layer's files, in the open store *root*; raises OSError."""
        with root.directory(self.folder) as diff, LayerTree(os.dup(diff)) as tree:
            files = LayerFiles(tree, diff if self.by_tool else None, str(self.shown / self.folder))
            yield LayerWalk(files, str(self.shown / self.split), self.target)


@dataclass(frozen=True, slots=True)
class CheckPart:
    """One process's part of a layer that several examine."""

    layer: CheckLayer
    count: int
    chunks: Turns

    @property
    def weight(self) -> int:
        """An equal part of the whole, as far as is known."""
        return self.layer.weight // self.count

    def run(self, progress: Progress) -> PartExamined | None:
        """Examine chunk after chunk; None when something may be wrong."""
        layer = self.layer
        try:
            with (
                Rootfs.open(layer.store) as root,
                layer.walk(root) as walk,
                stored_split(root, layer.layer_id) as (file, path),
                self.chunks.taken() as take_turn,
            ):
                chunks = read_chunks(file, path, take_turn)
                if not all(_is_whole(chunk, walk, path, progress) for chunk in chunks):
                    return None
                return PartExamined(walk.size, (*walk.names,), (*walk.removed,), walk.untried)
        except (DataError, OSError):
            return None


def _is_whole(chunk: Chunk, walk: LayerWalk, where: str, progress: Progress) -> bool:
    """Whether nothing is wrong with a chunk, nor with beginning to read behind it."""
    headers = HeaderReader(where, chunk.padding)
    walk.run(chunk.entries, headers, progress)
    goes_on = chunk.next_padding is None or headers.goes_on_after(chunk.next_padding)
    return goes_on and not any(walk.problems)


def check_work(root: Rootfs, layer_id: str) -> int:
    """How much it is to examine a layer, in bytes of content that are copied meanwhile."""
    return layer_work(root, layer_id, 0) // COPYING_TAKES


def examined(root: Rootfs, check: CheckLayer, progress: Progress) -> Examined:
    """The layer of *check* in the open store *root*, looked at; raises only what *progress* does."""
    if root.has_entry(f"overlay/{check.layer_id}/composefs-data"):
        return Examined(())  # files are objects with other names, which the store's own code finds
    folder, split = str(check.shown / check.folder), str(check.shown / check.split)
    missing = tuple(
        Problem(
            subject=str(check.shown / path),
            message=f"is missing from the source, expected a {kind}",
            hint=REPULL,
        )
        for path, kind in ((check.folder, "directory"), (check.split, "file"))
        if not root.has_entry(path)
    )
    if missing:
        return Examined(missing)
    try:
        with check.walk(root) as walk, stored_entries(root, check.layer_id) as entries:
            walk.run(entries, HeaderReader(split), progress)
            problems = (*walk.problems, *walk.size_problems(check.size))
            return Examined(problems[:MAX_PROBLEMS], walk.untried)
    except DataError as error:
        subject = split if error.subject == check.split else error.subject
        problem = Problem(subject=subject, message=error.message, hint=error.hint or REPULL)
        return Examined((problem,))
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        return Examined((Problem(subject=folder, message=message, hint=REPULL),))
