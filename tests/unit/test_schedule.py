"""Which worker gets which job, in every order in which jobs may end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from installer_plugin.process.pool_worker import Job, Progress
from installer_plugin.process.schedule import WORTH_SHARING, Schedule, Task
from tests.support.on_paper import played

LARGE = WORTH_SHARING


@dataclass(frozen=True, slots=True)
class Whole:
    """A job for one worker."""

    weight: int

    def run(self, _progress: Progress) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a job."""

    number: int
    weight: int = 0

    def run(self, _progress: Progress) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Parted:
    """A job that may be shared."""

    weight: int
    shareable: int

    def run(self, _progress: Progress) -> None:
        raise NotImplementedError

    def joined(self, results: Sequence[object]) -> object:
        return results

    @contextmanager
    def parts(self, count: int) -> Iterator[Sequence[Job]]:
        yield [Part(number) for number in range(count)]


def _parted(*weights: int) -> list[Job]:
    return [Parted(weight * LARGE, weight * LARGE) for weight in weights]


def _shared(jobs: Sequence[Job], needs: Mapping[int, Sequence[int]], workers: int) -> list[int]:
    """Numbers of the jobs that are shared when each worker ends what it does in time of its weight."""

    def seconds(task: Task) -> float:
        return jobs[task.index].weight / (workers if isinstance(task.job, Part) else 1)

    _, begun = played(jobs, needs, workers, seconds)
    return list(dict.fromkeys(task.index for task in begun if isinstance(task.job, Part)))


@pytest.mark.parametrize(
    ("jobs", "needs", "workers", "expected"),
    [
        (_parted(1), {}, 1, []),
        (_parted(1), {}, 2, [0]),
        ([Parted(LARGE, LARGE - 1)], {}, 2, []),
        ([Whole(LARGE)], {}, 2, []),
        (_parted(8, 1, 1), {}, 2, [0]),
        (_parted(1, 1), {}, 2, []),
        (_parted(4, 2, 2), {}, 2, []),
        (_parted(2, 2), {1: [0]}, 2, [0, 1]),
        (_parted(3, 2, 3, 1), {2: [0], 3: [1]}, 2, [2]),
        (_parted(4, 5, 4), {}, 2, [2]),
        (_parted(4, 8, 4), {}, 2, []),
    ],
    ids=[
        "nobody to share it with", "all there is", "too little of it", "cannot be shared",
        "more than all others", "one for each", "others have as much to do",
        "nothing else to do until it has ended", "what waits for it can be shared",
        "the other has nearly done", "the other has much to do",
    ],
)  # fmt: skip
def test_job_is_shared_when_it_would_keep_one_worker_busy_alone(
    jobs: Sequence[Job], needs: Mapping[int, Sequence[int]], workers: int, expected: list[int]
) -> None:
    assert _shared(jobs, needs, workers) == expected


def test_every_worker_takes_its_part_before_anything_else() -> None:
    with Schedule([*_parted(8), Whole(1), Whole(1)], {}, 3) as schedule:
        tasks = [schedule.next_for(worker) for worker in (2, 0, 1, 2)]
        assert tasks == [Task(0, Part(0)), Task(0, Part(1)), Task(0, Part(2)), Task(1, Whole(1))]


def test_results_come_with_the_last_part() -> None:
    with Schedule(_parted(1), {}, 2) as schedule:
        assert schedule.next_for(0)
        assert schedule.next_for(1)
        assert schedule.ended(0, "a") is None
        assert not schedule.done
        assert schedule.ended(0, "b") == ["a", "b"]
        assert schedule.done


def test_worker_has_nothing_to_do_until_what_is_needed_has_ended() -> None:
    with Schedule([Whole(1), Whole(1)], {1: [0]}, 2) as schedule:
        assert schedule.next_for(0) == Task(0, Whole(1))
        assert schedule.next_for(1) is None
        assert not schedule.done
        assert schedule.ended(0, None) == [None]
        assert schedule.next_for(1) == Task(1, Whole(1))
