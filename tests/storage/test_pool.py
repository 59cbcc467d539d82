"""Jobs on layers: who does them, what is heard of them, and that all of them end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.process import pool
from installer_plugin.process.pool import WORTH_A_PROCESS, WORTH_ANOTHER, Crew
from installer_plugin.process.pool_worker import Ended, Inbox, Job, Message, Moved, lines_of
from installer_plugin.process.procfs import lives
from installer_plugin.process.runner import Command, CommandError, Runner
from installer_plugin.process.schedule import WORTH_SHARING
from installer_plugin.process.turns import Turns, turns
from tests.support.commands import run

SECONDS = 20


@dataclass(frozen=True, slots=True)
class Told:
    """Says who did it, and how often it was asked for progress."""

    word: str
    weight: int = 1

    def run(self, progress: Callable[[int], None]) -> tuple[str, int]:
        progress(3)
        return self.word, os.getpid()


@dataclass(frozen=True, slots=True)
class Broken:
    """Fails in the way it was told."""

    error: Exception
    weight: int = 1

    def run(self, progress: Callable[[int], None]) -> None:
        raise self.error


@dataclass(frozen=True, slots=True)
class Dies:
    """Ends its process without a word."""

    weight: int = 1

    def run(self, progress: Callable[[int], None]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Endless:
    """Works until it is stopped, and leaves a file while it does."""

    file: Path
    weight: int = 1

    def run(self, progress: Callable[[int], None]) -> None:
        while True:
            new = self.file.with_suffix(".new")
            new.write_text(str(os.getpid()))
            new.replace(self.file)
            progress(1)
            time.sleep(0.001)


@pytest.fixture(autouse=True)
def _jobs_are_known_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the jobs of this module, which an installed package does not have."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def do_jobs(
    jobs: Sequence[Job], runner: Runner, workers: int | None = None
) -> Generator[Moved | Ended]:
    """Have a crew of its own do *jobs*."""
    with Crew(runner) as crew, closing(crew.do(jobs, workers=workers)) as said:
        yield from said


@pytest.mark.parametrize(
    ("weights", "workers", "processes"),
    [
        ([1, 1], None, 0),
        ([WORTH_A_PROCESS], None, 0),
        ([WORTH_A_PROCESS // 2, WORTH_A_PROCESS], None, 2),
        ([1, 1, 1], 1, 0),
        ([1, 1, 1], 2, 2),
        ([1, 1], 9, 2),
    ],
)
def test_processes_are_started_where_they_are_worth_it(
    weights: list[int], workers: int | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "usable_processors", lambda: 8)
    jobs = [Told(str(number), weight) for number, weight in enumerate(weights)]
    ended = [said for said in do_jobs(jobs, Runner(), workers) if isinstance(said, Ended)]
    results = {said.index: said.result for said in ended}
    assert sorted(results) == list(range(len(jobs)))
    found = {}
    for index, result in results.items():
        assert isinstance(result, tuple)
        assert result[0] == str(index)
        found[index] = result[1]
    elsewhere = set(found.values()) - {os.getpid()}
    assert len(elsewhere) == processes
    assert (os.getpid() in found.values()) == (not processes)


def test_nothing_to_do_is_done_at_once() -> None:
    assert list(do_jobs([], Runner())) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_is_told_before_the_end(workers: int) -> None:
    said = list(do_jobs([Told("a"), Told("b")], Runner(), workers))
    for index in (0, 1):
        own = [each for each in said if each.index == index]
        assert own[0] == Moved(index, 3)
        assert isinstance(own[-1], Ended)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "error",
    [
        DataError("layer", "is damaged", hint="look"),
        OSError(28, "No space left on device", "x"),
        CommandError(Command(argv=("sync",), purpose="flush it"), "failed", "Input/output error"),
    ],
    ids=["data", "disk", "program"],
)
def test_error_of_a_job_is_raised_as_it_was(error: Exception, workers: int) -> None:
    with pytest.raises(type(error)) as caught:
        list(do_jobs([Broken(error), Told("b")], Runner(), workers))
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)


def test_process_that_dies_is_an_error() -> None:
    with pytest.raises(CommandError, match="was ended by SIGKILL"):
        list(do_jobs([Dies(), Told("b")], Runner(), 2))


def test_exception_that_no_job_may_raise_is_told_with_its_trace() -> None:
    with pytest.raises(CommandError) as caught:
        list(do_jobs([Broken(RuntimeError("a bug")), Told("b")], Runner(), 2))
    assert "RuntimeError: a bug" in caught.value.stderr


def test_exception_that_no_job_may_raise_passes_through_from_here() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        list(do_jobs([Broken(RuntimeError("a bug"))], Runner(), 1))


@pytest.mark.parametrize("workers", [1, 2])
def test_closing_ends_what_is_under_way(tmp_path: Path, workers: int) -> None:
    files = [tmp_path / str(number) for number in range(workers)]
    until = time.monotonic() + SECONDS
    threads = set(threading.enumerate())
    with closing(do_jobs([Endless(file) for file in files], Runner(), workers)) as said:
        while not all(file.exists() for file in files):
            next(said)
            assert time.monotonic() < until
        assert workers == 1 or set(threading.enumerate()) != threads
        pids = {int(file.read_text()) for file in files} - {os.getpid()}
        assert len(pids) == (workers if workers > 1 else 0)
    assert not any(map(lives, pids))
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000])
def test_messages_come_through_lines_and_other_lines_do_not_disturb(size: int) -> None:
    heard: list[Message] = []
    inbox = Inbox(heard.append)
    message = Ended(7, "x" * size)
    for line in lines_of(message):
        assert len(line) < 8192
        inbox.add("a warning")
        inbox.add(line.rstrip("\n"))
    assert heard == [message]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (64, pool.MAX_WORKERS)])
def test_workers_are_bounded_by_what_may_be_used(
    count: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "usable_processors", lambda: count)
    assert Crew(Runner()).worth([Told("", WORTH_A_PROCESS)]) == expected


@dataclass(frozen=True, slots=True)
class Waits:
    """Works until it may end."""

    folder: Path
    weight: int = 1

    def run(self, progress: Callable[[int], None]) -> str:
        (self.folder / "begun").touch()
        until = time.monotonic() + SECONDS
        while not (self.folder / "go").exists():
            progress(1)
            time.sleep(0.01)
            assert time.monotonic() < until
        return "done"


WAIT = "touch begun; until [ -e go ]; do sleep 0.05; done; echo done"


def _run(runner: Runner, folder: Path) -> str:
    command = Command(argv=("sh", "-c", WAIT), purpose="wait", cwd=folder)
    return runner.run(command).stdout.decode().strip()


def _follow(runner: Runner, folder: Path) -> str:
    said: list[str] = []
    runner.follow(Command(argv=("sh", "-c", WAIT), purpose="wait", cwd=folder), said.append)
    return "".join(said)


def _work(runner: Runner, folder: Path) -> str:
    said = do_jobs([Waits(folder), Told("x")], runner, 2)
    return str(next(each.result for each in said if isinstance(each, Ended) and not each.index))


@pytest.mark.parametrize("other", [_run, _follow, _work])
@pytest.mark.parametrize(
    "job", [Broken(DataError("layer", "is damaged")), Dies()], ids=["fails", "dies"]
)
def test_only_what_the_pool_has_started_is_ended(
    tmp_path: Path, other: Callable[[Runner, Path], str], job: Broken | Dies
) -> None:
    runner = Runner()
    with ThreadPoolExecutor(1) as threads:
        meanwhile = threads.submit(other, runner, tmp_path)
        until = time.monotonic() + SECONDS
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        try:
            with pytest.raises((DataError, CommandError)):
                list(do_jobs([job, Told("b")], runner, 2))
        finally:
            (tmp_path / "go").touch()
        assert meanwhile.result() == "done"


@dataclass(frozen=True, slots=True)
class Together:
    """Several take numbers, until there are none left; one may die when it has taken its first."""

    last: int
    deadly: bool = False
    weight: int = WORTH_SHARING
    shareable: int = WORTH_SHARING

    def run(self, progress: Callable[[int], None]) -> list[int]:
        return list(range(self.last))

    def joined(self, results: Sequence[object]) -> list[int]:
        return sorted(number for part in results if isinstance(part, list) for number in part)

    @contextmanager
    def parts(self, count: int) -> Iterator[list[TogetherPart]]:
        with turns() as numbers, turns() as ends:
            yield [TogetherPart(self, numbers, ends, count)] * count


@dataclass(frozen=True, slots=True)
class TogetherPart:
    job: Together
    numbers: Turns
    ends: Turns
    count: int
    weight: int = 1

    def run(self, progress: Callable[[int], None]) -> list[int] | None:
        taken = []
        with self.numbers.taken() as take, self.ends.taken() as end:
            while (number := take()) < self.job.last:
                taken.append(number)
                progress(1)
                if self.job.deadly and number == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
            while self.job.deadly:  # the others wait for the dead one's part, which never comes
                time.sleep(1)
            end()
            return taken


def test_job_that_is_shared_ends_once_and_with_the_last_of_its_parts() -> None:
    jobs: list[Job] = [Told("a"), Together(500), Told("b"), Together(3)]
    said = list(do_jobs(jobs, Runner(), 3))
    ended = {each.index: each.result for each in said if isinstance(each, Ended)}
    assert sorted(each.index for each in said if isinstance(each, Ended)) == [0, 1, 2, 3]
    assert ended[1] == list(range(500))
    assert isinstance(ended[0], tuple)
    assert sum(each.count for each in said if isinstance(each, Moved) and each.index == 1) <= 500


def test_parts_of_a_worker_that_dies_leave_nobody_waiting() -> None:
    began = time.monotonic()
    with pytest.raises(CommandError, match="was ended by SIGKILL") as caught:
        list(do_jobs([Together(1000, deadly=True)], Runner(), 2))
    assert caught.value.stderr == ""
    assert time.monotonic() - began < SECONDS


# --- processes that are kept ---------------------------------------------------------------------


def _who(crew: Crew, jobs: Sequence[Job], workers: int | None = None) -> set[int]:
    """The processes that do *jobs*."""
    said = [each for each in crew.do(jobs, workers=workers) if isinstance(each, Ended)]
    assert sorted(each.index for each in said) == list(range(len(jobs)))
    return {each.result[1] for each in said if isinstance(each.result, tuple)}


def test_processes_are_kept_for_the_next_jobs_and_ended_with_the_crew() -> None:
    with Crew(Runner()) as crew:
        first = _who(crew, [Told("a"), Told("b")], 2)
        assert all(map(lives, first))
        assert _who(crew, [Told("c"), Told("d")], 2) == first
        assert _who(crew, [Told("e", WORTH_ANOTHER), Told("f")], None) == first
        assert _who(crew, [Told("g", WORTH_ANOTHER - 2), Told("h")], None) == {os.getpid()}
    assert len(first) == 2
    assert not any(map(lives, first))


def test_processes_are_started_before_there_are_jobs_if_they_will_be_worth_it() -> None:
    with Crew(Runner()) as crew:
        crew.expect(WORTH_A_PROCESS - 1)
        assert crew._workers == []
        crew.expect(WORTH_A_PROCESS)
        assert len(crew._workers) == crew.worth([Told("a", WORTH_A_PROCESS)])
        threads = [worker.thread for worker in crew._workers]
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(
    "broken",
    [Broken(DataError("layer", "is damaged")), Dies(), Broken(RuntimeError("a bug"))],
    ids=["fails", "dies", "has a bug"],
)
def test_crew_goes_on_with_other_processes_after_a_failure(broken: Job) -> None:
    with Crew(Runner()) as crew:
        first = _who(crew, [Told("a"), Told("b")], 2)
        with pytest.raises((DataError, CommandError)):
            list(crew.do([broken, Told("b")], workers=2))
        assert not any(map(lives, first))
        assert not _who(crew, [Told("a"), Told("b")], 2) & first


def test_process_that_has_died_meanwhile_is_replaced() -> None:
    with Crew(Runner()) as crew:
        first = _who(crew, [Told("a"), Told("b")], 2)
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        until = time.monotonic() + SECONDS
        while all(worker.thread.is_alive() for worker in crew._workers):
            assert time.monotonic() < until
            time.sleep(0.01)
        again = _who(crew, [Told("a"), Told("b")], 2)
        assert len(again) == 2
        assert again & first == first - {victim}
        crews = [thread for thread in threading.enumerate() if thread.name.startswith("crew")]
        assert len(crews) == len(again)


@dataclass(frozen=True, slots=True)
class Leaves:
    """Ends its process as if all were well."""

    weight: int = 1

    def run(self, progress: Callable[[int], None]) -> None:
        os._exit(0)


def test_process_that_ends_without_an_answer_is_an_error() -> None:
    with pytest.raises(CommandError, match="ended without an answer"):
        list(do_jobs([Leaves(), Told("b")], Runner(), 2))


# --- jobs that wait for others -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Noted:
    """Notes in a file, which others look for, that it has ended."""

    file: Path
    others: tuple[Path, ...] = ()
    weight: int = 1

    def run(self, progress: Callable[[int], None]) -> bool:
        there = all(other.exists() for other in self.others)
        self.file.touch()
        return there


@pytest.mark.parametrize("workers", [1, 2])
def test_interruption_leaves_nothing_wherever_it_comes(workers: int) -> None:
    said = run((sys.executable, "-m", "tests.storage.interrupted_crew", str(workers)))
    *wrong, last = said.stdout.splitlines()
    assert wrong == []
    assert int(last.split()[0]) > 50


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_job_begins_when_all_that_it_needs_have_ended(tmp_path: Path, workers: int) -> None:
    files = [tmp_path / str(number) for number in range(6)]
    needs = {0: (3, 4), 1: (0,), 5: (2,)}
    jobs = [
        Noted(file, tuple(files[other] for other in needs.get(number, ())))
        for number, file in enumerate(files)
    ]
    with Crew(Runner()) as crew:
        ended = [x for x in crew.do(jobs, needs, workers) if isinstance(x, Ended)]
    assert all(each.result for each in ended)
    assert sorted(each.index for each in ended) == list(range(len(jobs)))
