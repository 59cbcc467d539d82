"""Has jobs done, by several processes where there is enough to do.

Threads would not share the work: every call into the kernel gives the interpreter's lock away, and with
thousands of small files most of the time would be spent on getting it back.
"""

from __future__ import annotations

import pickle
import queue
import threading
from collections import Counter
from collections.abc import Container, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from installer_plugin.process.pool_worker import (
    Ended,
    Failed,
    Inbox,
    Job,
    Message,
    Moved,
    Share,
    SharedJob,
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

PROGRAM = "installer_plugin.process.pool_worker"
MAX_WORKERS = 4
"""More processes than this wait for the disk."""
WORTH_A_PROCESS = 512 << 20
"""Bytes of work below which it takes longer to start processes than they save."""
WORTH_SHARING = 256 << 20
"""Shareable bytes of one job below which it is done by one process, whatever the others do meanwhile."""
EQUAL_ENOUGH = 1.15
"""The most that a worker may have to do, in fair parts, before large jobs are shared."""
END_SECONDS = 0.05
"""How often processes that are still running are ended."""


def do_jobs(
    jobs: Sequence[Job], runner: Runner, workers: int | None = None
) -> Generator[Moved | Ended]:
    """Have *jobs* done, begun in their order, and say how it goes; close the iterator to stop.

    *workers*: how many at the same time, None for as many as are worth it. Raises the OSError or
    DataError of a job, and CommandError for a process that ends without an answer; all work has ended
    by then.
    """
    crew = _Crew(runner.another())
    with ExitStack() as common:
        shares = _assigned(jobs, workers or _worthwhile(jobs), common)
        work = crew.work if len(shares) > 1 else crew.work_here
        with ThreadPoolExecutor(max(len(shares), 1), thread_name_prefix="crew") as pool:
            members = [pool.submit(work, share) for share in shares]
            try:
                yield from _joined(crew.said(members), jobs, shares)
            finally:
                crew.end(members)


def _assigned(jobs: Sequence[Job], workers: int, common: ExitStack) -> list[Share]:
    """The jobs of each of *workers*: first its parts of those that all do together, then whole ones.

    *common* keeps what the parts share. Parts come in the same order for all: nobody waits for
    somebody who waits for him.
    """
    together = set(worth_sharing(jobs, workers))
    parts: list[list[tuple[int, Job]]] = [[] for _ in range(workers)]
    for index, job in _chosen(jobs, together):
        own = common.enter_context(job.parts(workers))
        for worker, part in enumerate(own):
            parts[worker].append((index, part))
    whole = [(index, job) for index, job in enumerate(jobs) if index not in together]
    shares = shared_out([job for _, job in whole], workers)
    renumbered = [[(whole[number][0], job) for number, job in share] for share in shares]
    renumbered += [[] for _ in range(workers - len(renumbered))]
    return [share for share in map(list.__add__, parts, renumbered) if share]


def _chosen(jobs: Sequence[Job], chosen: Container[int]) -> Iterator[tuple[int, SharedJob]]:
    """The chosen jobs, each with its number."""
    for index, job in enumerate(jobs):
        if index in chosen and isinstance(job, SharedJob):
            yield index, job


def worth_sharing(jobs: Sequence[Job], workers: int) -> Iterator[int]:
    """Numbers of the jobs that would keep one worker busy when the others have nothing left to do.

    None while whole jobs keep all of them about equally busy: what is shared is begun by each of them.
    """
    fair = sum(job.weight for job in jobs) / workers
    most = max((_load(share) for share in shared_out(jobs, workers)), default=0)
    if most <= fair * EQUAL_ENOUGH:
        return
    for index, job in enumerate(jobs):
        large = job.weight >= fair / 2
        if large and isinstance(job, SharedJob) and job.shareable >= WORTH_SHARING:
            yield index


def _load(share: Share) -> int:
    return sum(job.weight for _, job in share)


def shared_out(jobs: Sequence[Job], workers: int) -> list[Share]:
    """The jobs of each of *workers*: every job goes to the one with the least to do so far."""
    shares: list[list[tuple[int, Job]]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for index, job in enumerate(jobs):
        least = loads.index(min(loads))
        shares[least].append((index, job))
        loads[least] += max(job.weight, 1)
    return [share for share in shares if share]


def _joined(
    said: Iterator[Moved | Ended], jobs: Sequence[Job], shares: Sequence[Share]
) -> Generator[Moved | Ended]:
    """The same, but a job ends once: with its last part."""
    parts = Counter(index for share in shares for index, job in share if job is not jobs[index])
    results: dict[int, list[object]] = {index: [] for index in parts}
    for message in said:
        if not isinstance(message, Ended) or message.index not in results:
            yield message
            continue
        results[message.index].append(message.result)
        job = jobs[message.index]
        if len(results[message.index]) == parts[message.index] and isinstance(job, SharedJob):
            yield Ended(message.index, job.joined(results.pop(message.index)))


def _worthwhile(jobs: Sequence[Job]) -> int:
    if sum(job.weight for job in jobs) < WORTH_A_PROCESS:
        return 1
    return min(usable_processors(), MAX_WORKERS)


class _Stopped(Exception):  # noqa: N818 - ends a thread's work, is never reported
    """Nobody listens any more."""


class _Crew:
    """Threads that look after one process each, or a single one that does the work itself."""

    def __init__(self, runner: Runner) -> None:
        """*runner* is for us alone: all that it has started is ended with us."""
        self._runner = runner
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def work(self, share: Share) -> None:
        """Have a process do *share*."""
        argv = bound_to_us_argv(our_program_argv(PROGRAM))
        command = Command(argv=argv, purpose=f"work on {len(share)} layers", umask=0)
        try:
            self._runner.follow(command, Inbox(self._tell).add, stdin=pickle.dumps(share))
        except CommandError as error:
            self._tell(Failed(error))
        finally:
            self._messages.put(None)

    def work_here(self, share: Share) -> None:
        """Do *share* in this thread."""
        try:
            work_off(share, self._tell)
        finally:
            self._messages.put(None)

    def said(self, members: Sequence[Future[None]]) -> Iterator[Moved | Ended]:
        """What all *members* say, until they have ended or one of them has failed."""
        ended = 0
        while ended < len(members):
            message = self._messages.get()
            if isinstance(message, Failed):
                raise message.error
            if message is None:
                ended += 1
            else:
                yield message
        for member in members:
            member.result()

    def end(self, members: Sequence[Future[None]]) -> None:
        """Return when no member works any more, whatever it was doing."""
        self._stopped.set()
        for member in members:
            member.cancel()
        while not all(member.done() for member in members):
            if len(members) > 1:
                self._runner.end_all()
            wait(members, timeout=END_SECONDS)

    def _tell(self, message: Message) -> None:
        if self._stopped.is_set():
            raise _Stopped
        self._messages.put(message)
