"""A target that must not boot: its boot entries are set aside, and the way back is written down."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from installer_plugin.events import Events
from installer_plugin.hosts.bootc.boot_entries import ASIDE, NOTE, held_back, set_aside


def make_entries(root: Path) -> Path:
    """Boot entries as ostree leaves them: ``loader`` is a link to one of two directories."""
    entries = root / "boot/loader.1/entries"
    entries.mkdir(parents=True)
    (root / "boot/loader").symlink_to("loader.1")
    for number in (1, 2):
        (entries / f"ostree-{number}-default.conf").write_text("title x\n")
    return entries


def test_no_entry_is_left_for_a_boot_loader(tmp_path: Path) -> None:
    entries = make_entries(tmp_path)
    renamed = set_aside([tmp_path], "an image is missing")
    assert list(entries.glob("*.conf")) == []
    assert sorted(renamed) == sorted(entries.iterdir())


def test_the_note_tells_why_and_how_to_undo_it(tmp_path: Path) -> None:
    entries = make_entries(tmp_path)
    set_aside([tmp_path], "an image is missing")
    note = (entries.parent / NOTE).read_text()
    assert "an image is missing" in note
    assert "rename" in note


def test_a_link_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside/entries"
    outside.mkdir(parents=True)
    (outside / "mine.conf").touch()
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / "boot/loader").symlink_to(outside.parent)
    assert set_aside([root], "x") == ()
    assert (outside / "mine.conf").exists()


def test_a_root_without_entries_is_left_alone(tmp_path: Path) -> None:
    assert set_aside([tmp_path], "x") == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [False, True])
def test_what_another_installation_has_set_aside_stays_aside(tmp_path: Path, keep: bool) -> None:
    """A shared EFI system partition has the entries of several systems."""
    images = tmp_path / "EFI/Linux"
    images.mkdir(parents=True)
    other = images / f"other.efi{ASIDE}"
    other.touch()
    (images / "ours.efi").touch()
    ended = pytest.raises(KeyboardInterrupt) if keep else nullcontext()
    with ended, held_back([tmp_path], Events(), keep=keep):
        assert {path.name for path in images.iterdir()} == {other.name, f"ours.efi{ASIDE}"}
        if keep:
            raise KeyboardInterrupt
    assert {path.name for path in images.iterdir()} == {other.name, "ours.efi"}
    assert (images.parent / NOTE).exists(), "it tells about the other one"


def test_what_a_hook_has_removed_does_not_come_back(tmp_path: Path) -> None:
    entries = make_entries(tmp_path)
    with held_back([tmp_path], Events(), keep=False):
        (entries / f"ostree-1-default.conf{ASIDE}").unlink()
    assert [path.name for path in entries.iterdir()] == ["ostree-2-default.conf"]
    assert not (entries.parent / NOTE).exists()
