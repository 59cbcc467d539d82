"""Has jobs done, by several processes where there is enough to do.

Threads would not share the work: every call into the kernel gives the interpreter's lock away, and with
thousands of small files most of the time would be spent on getting it back. A thread for each process
only passes on what is said.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Self

from installer_plugin.process.pool_worker import (
    Ended,
    Failed,
    Inbox,
    Job,
    Message,
    Moved,
    SharedJob,
    Tell,
    is_message,
    work_off,
)
from installer_plugin.process.processors import usable_processors
from installer_plugin.process.runner import (
    Command,
    CommandError,
    Runner,
    bound_to_us_argv,
    our_program_argv,
)
from installer_plugin.process.schedule import Needs, Schedule, Task, can_be_shared
from installer_plugin.process.signals import uninterrupted
from installer_plugin.process.threads import Thread

PROGRAM = "installer_plugin.process.pool_worker"
THREAD = "crew"
MAX_WORKERS = 4
"""More processes than this wait for the disk."""
WORTH_A_PROCESS = 512 << 20
"""Bytes of work below which it takes longer to start processes than they save."""
WORTH_ANOTHER = 32 << 20
"""The same when processes were started before, for other jobs."""
END_SECONDS = 0.05
"""How often processes that are still running are ended."""


class Crew:
    """Does jobs. Its processes are started when they are first worth it, and kept for the next jobs.

    A context manager; all of them have ended when it is left.
    """

    def __init__(self, runner: Runner) -> None:
        """*runner*: of the kind that the processes are started by."""
        self._runner = runner.another()
        """For us alone: all that it has started is ended with us."""
        self._workers: list[_Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with uninterrupted():
            self._dismiss()

    def do(
        self, jobs: Sequence[Job], needs: Needs | None = None, workers: int | None = None
    ) -> Generator[Moved | Ended]:
        """Have *jobs* done, begun in their order, and say how it goes; close the iterator to stop.

        *workers*: how many at the same time, None for as many as are worth it. Raises what a
        job raises, and CommandError for a process that ends without an answer; all work has ended by
        then.
        """
        count = workers or self.worth(jobs)
        if not any(map(can_be_shared, jobs)):
            count = min(count, len(jobs))
        with Schedule(jobs, needs or {}, count) as schedule:
            if count > 1:
                yield from _joined(self._by_processes(schedule, count), jobs)
            elif jobs:
                yield from _joined(_done_here(schedule), jobs)

    def expect(self, work: int) -> None:
        """Start what *work* bytes are worth, to be ready when there are jobs."""
        count = self._worth(work)
        if count > 1:
            self._start(count)

    def worth(self, jobs: Sequence[Job]) -> int:
        """How many workers *jobs* are worth."""
        return self._worth(sum(job.weight for job in jobs))

    def _worth(self, work: int) -> int:
        least = WORTH_ANOTHER if self._workers else WORTH_A_PROCESS
        return min(usable_processors(), MAX_WORKERS) if work >= least else 1

    def _start(self, count: int) -> Sequence[_Process]:
        """So many processes that live."""
        with uninterrupted():
            for worker in [worker for worker in self._workers if not worker.thread.is_alive()]:
                self._workers.remove(worker)
                worker.close()
            while len(self._workers) < count:
                self._workers.append(_Process(self._runner))
        return self._workers[:count]

    def _by_processes(self, schedule: Schedule, count: int) -> Generator[Moved | _Results]:
        workers = self._start(count)
        work = _Work(schedule, [worker.give for worker in workers])
        finished = False
        try:
            with uninterrupted():  # in the midst of it, a lock would stay taken
                for number, worker in enumerate(workers):
                    worker.listen(partial(work.hear, number))
                work.begin()
            yield from work.said()
            finished = True
        finally:
            with uninterrupted():
                for worker in workers:
                    worker.listen(None)
                if not finished:
                    work.stop()
                    self._end()

    def _end(self) -> None:
        """Return when no process works any more, whatever it was doing."""
        while living := [worker for worker in self._workers if worker.thread.is_alive()]:
            self._runner.end_all()
            living[0].thread.join(END_SECONDS)
        self._dismiss()

    def _dismiss(self) -> None:
        """Let the processes end, which have nothing to do."""
        with ExitStack() as stack:
            while self._workers:
                stack.callback(self._workers.pop().close)


class _Stopped(Exception):  # noqa: N818 - ends a thread's work, is never reported
    """Nobody listens any more."""


@dataclass(frozen=True, slots=True)
class _Results:
    """A job has ended; what it has given, or each of its parts."""

    index: int
    results: Sequence[object]


class _Process:
    """A process that does one job after the other, and the thread that hears what it says."""

    def __init__(self, runner: Runner) -> None:
        self._jobs = os.pipe()
        pipe = f"/proc/{os.getpid()}/fd/{self._jobs[0]}"
        argv = bound_to_us_argv(our_program_argv(PROGRAM, pipe))
        self._command = Command(argv=argv, purpose="work on layers", umask=0)
        self._lock = threading.Lock()
        self._hear: Tell | None = None
        self._failed: Failed | None = None
        self.thread = Thread(partial(self._follow, runner), THREAD)
        """Runs as long as the process does."""
        self.thread.begin()

    def give(self, task: Task) -> None:
        """Have *task* done next."""
        os.write(self._jobs[1], pickle.dumps((task.index, task.job)))

    def listen(self, hear: Tell | None) -> None:
        """Say what is said to *hear*, also that the process has failed before; None for nobody."""
        with self._lock:
            self._hear = hear
            if hear and self._failed:
                hear(self._failed)

    def close(self) -> None:
        """Let the process end and wait for it; raises what none of its messages may raise.

        The pipe stays open meanwhile: a process that has just been started is still to open it.
        """
        os.write(self._jobs[1], pickle.dumps(None))
        self.thread.wait()
        for fd in self._jobs:
            os.close(fd)
        self.thread.check()

    def _follow(self, runner: Runner) -> None:
        failed = Failed(CommandError(self._command, "ended without an answer", ""))
        try:
            runner.follow(self._command, Inbox(self._said).add)
        except CommandError as error:
            said = (line for line in error.stderr.splitlines() if not is_message(line))
            failed = Failed(CommandError(error.command, error.ending, "\n".join(said)))
        except _Stopped:
            return
        finally:
            with self._lock:
                self._failed = failed
                if self._hear:
                    self._hear(failed)

    def _said(self, message: Message) -> None:
        if self._hear is None:
            raise _Stopped
        self._hear(message)


class _Work:
    """Jobs on their way: hands them out to those who are free, and passes on what is said of them."""

    def __init__(self, schedule: Schedule, workers: Sequence[Callable[[Task], None]]) -> None:
        """*workers*: what gives each of them a task."""
        self._schedule = schedule
        self._workers = workers
        self._free = set(range(len(workers)))
        self._lock = threading.Lock()
        self._messages: queue.SimpleQueue[Moved | _Results | Failed | None] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def begin(self) -> None:
        """Give every worker what there is for it."""
        with self._lock:
            self._hand_out()

    def stop(self) -> None:
        """Have whoever says something more stop."""
        self._stopped.set()

    def hear(self, worker: int, message: Message) -> None:
        """Take what *worker* says, and give it the next task."""
        if self._stopped.is_set():
            raise _Stopped
        if not isinstance(message, Ended):
            self._messages.put(message)
            return
        with self._lock:
            results = self._schedule.ended(message.index, message.result)
            if results is not None:
                self._messages.put(_Results(message.index, results))
            self._free.add(worker)
            self._hand_out()

    def over(self) -> None:
        """End :meth:`said`."""
        self._messages.put(None)

    def said(self) -> Generator[Moved | _Results]:
        """What is said until all is done; raises the error of the first job that fails."""
        while (message := self._messages.get()) is not None:
            if isinstance(message, Failed):
                raise message.error
            yield message

    def _hand_out(self) -> None:
        try:
            for worker in sorted(self._free):
                task = self._schedule.next_for(worker)
                if task:
                    self._free.remove(worker)
                    self._workers[worker](task)
        except OSError as error:
            self._messages.put(Failed(error))
        if self._schedule.done:
            self.over()


def _done_here(schedule: Schedule) -> Generator[Moved | _Results]:
    """Do all jobs one after the other in a thread, so that it can be said how it goes."""
    tasks: deque[Task] = deque()
    work = _Work(schedule, [tasks.append])
    thread = Thread(partial(_work_here, tasks, work), THREAD)
    work.begin()
    try:
        thread.begin()
        yield from work.said()
    finally:
        with uninterrupted():
            work.stop()
            thread.wait()
    thread.check()


def _work_here(tasks: deque[Task], work: _Work) -> None:
    try:
        with suppress(_Stopped):
            while tasks:  # whoever hears that one has ended has put the next one there
                task = tasks.popleft()
                work_off(task.index, task.job, partial(work.hear, 0))
    finally:
        work.over()


def _joined(said: Generator[Moved | _Results], jobs: Sequence[Job]) -> Generator[Moved | Ended]:
    """The same, with one result for each job."""
    with closing(said):
        for message in said:
            if isinstance(message, Moved):
                yield message
                continue
            job, results = jobs[message.index], message.results
            if len(results) > 1 and isinstance(job, SharedJob):
                yield Ended(message.index, job.joined(results))
            else:
                yield Ended(message.index, results[0])
