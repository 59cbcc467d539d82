"""What a build has left, where it is not a disk."""

import gzip
from pathlib import Path

import pytest

from installer_plugin.errors import HostError, VerificationError
from installer_plugin.events import Events
from installer_plugin.hosts.image_builder.exports import Build, prove_exports
from installer_plugin.hosts.image_builder.os_content import OsImageContent
from installer_plugin.hosts.image_builder.session import BuildOutcome, listing
from installer_plugin.process.runner import Runner
from installer_plugin.request import Context, Request, Work

BUILD = Build(
    image="localhost/os:1",
    content=OsImageContent(images=(), findings=(), size=0, created=0, new_python=True, id=None),
)


@pytest.fixture
def work() -> Work:
    return Work(Request(), Context(Runner(), Events(), {}))


def outcome(output: Path, mode: str, *, later: bool) -> BuildOutcome:
    return BuildOutcome(mode=mode, output=str(output), before={}, images=1, content_later=later)


@pytest.mark.parametrize(("mode", "later"), [("stage", True), ("stock", False), ("after", False)])
def test_a_disk_that_turns_out_to_be_packed_is_not_taken_for_proven(
    mode: str, work: Work, tmp_path: Path, *, later: bool
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(gzip.compress(b"a disk"))
    with pytest.raises(VerificationError) as caught:
        list(prove_exports(outcome(tmp_path, mode, later=later), BUILD, work))
    (problem,) = caught.value.problems
    assert problem.subject == str(disk)
    assert problem.message == "is a gzip file, which is not opened: its bound images are not proven"
    assert problem.hint == "build a raw or qcow2 disk, or use --when=stage --verify-again"


def test_what_was_proven_in_the_build_may_be_packed(work: Work, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(gzip.compress(b"a disk"))
    (export,) = prove_exports(outcome(tmp_path, "stage", later=False), BUILD, work)
    assert export.not_opened == "a gzip file"


def test_a_build_that_leaves_nothing_new_is_an_error(work: Work, tmp_path: Path) -> None:
    (tmp_path / "old.raw").touch()
    (tmp_path / "new.json").touch()
    before = {name: seen for name, seen in listing(tmp_path).items() if name == "old.raw"}
    left = BuildOutcome(mode="stage", output=str(tmp_path), before=before, images=1)
    with pytest.raises(HostError, match="has no new file, expected the disk that was built"):
        list(prove_exports(left, BUILD, work))
