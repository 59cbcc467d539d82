"""Work on single layers, as values that another process of ours can be told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import DiffId
from installer_plugin.process.pool_worker import Progress
from installer_plugin.process.runner import Runner
from installer_plugin.process.turns import Turns, turns
from installer_plugin.storage.layer.page_cache import sync_file_system
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.layer.piece_ring import OrderedHash, Preparer, Ring, ring
from installer_plugin.storage.layer.proof import (
    LayerClaim,
    LayerProof,
    LayerRoot,
    Reading,
    prove_layer,
)
from installer_plugin.storage.layer.proof_parts import Part, PartProof, joined_proof, prove_part
from installer_plugin.storage.layer.read_back import StagedOrStored
from installer_plugin.storage.layer.tree_copy import (
    READ_HINT,
    copy_part,
    copy_tree,
    finish_parts,
)

LINKS = "links"
"""Directory next to a layer's tree, only while several processes copy it."""


ENTRY_WORK = 1 << 10
"""Bytes of content that take as long as one byte of a tar-split file: 60 of these are an entry."""


def layer_work(root: Rootfs, layer_id: str, size: int | None) -> int:
    """How much it is to read or write the layer of a store, in bytes of content; *size* of its stream."""
    try:
        split = os.stat(split_path(layer_id), dir_fd=root.fd).st_size
    except OSError:
        split = 0  # whoever needs the file complains
    return (size or 0) + ENTRY_WORK * split


@dataclass(frozen=True, slots=True)
class CopyLayer:
    """Copy a layer's tree into an empty directory."""

    store: Path
    """Graph root of the source."""
    layer_id: str
    target: Path
    weight: int
    shown: str = ""
    """The tree as messages show it."""
    flushed: bool = False
    """Whether all of it is to be on the disk when the job ends."""

    @property
    def shareable(self) -> int:
        """All of it."""
        return self.weight

    def run(self, progress: Progress) -> None:
        """See :func:`~installer_plugin.storage.layer.tree_copy.copy_tree`."""
        with self.opened() as (source, target):
            copy_tree(source, target, progress)
        self.flush()

    def flush(self) -> None:
        """Bring the copy to the disk if that is wanted; raises CommandError."""
        if self.flushed:
            sync_file_system(self.target, Runner())

    @contextmanager
    def opened(self) -> Iterator[tuple[int, int]]:
        """The tree and its target, open; errors of what is done with them name the tree."""
        with ExitStack() as stack:
            try:
                store = stack.enter_context(Rootfs.open(self.store))
                source = stack.enter_context(store.directory(tree_path(self.layer_id)))
            except OSError as error:
                message = f"cannot be read from the source: {error.strerror}"
                raise DataError(self.shown or self.layer_id, message, hint=READ_HINT) from error
            target = stack.enter_context(Rootfs.open(self.target))
            try:
                yield source, target.fd
            except DataError as error:
                subject = f"{self.shown}{error.subject}"
                raise DataError(subject, error.message, hint=error.hint) from error

    def joined(self, _results: Sequence[object]) -> None:
        """The last part has done everything."""

    @contextmanager
    def parts(self, count: int) -> Iterator[Sequence[CopyPart]]:
        """The same, done by *count* processes together."""
        links = self.target.parent / LINKS
        links.mkdir(mode=0o700)
        with turns() as bundles, turns() as ends:
            yield [CopyPart(self, links, bundles, ends, count)] * count


@dataclass(frozen=True, slots=True)
class CopyPart:
    """One process's part of a layer's tree that several copy together."""

    layer: CopyLayer
    links: Path
    """Where files of several names are made first: a directory on the target's file system."""
    bundles: Turns
    ends: Turns
    """Taken by each process when it has nothing more to copy."""
    count: int
    """How many processes there are."""

    @property
    def weight(self) -> int:
        """An equal part of the whole, as far as is known."""
        return self.layer.weight // self.count

    def run(self, progress: Progress) -> None:
        """Copy bundle after bundle; the last one to end finishes the tree."""
        with self.layer.opened() as (source, target):
            self.copy(source, target, progress)

    def copy(self, source: int, target: int, progress: Progress) -> None:
        """The same between two open directories."""
        with (
            self.bundles.taken() as bundle,
            self.ends.taken() as end,
            Rootfs.open(self.links) as links,
        ):
            copy_part(source, target, progress, bundle, links.fd)
            if end() == self.count - 1:
                finish_parts(source, target, links.fd)
                self.links.rmdir()
                self.layer.flush()


@dataclass(frozen=True, slots=True)
class ProveLayer:
    """Read a layer from the disk and prove what is said about it."""

    store: Path
    """Graph root."""
    claim: LayerClaim
    reading: Reading
    weight: int
    staged: Path | None = None
    """Where the layer and its parent may still be, laid out as in the store."""

    @property
    def shareable(self) -> int:
        """All of it."""
        return self.weight

    def opened(self) -> AbstractContextManager[LayerRoot]:
        """Where the layer is, open; raises OSError."""
        if self.staged is None:
            return Rootfs.open(self.store)
        return StagedOrStored(self.staged, self.store)

    def run(self, progress: Progress) -> LayerProof:
        """See :func:`~installer_plugin.storage.layer.proof.prove_layer`."""
        with self.opened() as root:
            return prove_layer(root, self.claim, progress, self.reading)

    @contextmanager
    def parts(self, count: int) -> Iterator[Sequence[ProvePart]]:
        """The same, done by *count* processes together."""
        with turns() as chunks, ring(count) as pieces:
            yield [ProvePart(self, number, count, chunks, pieces) for number in range(count)]

    def joined(self, results: Sequence[object]) -> LayerProof:
        """What the parts' proofs come to."""
        with self.opened() as root:
            parts = [part for part in results if isinstance(part, PartProof)]
            return joined_proof(root, self.claim, self.reading, parts)


@dataclass(frozen=True, slots=True)
class ProvePart:
    """One process's part of the proof of a layer."""

    layer: ProveLayer
    number: int
    """The first one, 0, also hashes what all prepare."""
    count: int
    chunks: Turns
    pieces: Ring

    @property
    def weight(self) -> int:
        """An equal part of the whole, as far as is known."""
        return self.layer.weight // self.count

    def run(self, progress: Progress) -> PartProof:
        """See :func:`~installer_plugin.storage.layer.proof_parts.prove_part`."""
        layer = self.layer
        with ExitStack() as stack:
            root = stack.enter_context(layer.opened())
            take_turn = stack.enter_context(self.chunks.taken())
            if not layer.reading.content:
                return prove_part(root, layer.claim, layer.reading, Part(take_turn, progress, None))
            digest = stack.enter_context(self._hashed()) if self.number == 0 else lambda: None
            with Preparer(self.pieces, self.number, progress) as preparer:
                part = Part(take_turn, progress, preparer)
                proof = prove_part(root, layer.claim, layer.reading, part)
            return replace(proof, diff_id=digest())

    @contextmanager
    def _hashed(self) -> Iterator[Callable[[], DiffId | None]]:
        """Hash what all prepare, in a thread; gives what waits for the digest."""
        # Slow to load, and most processes of ours hash what they read themselves.
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        with (
            ThreadPoolExecutor(1, thread_name_prefix="hash") as thread,
            OrderedHash(self.pieces) as hashed,
        ):
            yield thread.submit(hashed.run).result


def path_for_others(root: Rootfs) -> Path:
    """Where other processes of ours find an open directory, whatever its path means to them."""
    return Path(f"/proc/{os.getpid()}/fd/{root.fd}")
