"""What is on file about a target that is not proven yet, and who may do something about it."""

import os
from pathlib import Path

import pytest

from installer_plugin.block.base import Key, OpenOptions
from installer_plugin.errors import DataError
from installer_plugin.events import Events
from installer_plugin.hosts.bootc.abandoned import close_abandoned
from installer_plugin.hosts.bootc.boot_block import Unproven
from installer_plugin.hosts.bootc.entries_before import Before
from installer_plugin.process.runner import Runner
from installer_plugin.request import Context
from tests.block.scene import Told

NOBODY = 0
"""Process ID of no owner."""


def make_entry(target: Path) -> Path:
    entry = target / "boot/loader/entries/a.conf"
    entry.parent.mkdir(parents=True)
    entry.write_text("title a\n")
    return entry


def recorded(state: Path, content: bytes, owner: int = NOBODY) -> Path:
    state.mkdir(mode=0o700, exist_ok=True)
    record = state / f"unproven-{owner}-x"
    record.write_bytes(content)
    return record


def close(state: Path) -> str:
    told = Told()
    close_abandoned(state, Context(Runner(), Events([told]), os.environ))
    return told.text


def unproven(target: Path, state: Path) -> Unproven:
    return Unproven(before=Before.look(target), opening=OpenOptions(state=state))


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    make_entry(tmp_path)
    key = Key(passphrase_file=Path("/p"), key_file=Path("/k"))
    opening = OpenOptions(key=key, root_partition="3", state=tmp_path)
    made = Unproven(before=Before.look(tmp_path), opening=opening)
    assert made.before.entries
    assert Unproven.parse(made.dump(), "x", tmp_path) == made


def test_what_was_there_before_is_spared(tmp_path: Path) -> None:
    target = tmp_path / "target"
    theirs = make_entry(target)
    record = recorded(tmp_path / "state", unproven(target, tmp_path / "state").dump())
    ours = theirs.with_name("b.conf")
    ours.touch()
    assert "before its images were proven: its boot entries are set aside" in close(
        tmp_path / "state"
    )
    assert theirs.exists()
    assert not ours.exists()
    assert not record.exists()


def test_target_that_bootc_has_not_written_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    entry = make_entry(target)
    record = recorded(tmp_path / "state", unproven(target, tmp_path / "state").dump())
    close(tmp_path / "state")
    assert entry.exists()
    assert not record.exists()


def test_another_file_system_in_the_targets_place_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    record = recorded(tmp_path / "state", unproven(target, tmp_path / "state").dump())
    target.rename(tmp_path / "old")
    entry = make_entry(target)
    assert "is something else than it was when bootc began" in close(tmp_path / "state")
    assert entry.exists()
    assert record.exists()


def test_target_that_is_gone_needs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "disk.img"
    target.write_bytes(bytes(4096))
    record = recorded(tmp_path / "state", unproven(target, tmp_path / "state").dump())
    target.unlink()
    assert "boot entries could not" not in close(tmp_path / "state")
    assert not record.exists()


def test_record_of_a_run_that_had_not_begun_says_nothing(tmp_path: Path) -> None:
    record = recorded(tmp_path / "state", b"")
    assert close(tmp_path / "state") == ""
    assert not record.exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"before": {}}', b"\xff"])
def test_foreign_record_is_told_and_kept(tmp_path: Path, content: bytes) -> None:
    record = recorded(tmp_path / "state", content)
    assert f"then remove {record}" in close(tmp_path / "state")
    assert record.exists()
    with pytest.raises(DataError, match="what an installation has written down"):
        Unproven.parse(content, "x", tmp_path)
