"""How the time of a copy would grow with processors: its jobs one by one, and then who does them.

Each job is done alone and timed; the schedule then hands them out to so many workers on paper. Jobs
that are shared are taken to be divisible without loss, but for the one that hashes a layer's stream.
What the kernel does not do twice at a time (files made in one file system) is not in it.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin.events import Events
from installer_plugin.expectations import expected_of_resolved
from installer_plugin.process.pool import Crew
from installer_plugin.process.pool_worker import Ended, Job, Moved, Progress, SharedJob
from installer_plugin.process.runner import Runner
from installer_plugin.process.schedule import Needs, Task
from installer_plugin.stages.copy import CopyOptions, copy
from installer_plugin.stages.preflight import Plan, preflight
from installer_plugin.stages.verify import VerifyOptions, verify
from installer_plugin.storage.layer.jobs import ProveLayer
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.target_store import find_target_store
from tests.bench.copy_alone import selected_directly
from tests.support.on_paper import played

PROCESSORS = (1, 2, 4, 8)
HASHED = 256 << 20


@dataclass(frozen=True, slots=True)
class Paper:
    """A job, or a part of one, that is only handed out."""

    weight: int
    shareable: int
    seconds: float
    """What the whole took alone."""
    hashed: int
    """Bytes that have to be hashed in their order."""

    def run(self, progress: Progress) -> object:
        """Is never run."""
        raise NotImplementedError

    def joined(self, results: Sequence[object]) -> object:
        """Has no result."""
        raise NotImplementedError

    @contextmanager
    def parts(self, count: int) -> Iterator[Sequence[Paper]]:
        """One for each worker."""
        yield [replace(self, seconds=self.seconds / count) for _ in range(count)]


def _paper(job: Job, seconds: float) -> Paper:
    shareable = job.shareable if isinstance(job, SharedJob) else 0
    hashed = job.claim.size or 0 if isinstance(job, ProveLayer) else 0
    return Paper(job.weight, shareable, seconds, hashed)


@dataclass(frozen=True, slots=True)
class Round:
    """Jobs that one crew was given at once."""

    jobs: Sequence[Paper]
    needs: Needs

    @property
    def alone(self) -> float:
        """Seconds that one worker needs."""
        return sum(job.seconds for job in self.jobs)

    def together(self, workers: int, hashing: float) -> float:
        """Seconds until *workers* have done all of it; *hashing*: bytes of a stream in a second."""

        def seconds(task: Task) -> float:
            assert isinstance(task.job, Paper)
            return max(task.job.seconds, task.job.hashed / hashing)

        return played(self.jobs, self.needs, workers, seconds)[0]


class TimedCrew(Crew):
    """Does every job itself, alone, and keeps how long it took; plans as if others were there."""

    def __init__(self) -> None:
        super().__init__(Runner())
        self.rounds: list[Round] = []

    def expect(self, work: int) -> None:
        """Nothing is started."""

    def worth(self, jobs: Sequence[Job]) -> int:
        """More than one, so that layers are read back."""
        return len(PROCESSORS)

    def do(
        self, jobs: Sequence[Job], needs: Needs | None = None, workers: int | None = None
    ) -> Generator[Moved | Ended]:
        """Do *jobs*, which are in an order that their needs allow."""
        done = []
        for index, job in enumerate(jobs):
            began = time.monotonic()
            result = job.run(lambda _: None)
            done.append(_paper(job, time.monotonic() - began))
            yield Ended(index, result)
        self.rounds.append(Round(done, needs or {}))


def print_growth(store: Path, source_root: Path, target: Path) -> None:
    """Copy all bound images of *source_root* to *target*, and say what more processors would do."""
    crew = TimedCrew()
    began = time.monotonic()
    _copy(crew, store, source_root, target)
    alone = time.monotonic() - began
    jobs = sum(each.alone for each in crew.rounds)
    hashing = _hashing()
    sys.stdout.write(f"one job at a time: {alone:.2f} s, {alone - jobs:.2f} s of it between jobs\n")
    for count in PROCESSORS:
        spans = [each.together(count, hashing) for each in crew.rounds]
        parts = ", ".join(f"{span:.2f}" for span in spans)
        total = alone - jobs + sum(spans)
        sys.stdout.write(f"{count} processors: {total:6.2f} s ({total / alone:.2f}): {parts}\n")
    sys.stdout.flush()


def _copy(crew: Crew, store: Path, source_root: Path, target: Path) -> None:
    runner, place = Runner(), find_target_store(target)
    with selected_directly(store, source_root, crew) as selected:
        images = tuple(each.image for each in selected)
        preflight(Plan(images=images, selected=selected, stores=(store,)), crew, runner)
        options = CopyOptions(selected=selected, scratch=(target,), read_back=True)
        there = copy(place, options, Events(), runner)
    proof = VerifyOptions(read_back=there.read_back)
    with GraphRoot.open(place.graph_root) as made:
        verify(made, expected_of_resolved(images), Events(), crew, proof)


def _hashing() -> float:
    """Bytes that SHA-256 takes in a second."""
    piece, began = bytes(HASHED), time.monotonic()
    hashlib.sha256(piece)
    return HASHED / (time.monotonic() - began)
