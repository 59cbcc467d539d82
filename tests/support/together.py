"""A layer proven by several workers together, here by threads, in chunks of very few entries."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from installer_plugin.storage.layer import tar_split
from installer_plugin.storage.layer.jobs import ProveLayer
from installer_plugin.storage.layer.proof import LayerClaim, LayerProof, Reading
from installer_plugin.storage.layer.proof_parts import PartProof


def proven_together(
    store: Path, claim: LayerClaim, reading: Reading, workers: int = 2, chunk: int = 2
) -> LayerProof:
    """The proof that *workers* come to; *chunk*: lines of tar-split that one takes at a time."""
    job = ProveLayer(store, claim, reading, 1)
    return job.joined(parts_proven(job, workers, chunk))


def parts_proven(job: ProveLayer, workers: int, chunk: int) -> list[PartProof]:
    """What each worker finds."""
    with (
        chunks_of(chunk),
        job.parts(workers) as parts,
        ThreadPoolExecutor(workers) as pool,
    ):
        return list(pool.map(lambda part: part.run(lambda _: None), parts))


@contextmanager
def chunks_of(lines: int) -> Iterator[None]:
    """Have tar-split files cut where every so many lines are over."""
    with patch.object(tar_split, "CHUNK", lines):
        yield
