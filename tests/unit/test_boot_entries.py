"""A target that must not boot: its boot entries are set aside, and the way back is written down."""

from pathlib import Path

from installer_plugin.hosts.boot_entries import NOTE, set_aside


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
