"""Who does which job next: jobs that wait for others, and large ones that several workers do together.

A job is shared when its worker would still be at it when the others have nothing left to do. Each of
them takes its part when it is free, whoever began: nobody waits for a worker that waits for him.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self, TypeGuard

from installer_plugin.process.pool_worker import Job, SharedJob

WORTH_SHARING = 256 << 20
"""Shareable bytes of one job below which it is done by one process, whatever the others do meanwhile."""
EQUAL_ENOUGH = 1.15
"""The most that a worker may have to do, in fair parts, before a large job is shared."""

Needs = Mapping[int, Collection[int]]
"""The jobs that have to end before another one begins, by the number of that one."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job, or one worker's part of it."""

    index: int
    job: Job


@dataclass(slots=True)
class _Shared:
    """Parts of a job that no worker has taken yet."""

    parts: list[Job]
    taken_by: set[int] = field(default_factory=set)


class Schedule:
    """Jobs in their order, on their way to workers. To be asked by one thread at a time.

    A context manager: what the parts of a job share is kept until it is left.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        needs: Needs,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*workers*: how many there are, numbered from 0 on; *clock* gives seconds."""
        self._jobs = jobs
        self._workers = workers
        self._common = ExitStack()
        self._waiting = {index: set(needs.get(index, ())) for index in range(len(jobs))}
        """What each job that was not begun still needs."""
        self._shared: dict[int, _Shared] = {}
        self._unended: dict[int, int] = {}
        """Tasks that have not ended, of each job that was begun."""
        self._results: dict[int, list[object]] = {}
        self._clock = clock
        self._began: dict[int, float] = {}
        self._speed = 0.0
        """Weight that one worker does in a second; 0 until a job has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._common.close()

    @property
    def done(self) -> bool:
        """Whether every job has ended."""
        return not self._waiting and not self._unended

    def next_for(self, worker: int) -> Task | None:
        """What *worker* is to do now; None when there is nothing for it until another task has ended.

        Raises OSError when a job cannot be made ready to be shared.
        """
        for index, shared in self._shared.items():
            if worker not in shared.taken_by:
                shared.taken_by.add(worker)
                return Task(index, shared.parts.pop())
        index = next((index for index, needed in self._waiting.items() if not needed), -1)
        if index < 0:
            return None
        job = self._jobs[index]
        if self._workers > 1 and can_be_shared(job) and self._is_worth_sharing(index):
            parts = self._common.enter_context(job.parts(self._workers))
            self._shared[index] = _Shared([*reversed(parts)])
            self._begun(index, len(parts))
            return self.next_for(worker)
        self._begun(index, 1)
        return Task(index, job)

    def ended(self, index: int, result: object) -> Sequence[object] | None:
        """Note that a task of a job has ended; the results of them all when it was the last one."""
        self._results[index].append(result)
        self._unended[index] -= 1
        if self._unended[index]:
            return None
        del self._unended[index]
        if self._shared.pop(index, None) is None:
            spent = self._clock() - self._began[index]
            self._speed = self._jobs[index].weight / spent if spent else 0.0
        for needed in self._waiting.values():
            needed.discard(index)
        return self._results.pop(index)

    def _begun(self, index: int, tasks: int) -> None:
        del self._waiting[index]
        self._unended[index] = tasks
        self._results[index] = []
        self._began[index] = self._clock()

    def _is_worth_sharing(self, index: int) -> bool:
        """Whether a worker that does the job alone would be the last one at work.

        What waits for it counts as done by all workers together. To wait for one who comes late would
        cost more than doing it alone.
        """
        after = max(
            (self._together(each) for each, needed in self._waiting.items() if index in needed),
            default=0.0,
        )
        waiting = sum(self._jobs[each].weight for each in self._waiting)
        fair = (waiting + sum(map(self._left_of, self._unended))) / self._workers
        return self._jobs[index].weight + after > fair * EQUAL_ENOUGH

    def _left_of(self, index: int) -> float:
        """Weight of what is left of a running job, by what the last one took."""
        done = self._speed * (self._clock() - self._began[index])
        return max(self._jobs[index].weight - done, 0.0)

    def _together(self, index: int) -> float:
        job = self._jobs[index]
        return job.weight / self._workers if can_be_shared(job) else job.weight


def can_be_shared(job: Job) -> TypeGuard[SharedJob]:
    """Whether several workers may do *job* sooner than one."""
    return isinstance(job, SharedJob) and job.shareable >= WORTH_SHARING
