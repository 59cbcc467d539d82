"""Disk images of qemu's formats where there is no FUSE: on network block devices."""

import signal
import subprocess
import sys
import time
from collections.abc import Container, Sequence
from pathlib import Path

import pytest

from installer_plugin.block import image_export
from installer_plugin.block.disk_image_format import FormattedImage, find_format
from installer_plugin.block.image_export import Way, find_way
from installer_plugin.block.nbd_device import nbd_devices, server_argv
from installer_plugin.block.target import forget_memory, make_writable
from installer_plugin.errors import HostError
from installer_plugin.process.runner import Runner
from tests.block.scene import Opener
from tests.block.test_image_formats import (
    FORMATS,
    converted,
    disk_of_image_builder,
    held_by_a_machine,
    read_directly,
)
from tests.support.commands import run

nbd = pytest.mark.nbd
QCOW2 = find_format(b"QFI\xfb")
PATIENCE_SECONDS = 120


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return disk_of_image_builder(tmp_path / "disk.raw")


@pytest.fixture
def no_fuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(image_export, "FUSE", tmp_path / "no-fuse")


def connected() -> list[str]:
    """Devices that somebody serves."""
    places = (Path("/sys/class/block") / device.name for device in nbd_devices())
    return [place.name for place in places if (place / "pid").exists()]


def require_let_go() -> None:
    """Wait until nobody serves a device: the kernel may need a moment."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while connected() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert connected() == []


@nbd
@pytest.mark.usefixtures("no_fuse")
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_in_the_image(kind: str, raw: Path, opener: Opener) -> None:
    disk = converted(raw, kind)
    with opener(disk, read_only=False) as target:
        make_writable(target, Runner())
        (target.physical_root / "new").write_text("written")
    require_let_go()
    assert run(("qemu-img", "check", disk), ok=(0, 63)).returncode in (0, 63)
    before = (disk.read_bytes(), disk.stat().st_mtime_ns)
    with opener(disk, read_only=True) as target:
        assert (target.physical_root / "new").read_text() == "written"
    assert (disk.read_bytes(), disk.stat().st_mtime_ns) == before
    require_let_go()
    assert "shown by qemu-nbd" in opener.told.text


@nbd
@pytest.mark.usefixtures("no_fuse")
def test_two_images_are_open_at_the_same_time(raw: Path, opener: Opener, tmp_path: Path) -> None:
    first = converted(raw, "qcow2")
    second = converted(raw, "vdi")
    other = Opener(tmp_path / "other")
    with opener(first, read_only=True), other(second, read_only=True):
        assert len(connected()) == 2
    require_let_go()


@nbd
@pytest.mark.usefixtures("no_fuse")
def test_what_is_read_back_comes_from_the_images_own_file(raw: Path, opener: Opener) -> None:
    disk = converted(raw, "qcow2")
    text = b"0123456789abcdef" * 512
    with opener(disk, read_only=False) as target:
        make_writable(target, Runner())
        file = target.physical_root / "file"
        file.write_bytes(text)
        run(("sync", "--file-system", file))
        with disk.open("r+b", buffering=0) as below:
            below.seek(disk.read_bytes().index(text))
            below.write(b"tampered")
        forget_memory(target)
        assert read_directly(file)[:8] == b"tampered"


@nbd
@pytest.mark.usefixtures("no_fuse")
@pytest.mark.parametrize("read_only", [True, False])
def test_an_image_that_a_machine_runs_from_is_refused(
    read_only: bool, raw: Path, opener: Opener
) -> None:
    disk = converted(raw, "qcow2")
    with (
        held_by_a_machine(disk),
        pytest.raises(HostError, match="is in use by another program") as caught,
        opener(disk, read_only=read_only),
    ):
        pass
    assert caught.value.problems[0].hint == "shut down the virtual machine that runs from it"
    assert opener.left() == []
    require_let_go()


@nbd
@pytest.mark.usefixtures("no_fuse")
def test_a_damaged_image_is_one_clear_error(raw: Path, opener: Opener) -> None:
    disk = converted(raw, "qcow2")
    with disk.open("r+b") as file:
        file.write(b"QFI\xfb" + bytes(60))
    with (
        pytest.raises(HostError, match="cannot be opened as a qcow2 file: qemu-nbd: "),
        opener(disk),
    ):
        pass
    require_let_go()


WRITES_AND_WAITS = """\
import sys, time
from pathlib import Path
from installer_plugin.block import image_export
from installer_plugin.block.target import make_writable
from installer_plugin.process.runner import Runner
from tests.block.scene import Opener
image_export.FUSE = Path("/no-fuse")
with Opener(Path(sys.argv[2]))(Path(sys.argv[1]), read_only=False) as target:
    make_writable(target, Runner())
    (target.physical_root / "new").write_text("written")
    print("open", flush=True)
    time.sleep(3600)
"""


@nbd
@pytest.mark.usefixtures("no_fuse")
def test_a_killed_run_leaves_nothing_and_loses_nothing(raw: Path, opener: Opener) -> None:
    disk = converted(raw, "qcow2")
    argv = (sys.executable, "-c", WRITES_AND_WAITS, str(disk), str(opener.state))
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as opened:
        assert opened.stdout is not None
        assert opened.stdout.readline() == b"open\n"
        assert len(connected()) == 1
        opened.send_signal(signal.SIGKILL)
    require_let_go()
    assert (
        run(("losetup", "--list", "--noheadings", "--output", "BACK-FILE")).stdout.find("/dev/nbd")
        == -1
    )
    with opener(disk, read_only=False) as target:
        assert (target.physical_root / "new").exists()
    require_let_go()


BOTH = ("qemu-storage-daemon", "qemu-nbd")


@pytest.mark.parametrize(
    ("there", "programs", "way"),
    [
        ({Way.FUSE, Way.NBD}, BOTH, Way.FUSE),
        ({Way.FUSE}, ("qemu-storage-daemon",), Way.FUSE),
        ({Way.NBD}, BOTH, Way.NBD),
        ({Way.FUSE, Way.NBD}, ("qemu-nbd",), Way.NBD),
        ((), BOTH, "takes FUSE or NBD to open, and neither"),
        ({Way.FUSE}, (), "takes qemu-storage-daemon to open, and that is not in PATH"),
        ({Way.NBD}, ("qemu-storage-daemon",), "takes qemu-nbd to open, and that is not in PATH"),
    ],
)
def test_fuse_comes_first_and_what_is_missing_is_named(
    there: Container[Way],
    programs: Sequence[str],
    way: Way | str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert QCOW2 is not None
    for name in programs:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    fuse = tmp_path if Way.FUSE in there else tmp_path / "nothing"
    devices = (Path("/dev/nbd0"),) if Way.NBD in there else ()
    monkeypatch.setattr(image_export, "FUSE", fuse)
    monkeypatch.setattr(image_export, "nbd_devices", lambda: devices)
    path = Path("disk.qcow2")
    if isinstance(way, Way):
        assert find_way(path, QCOW2) is way
        return
    with pytest.raises(HostError, match=f"is a qcow2 file, which {way}") as caught:
        find_way(path, QCOW2)
    assert "qemu-img convert -O raw disk.qcow2 disk.raw" in caught.value.problems[0].hint


@pytest.mark.parametrize("read_only", [True, False])
def test_the_server_is_asked_to_go_when_it_is_disconnected_and_to_write_only_what_it_may(
    read_only: bool, tmp_path: Path
) -> None:
    image = FormattedImage(path=tmp_path / "none", driver="qcow2", read_only=read_only)
    argv = server_argv(Path("/dev/nbd7"), image, tmp_path / "socket")
    assert "--persistent" not in argv
    assert ("--read-only" in argv) is read_only
    assert {"--connect=/dev/nbd7", "--format=qcow2", f"--socket={tmp_path}/socket"} < set(argv)
