"""Proof of one layer by several processes: the stream is cut into chunks, and each takes the next one.

Who has a chunk reads its files, compares its headers with them, and hands its bytes to the one that
hashes the whole stream in order. What was made is put together at the end. The parts only ever say
that nothing is wrong: as soon as anything might be, the layer is proven again by one process, whose
words are the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from installer_plugin.errors import DataError
from installer_plugin.model import DiffId
from installer_plugin.storage.layer.defects import Defect, Defects
from installer_plugin.storage.layer.metadata_check import Made, MetadataCheck
from installer_plugin.storage.layer.piece_ring import Preparer
from installer_plugin.storage.layer.proof import (
    MAX_LAYER,
    TAR_SPLIT,
    LayerClaim,
    LayerProof,
    LayerRoot,
    Reading,
    Rebuild,
    opened_tree,
    parent_root,
    prove_layer,
    stored_split,
)
from installer_plugin.storage.layer.tar_header import HeaderReader
from installer_plugin.storage.layer.tar_split import Chunk, read_chunks
from installer_plugin.storage.layer.tar_stream import Progress, TarStream


@dataclass(frozen=True, slots=True, kw_only=True)
class PartProof:
    """What one process has found in its chunks."""

    made: Made | None = None
    """None when something may be wrong."""
    defects: tuple[Defect, ...] = ()
    size: int = 0
    """Bytes of its chunks."""
    diff_id: DiffId | None = None
    """Of the whole stream; of the process that has hashed it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a process works with."""

    take_turn: Callable[[], int]
    progress: Progress
    preparer: Preparer | None
    """Where the stream's bytes go; None when no content is read."""


def prove_part(root: LayerRoot, claim: LayerClaim, reading: Reading, part: Part) -> PartProof:
    """Read chunk after chunk that nobody else has; raises nothing but what the progress does."""
    defects = Defects()
    made: Made | None = None
    limit = MAX_LAYER if claim.size is None else claim.size
    stream = TarStream(limit, part.progress, defects.add, part.preparer)
    try:
        with opened_tree(root, claim.id, drop_cache=reading.drop_cache) as tree, stream:
            check = MetadataCheck(tree, defects, parent_root(root, claim.parent))
            rebuild = Rebuild(tree, check, stream)
            with stored_split(root, claim.id, drop_cache=reading.drop_cache) as (file, path):
                chunks = read_chunks(file, path, part.take_turn)
                whole = all(_is_read(chunk, rebuild, part.preparer) for chunk in chunks)
            made = check.made() if whole and not stream.broken else None
    except DataError as error:
        defects.append(Defect("", f"{error.subject}: {error.message}"))
    except OSError as error:
        defects.append(Defect("", f"cannot be read: {error.strerror}"))
    if defects.found:
        made = None
    if part.preparer and made is None:
        part.preparer.fail()
    return PartProof(made=made, defects=tuple(defects.found), size=stream.size)


def _is_read(chunk: Chunk, rebuild: Rebuild, preparer: Preparer | None) -> bool:
    """Read a chunk; whether the one after it can be read by somebody who has not seen this one."""
    headers = HeaderReader(TAR_SPLIT, chunk.padding)
    if preparer:
        preparer.chunk = chunk.number
    rebuild.run(chunk.entries, headers)
    rebuild.stream.drain()
    if preparer:
        preparer.cut()
    return chunk.next_padding is None or headers.goes_on_after(chunk.next_padding)


def joined_proof(
    root: LayerRoot, claim: LayerClaim, reading: Reading, parts: Sequence[PartProof]
) -> LayerProof:
    """What the parts come to; the layer is read again unless they come to a proof."""
    size = sum(part.size for part in parts)
    hashed = [part.diff_id for part in parts if part.diff_id is not None]
    content = hashed == [claim.diff_id] or not reading.content
    if content and claim.size in {None, size} and _agree(root, claim, reading, parts):
        return LayerProof(defects=(), size=size)
    proof = prove_layer(root, claim, lambda _: None, reading)
    # What was seen once was seen, even if a second look does not find it.
    seen = dict.fromkeys(defect for part in parts for defect in part.defects)
    return proof if proof.defects else LayerProof(defects=tuple(seen), size=proof.size)


def _agree(
    root: LayerRoot, claim: LayerClaim, reading: Reading, parts: Sequence[PartProof]
) -> bool:
    """Whether the parts together make the layer that is there, and nothing else."""
    defects = Defects()
    try:
        with opened_tree(root, claim.id, drop_cache=reading.drop_cache) as tree:
            check = MetadataCheck(tree, defects, parent_root(root, claim.parent))
            if not all(part.made is not None and check.take(part.made) for part in parts):
                return False
            check.finish(lambda: None)
    except (DataError, OSError):
        return False
    return not defects.found
