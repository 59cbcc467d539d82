"""A copy that is killed at any moment leaves a store that opens, and the next run goes on from there."""

import random
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from installer_plugin.files.scratch import PREFIX
from tests.faults.conftest import Jobs
from tests.faults.scene import APP, OTHER, SMALL, Job, running
from tests.support.commands import CommandError, run, unshared
from tests.support.disks import LoopFs

KILLED = 128 + signal.SIGKILL
INTERRUPTED = 130
BEGUN = "discover:"
BOTH = (APP, OTHER)


def _template(jobs: Jobs, disk: LoopFs) -> Path:
    """A target that holds an image already."""
    template = disk.mount / "template"
    jobs(SMALL, at=template).run()
    return template


def _fresh(template: Path) -> Path:
    """A target like the template."""
    physical = template.with_name("target")
    if physical.exists():
        shutil.rmtree(physical)
    run(("cp", "--archive", template, physical))
    return physical


def _duration(job: Job) -> float:
    """Seconds that it takes from a start of Python, as those have that are killed."""
    began = time.monotonic()
    run(unshared(job.argv), env=job.env)
    return time.monotonic() - began


class Moments:
    """Random moments, one in each of as many equal parts of a copy, which takes so many seconds.

    A copy that has ended before its moment took less: how long copies take, the machine decides.
    """

    def __init__(self, duration: float, count: int) -> None:
        self.duration = duration
        self._count = count
        self._moment = 0.0

    def __iter__(self) -> Iterator[float]:
        noise = random.Random(self._count)  # noqa: S311 - the same parts of the copy in every run
        for part in range(self._count):
            self._moment = (part + noise.random()) / self._count * self.duration
            yield self._moment

    def missed(self) -> None:
        """Learn that the copy had ended before the moment that was given last."""
        self.duration = min(self.duration, self._moment)


def _kill_and_recover(job: Job, moment: float, sources: Sequence[Path], directory: Path) -> bool:
    """Kill a copy, then run it again; whether it was killed before it had ended.

    `sources` declare none, the first and all of the images.
    """
    with running(job.argv, directory, job.env) as copy:
        time.sleep(moment)
        copy.send(signal.SIGKILL)
        copy.assert_all_end()
        code = copy.wait()
    assert code in (KILLED, 0), copy.output
    listed = job.listed()
    assert SMALL in listed
    if len(listed) > 1:  # what has a name is whole
        replace(job, source=sources[len(listed) - 1]).verify()
    job.run()
    job.verify()
    assert job.temporary() == []
    assert job.listed() == sorted((*BOTH, SMALL))
    return code == KILLED


@pytest.mark.parametrize(("engine", "count"), [("direct", 50), ("skopeo", 8)])
def test_copy_killed_at_any_moment_is_completed_by_the_next_run(
    jobs: Jobs, disk: LoopFs, tmp_path: Path, engine: str, count: int
) -> None:
    template = _template(jobs, disk)
    job = jobs(*BOTH, at=_fresh(template), engine=engine)
    sources = [jobs(*BOTH[:number], at=job.physical).source for number in range(3)]
    first = _duration(job)
    _fresh(template)
    # The first one may have had cold caches.
    moments = Moments(min(first, _duration(job)), count)
    failures, killed = {}, 0
    for moment in moments:
        _fresh(template)
        try:
            if _kill_and_recover(job, moment, sources, tmp_path):
                killed += 1
            else:
                moments.missed()
        except (AssertionError, CommandError) as error:
            failures[f"{moment:.3f} of {moments.duration:.3f} s"] = str(error)
            for left in job.scratch.iterdir():
                shutil.rmtree(left)
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(map(str, failures.items()))
    assert killed > count * 0.7, "the copies were too quick to be killed"


@pytest.mark.parametrize("engine", ["direct", "skopeo"])
def test_what_a_killed_copy_has_left_goes_also_when_everything_was_copied(
    jobs: Jobs, tmp_path: Path, engine: str
) -> None:
    job = jobs(SMALL, at=tmp_path / "target", engine=engine)
    job.run()
    for place in (job.store.parent, job.scratch):
        (place / f"{PREFIX}left/layer").mkdir(parents=True)
    job.run()
    assert job.temporary() == []


@pytest.mark.parametrize(("engine", "count"), [("direct", 20), ("skopeo", 8)])
def test_copy_that_is_told_to_end_takes_everything_with_it(
    jobs: Jobs, disk: LoopFs, tmp_path: Path, engine: str, count: int
) -> None:
    template = _template(jobs, disk)
    job = jobs(*BOTH, at=_fresh(template), engine=engine)
    with running(job.argv, tmp_path, job.env) as undisturbed:
        undisturbed.wait_for_line(BEGUN)
        began = time.monotonic()
        assert undisturbed.wait() == 0, undisturbed.output
        moments = Moments(time.monotonic() - began, count)
    interrupted = 0
    for moment in moments:
        _fresh(template)
        with running(job.argv, tmp_path, job.env) as copy:
            copy.wait_for_line(BEGUN)
            time.sleep(moment)
            copy.send(signal.SIGTERM)
            code = copy.wait()
            copy.assert_all_end(within=0.2)
        told = re.findall("^interrupted.*", copy.output, re.MULTILINE)
        if "images verified" in copy.output:
            moments.missed()
            continue  # it was done: the signal met a program that was about to exit
        assert (code, len(told)) == (INTERRUPTED, 1), copy.output
        assert "Traceback" not in copy.output, copy.output
        assert job.temporary() == [], f"{moment:.3f} of {moments.duration:.3f} s:\n{copy.output}"
        assert SMALL in job.listed()
        assert copy.output.strip().endswith(told[0])
        interrupted += 1
    assert interrupted > count / 2
    job.run()
    job.verify()
