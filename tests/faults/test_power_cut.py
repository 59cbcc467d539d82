"""What a copy has reported as done is on the disk: the power may fail the moment after."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.conftest import Jobs
from tests.faults.scene import APP, OTHER, Job, running
from tests.support.commands import run
from tests.support.disks import FsKind, LoopFs, LoopFsFactory

ENGINES = pytest.mark.parametrize("engine", ["direct", "skopeo"])


def _snapshot(job: Job, disk: LoopFs, directory: Path) -> Path:
    """The disk as it is when the command ends: the loop device writes through the file's pages."""
    with running(job.argv, directory, job.env) as copy:
        code = copy.wait()
        snapshot = disk.snapshot(directory / "snapshot.img")
    assert code == 0, copy.output
    return snapshot


@ENGINES
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_power_fails_when_the_copy_has_ended(
    jobs: Jobs, loop_fs: LoopFsFactory, tmp_path: Path, kind: FsKind, engine: str
) -> None:
    disk = loop_fs(kind)
    job = jobs(APP, OTHER, at=disk.mount, engine=engine)
    snapshot = _snapshot(job, disk, tmp_path)
    if kind == "btrfs":  # one kernel does not mount two btrfs with the same identity
        run(("umount", disk.mount))
    after = replace(job, physical=loop_fs.attach(snapshot).mount)
    after.verify()
    assert after.temporary() == []
    receipt = after.store.parent / "bound-images.json"
    assert receipt.stat().st_size > 0


@ENGINES
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_fails_when_verification_begins(
    jobs: Jobs, loop_fs: LoopFsFactory, tmp_path: Path, kind: FsKind, engine: str
) -> None:
    """All is flushed by then: what was not would be read from memory."""
    disk = loop_fs(kind)
    job = jobs(APP, OTHER, at=disk.mount, engine=engine)
    with running(job.argv, tmp_path, job.env) as copy:
        copy.wait_for_line("label:")
        copy.send(signal.SIGSTOP)
        snapshot = disk.snapshot(tmp_path / "snapshot.img")
        copy.send(signal.SIGCONT)
        assert copy.wait() == 0, copy.output
    replace(job, physical=loop_fs.attach(snapshot).mount).verify()
