"""A schedule that is played without doing anything: who begins what, and when all has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from installer_plugin.process.pool_worker import Job
from installer_plugin.process.schedule import Needs, Schedule, Task


def played(
    jobs: Sequence[Job], needs: Needs, workers: int, seconds: Callable[[Task], float]
) -> tuple[float, list[Task]]:
    """The time at which *workers* have done *jobs*, and the tasks in the order of their beginning.

    *seconds* says what a task takes.
    """
    now, begun = 0.0, list[Task]()
    at_work: dict[int, tuple[float, Task]] = {}
    with Schedule(jobs, needs, workers, lambda: now) as schedule:
        while not schedule.done:
            for worker in range(workers):
                task = None if worker in at_work else schedule.next_for(worker)
                if task:
                    begun.append(task)
                    at_work[worker] = (now + seconds(task), task)
            worker = min(at_work, key=lambda each: at_work[each][0])
            now, task = at_work.pop(worker)
            schedule.ended(task.index, None)
    return now, begun
