"""A disk that fills up while images are copied: said clearly, nothing lost, and the next run completes."""

import os
import re
import signal
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.faults.conftest import Jobs
from tests.faults.scene import APP, MIB, SMALL, Job, running
from tests.support.commands import run
from tests.support.disks import LoopFs, LoopFsFactory
from tests.support.product import listing

COPY_FAILED = 5
PREFLIGHT_FAILED = 4
NO_SPACE = "no space left on device"
FREE = re.compile(r"\d[\d.]* (?:B|KiB|MiB|GiB) and \d+ inodes are free on ")


def _fill(directory: Path, *, leave: int) -> Path:
    """Leave so many bytes of a file system free, those reserved for root included."""
    filler = directory / "filler"
    with filler.open("wb") as file, suppress(OSError):  # somebody else takes room as well
        for step in (16 * MIB, MIB, MIB // 16):
            while _free(directory) >= leave + step:
                os.posix_fallocate(file.fileno(), filler.stat().st_size, step)
    return filler


def _free(directory: Path) -> int:
    seen = os.statvfs(directory)
    return seen.f_bfree * seen.f_frsize


def _use_inodes(directory: Path, *, leave: int) -> None:
    """Leave so many inodes of a file system free."""
    directory.mkdir(exist_ok=True)
    begin = sum(1 for _ in directory.iterdir())
    with suppress(OSError):  # somebody else takes some as well
        for number in range(os.statvfs(directory).f_ffree - leave):
            (directory / str(begin + number)).touch()


def _remove_some(directory: Path, count: int) -> None:
    for path in islice(directory.iterdir(), count):
        path.unlink()


def _prepared(jobs: Jobs, physical: Path, engine: str) -> tuple[Job, Job]:
    """A copy to a target that holds SMALL, and what proves that it does."""
    small = jobs(SMALL, at=physical)
    small.run()
    return jobs(APP, at=physical, engine=engine), small


def _assert_fails_clearly(output: str, code: int, place: Path) -> None:
    assert code == COPY_FAILED, output
    assert "Traceback" not in output, output
    error = output[output.index("error: ") :]
    assert NO_SPACE in error.lower(), output
    assert str(place) in error, output
    assert FREE.search(error), output


def _assert_unharmed(job: Job, small: Job) -> None:
    assert job.listed() == [SMALL]
    small.verify()
    assert job.temporary() == []


@pytest.mark.parametrize("engine", ["direct", "skopeo"])
@pytest.mark.parametrize("leave", [0, 5 * MIB, 25 * MIB])
def test_target_that_fills_up_while_it_is_copied_to(
    jobs: Jobs, disk: LoopFs, tmp_path: Path, engine: str, leave: int
) -> None:
    job, small = _prepared(jobs, disk.mount / "target", engine)
    with running(job.argv, tmp_path, job.env) as copy:
        copy.wait_for_line("copying")
        filler = _fill(disk.mount, leave=leave)
        code = copy.wait()
    _assert_fails_clearly(copy.output, code, job.physical)
    _assert_unharmed(job, small)
    filler.unlink()
    job.run()
    job.verify()


@pytest.mark.parametrize("lacking", [1, 2, 4, 7, 12, 30])
def test_target_that_lacks_a_few_inodes(jobs: Jobs, disk: LoopFs, lacking: int) -> None:
    """No estimate is that exact: what fails is one of the last steps."""
    job, small = _prepared(jobs, disk.mount / "target", "direct")
    needed = _inodes_of(job)
    blocker = disk.mount / "files"
    _use_inodes(blocker, leave=needed - lacking)
    done = job.run(ok=(COPY_FAILED,))
    _assert_fails_clearly(done.stderr, done.returncode, job.physical)
    small.verify()
    assert SMALL in job.listed()
    assert job.temporary() == []
    _remove_some(blocker, 1000)
    job.run()
    job.verify()


def test_target_that_runs_out_of_inodes_while_it_is_copied_to(
    jobs: Jobs, disk: LoopFs, tmp_path: Path
) -> None:
    job, small = _prepared(jobs, disk.mount / "target", "direct")
    blocker = disk.mount / "files"
    _use_inodes(blocker, leave=1000)
    with running(job.argv, tmp_path, job.env) as copy:
        copy.wait_for_line("copying")
        copy.send(signal.SIGSTOP)  # it would have copied everything before so many files are made
        _use_inodes(blocker, leave=0)
        copy.send(signal.SIGCONT)
        code = copy.wait()
    _assert_fails_clearly(copy.output, code, job.physical)
    _assert_unharmed(job, small)
    _remove_some(blocker, 1000)
    job.run()
    job.verify()


def test_scratch_directory_that_fills_up(
    jobs: Jobs, disk: LoopFs, loop_fs: LoopFsFactory, tmp_path: Path
) -> None:
    job, small = _prepared(jobs, disk.mount / "target", "skopeo")
    roomy = loop_fs("ext4", 256 * MIB)
    scratch = roomy.mount / "scratch"
    scratch.mkdir()
    job = replace(job, scratch=scratch)
    with running(job.argv, tmp_path, job.env) as copy:
        copy.wait_for_line("copying")
        filler = _fill(roomy.mount, leave=MIB)
        code = copy.wait()
    _assert_fails_clearly(copy.output, code, scratch)
    assert str(roomy.mount) in copy.output[copy.output.index("hint: ") :]
    _assert_unharmed(job, small)
    filler.unlink()
    job.run()
    job.verify()


@pytest.mark.parametrize("engine", ["direct", "skopeo"])
def test_target_that_is_full_before_anything_is_copied(
    jobs: Jobs, disk: LoopFs, engine: str
) -> None:
    job, _ = _prepared(jobs, disk.mount / "target", engine)
    _fill(disk.mount, leave=20 * MIB)
    before = listing(job.physical)
    done = job.run(ok=(PREFLIGHT_FAILED,))
    assert re.search(r"has [\d.]+ [KM]?i?B free, the bound images need [\d.]+ MiB", done.stderr)
    assert str(job.physical) in done.stderr
    assert listing(job.physical) == before


def test_scratch_directory_that_is_full_before_anything_is_copied(
    jobs: Jobs, disk: LoopFs, loop_fs: LoopFsFactory
) -> None:
    job, _ = _prepared(jobs, disk.mount / "target", "skopeo")
    job = replace(job, scratch=loop_fs("ext4", 32 * MIB).mount)
    before = listing(job.physical)
    done = job.run(ok=(PREFLIGHT_FAILED,))
    assert re.search(r"scratch.* has [\d.]+ MiB free, the largest image needs", done.stderr)
    assert listing(job.physical) == before


def _inodes_of(job: Job) -> int:
    """What a copy needs, found out by doing it to a target like its own."""
    trial = job.physical.with_name("trial")
    run(("cp", "--archive", job.physical, trial))
    before = os.statvfs(trial).f_ffree
    replace(job, physical=trial).run()
    return before - os.statvfs(trial).f_ffree
