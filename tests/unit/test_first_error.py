"""What has failed first is what people hear of, whatever fails after it because of it."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from installer_plugin.block.base import OpenOptions
from installer_plugin.errors import CopyError, HostError, InterruptedBySignal
from installer_plugin.events import Events
from installer_plugin.hosts.bootc.boot_block import Unproven
from installer_plugin.hosts.bootc.boot_entries import ASIDE, NOTE, held_back, set_aside
from installer_plugin.hosts.bootc.entries_before import Before
from installer_plugin.hosts.bootc.finalize import writable
from installer_plugin.hosts.bootc.watchdog import guarding
from installer_plugin.process.runner import Runner
from installer_plugin.request import Context
from tests.block.scene import Told

pytestmark = pytest.mark.real

FIRST = [
    CopyError.of("layer", "cannot be written: Input/output error"),
    OSError(errno.EIO, os.strerror(errno.EIO)),
    InterruptedBySignal("SIGTERM"),
]


def mount(*words: str | Path) -> None:
    subprocess.run(("mount", *words), check=True)


@contextmanager
def mounted(place: Path, *words: str | Path) -> Iterator[Path]:
    """Something that is mounted at *place*, which is made."""
    place.mkdir(exist_ok=True)
    mount(*words, place)
    try:
        yield place
    finally:
        subprocess.run(("umount", "--quiet", place), check=False)


def make_entry(root: Path) -> Path:
    entry = root / "boot/loader/entries/a.conf"
    entry.parent.mkdir(parents=True)
    entry.write_text("title a\n")
    return entry


def fill(place: Path) -> None:
    """Leave no room for a byte on the file system of *place*."""
    with (place / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1024)):
            pass


SMALL = ("-t", "tmpfs", "-o", "size=64k", "tmpfs")
"""What mounts a file system with little room."""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root file system with a boot entry."""
    with mounted(tmp_path / "root", "-t", "tmpfs", "tmpfs") as place:
        make_entry(place)
        yield place


@pytest.fixture
def close(root: Path) -> Callable[[], object]:
    """Makes the root read-only, as the kernel does with a file system that it finds damaged."""
    return partial(mount, "-o", "remount,ro", root)


@pytest.mark.parametrize("keep", [False, True], ids=["held", "kept"])
@pytest.mark.parametrize("failure", FIRST, ids=lambda each: type(each).__name__)
def test_root_that_became_read_only_does_not_hide_why(
    root: Path, close: Callable[[], object], failure: BaseException, *, keep: bool
) -> None:
    told = Told()

    def fail() -> None:
        with held_back([root], Events([told]), keep=keep):
            close()
            raise failure

    with pytest.raises(type(failure)) as caught:
        fail()
    assert caught.value is failure
    doing = "the boot entries could not be given back" if keep else f"{NOTE} could not be written"
    assert doing in told.text
    assert "Read-only file system" in told.text
    assert [path.name for path in (root / "boot/loader/entries").iterdir()] == [f"a.conf{ASIDE}"]


def test_entries_are_set_aside_where_there_is_no_room_to_say_why(tmp_path: Path) -> None:
    """An EFI system partition may be full to the last byte."""
    told = Told()
    with mounted(tmp_path / "full", *SMALL) as place:
        entry = make_entry(place)
        fill(place)
        (aside,) = set_aside([place], "an image is missing", events=Events([told]))
        assert aside.exists()
        assert not entry.exists()
    assert f"{NOTE} could not be written next to the boot entries: [Errno 28]" in told.text


def test_installation_goes_on_where_there_is_no_room_to_say_why(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", *SMALL) as place:
        entry = make_entry(place)
        fill(place)
        with held_back([place], Events(), keep=False) as held:
            assert held
        assert entry.exists()


@pytest.mark.parametrize("failure", FIRST, ids=lambda each: type(each).__name__)
def test_root_that_cannot_be_closed_does_not_hide_why(root: Path, failure: BaseException) -> None:
    mount("-o", "remount,ro", root)

    def fail() -> None:
        with writable(root, Runner()):
            subprocess.run(("umount", root), check=True)
            raise failure

    with pytest.raises(type(failure)) as caught:
        fail()
    assert caught.value is failure


# --- what is on file about a target ------------------------------------------------------------


def unproven(state: Path, target: Path) -> Unproven:
    make_entry(target)
    return Unproven(before=Before.look(target), opening=OpenOptions(state=state))


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_record_is_whole_however_little_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    write = os.write
    monkeypatch.setattr("os.write", lambda fd, data: write(fd, data[:most]))
    made = unproven(tmp_path / "state", tmp_path / "target")
    with guarding(made, Context(Runner(), Events(), os.environ), keep=False) as guard:
        assert guard.record is not None
        content = guard.record.read_bytes()
    assert Unproven.parse(content, "x", tmp_path / "state") == made
    assert not guard.record.exists()


def test_record_that_cannot_be_written_is_an_error_before_bootc(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", *SMALL) as place:
        state = place / "state"
        state.mkdir(mode=0o700)
        (state / "opening").touch()
        made = unproven(state, tmp_path / "target")
        fill(place)
        context = Context(Runner(), Events(), os.environ)
        with (
            pytest.raises(HostError, match="cannot be written: No space left"),
            guarding(made, context, keep=False),
        ):
            pytest.fail("bootc would begin")
        assert list(state.glob("unproven-*")) == []
