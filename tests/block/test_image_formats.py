"""Disk images of qemu's formats as targets, as image-builder makes them."""

import json
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from installer_plugin.block.target import forget_memory, make_writable
from installer_plugin.errors import ConfigError, HostError
from installer_plugin.process.runner import Runner
from tests.block.scene import ROOT, SYSTEM, Opener, Part, make_disk
from tests.faults.scene import APP, SMALL, Images, build_images, large_images
from tests.support.commands import run, unshared
from tests.support.product import COMMAND, product
from tests.support.sources import SourceRootBuilder

FORMATS = ("qcow2", "vmdk", "vhdx", "vdi", "vpc", "qed")
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"


def disk_of_image_builder(path: Path) -> Path:
    """BIOS boot, ESP, boot and root: the partitions of image-builder's disks."""
    return make_disk(
        path,
        Part(size=1, type=BIOS_BOOT),
        Part(kind="vfat", size=34, type="c12a7328-f81f-11d2-ba4b-00a0c93ec93b", label="ESP"),
        Part(kind="ext4", size=32, type=XBOOTLDR, label="boot"),
        Part(kind="ext4", size=320, type=ROOT, label="root", holds=SYSTEM),
    )


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return disk_of_image_builder(tmp_path / "disk.raw")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return build_images(tmp_path_factory.mktemp("images"), large_images())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    builder = SourceRootBuilder(tmp_path)
    return builder(
        {f"{n}.image": f"[Image]\nImage={name}\n" for n, name in enumerate((APP, SMALL))}
    )


def converted(raw: Path, kind: str, *options: str) -> Path:
    path = raw.with_suffix(f".{kind}")
    run(("qemu-img", "convert", "-O", kind, *options, raw, path))
    return path


def compressed(raw: Path) -> Path:
    return converted(raw, "qcow2", "-c")


def on_a_backing_file(raw: Path) -> Path:
    base = converted(raw, "qcow2").rename(raw.with_name("base.qcow2"))
    path = raw.with_name("top.qcow2")
    run(("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", path))
    return path


SHAPES: dict[str, Callable[[Path], Path]] = {
    **{kind: partial(converted, kind=kind) for kind in FORMATS},
    "compressed": compressed,
    "backing": on_a_backing_file,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_copied_into_it_and_proven_from_it(
    shape: str, raw: Path, images: Images, source: Path
) -> None:
    disk = SHAPES[shape](raw)
    raw.unlink()
    base = raw.with_name("base.qcow2")
    before = base.read_bytes() if base.exists() else b""
    product("copy", source, disk, env=images.store.env)
    done = product("verify", disk, "--format=json", env={})
    assert {image["reference"] for image in json.loads(done.stdout)["images"]} == {APP, SMALL}
    assert (base.read_bytes() if base.exists() else b"") == before
    assert run(("qemu-img", "check", disk), ok=(0, 63)).returncode in (0, 63)
    assert _left(raw.parent) == []


def _left(place: Path) -> list[str]:
    """Keepers and daemons of ours that are there for files below *place*."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if b"installer_plugin.block.image_export" in words and bytes(place) in words:
            found.append(words.decode())
    return found


def test_a_flipped_byte_is_found(raw: Path, images: Images, source: Path) -> None:
    disk = converted(raw, "qcow2")
    product("copy", source, disk, env=images.store.env)
    run(("qemu-img", "convert", "-O", "raw", disk, raw))
    content = bytearray(raw.read_bytes())
    text = next(images.root.glob("overlay/*/diff/base/large")).read_bytes()
    content[content.index(text[4096:8192]) + 7] ^= 1
    raw.write_bytes(content)
    done = product("verify", converted(raw, "qcow2"), env={}, ok=(6,))
    assert "base/large" in done.stderr


def test_what_is_read_back_comes_from_the_images_own_file(raw: Path, opener: Opener) -> None:
    """The kernel keeps what a loop device has read and written through FUSE, for a second at least."""
    disk = converted(raw, "qcow2")
    seen = []
    with opener(disk, read_only=False) as target:
        make_writable(target, Runner())
        for number in range(20):
            text = b"%08d" % number + os.urandom(8184)
            file = target.physical_root / f"file-{number}"
            file.write_bytes(text)
            run(("sync", "--file-system", file))
            with disk.open("r+b", buffering=0) as below:
                below.seek(disk.read_bytes().index(text))
                below.write(b"tampered")
                os.fsync(below.fileno())
            read_directly(file)
            forget_memory(target)
            seen.append(read_directly(file)[:8])
    assert seen == [b"tampered"] * 20


def read_directly(file: Path) -> bytes:
    """Read 8 KiB past the page cache of the file system."""
    fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 8192) as buffer:
            os.preadv(fd, [buffer], 0)
            return buffer[:]
    finally:
        os.close(fd)


def test_what_is_only_read_is_not_changed(raw: Path, opener: Opener) -> None:
    disk = converted(raw, "qcow2")
    before = (disk.read_bytes(), disk.stat().st_mtime_ns)
    with opener(disk, read_only=True) as target:
        assert (target.physical_root / "ostree/repo").is_dir()
    assert (disk.read_bytes(), disk.stat().st_mtime_ns) == before


@contextmanager
def held_by_a_machine(disk: Path) -> Iterator[None]:
    """Have qemu's locks on an image, as a running virtual machine has."""
    node = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(disk)}}
    socket = disk.with_suffix(".sock")
    argv = (
        "qemu-storage-daemon", "--blockdev", json.dumps(node),
        "--nbd-server", f"addr.type=unix,addr.path={socket}",
        "--export", "type=nbd,id=e,node-name=n,writable=on", "--pidfile", f"{disk}.pid",
    )  # fmt: skip
    with subprocess.Popen(argv) as daemon:
        try:
            while not Path(f"{disk}.pid").exists():
                assert daemon.poll() is None
                time.sleep(0.05)
            yield
        finally:
            daemon.terminate()


@pytest.mark.parametrize("read_only", [True, False])
def test_an_image_that_a_machine_runs_from_is_refused(
    read_only: bool, raw: Path, opener: Opener
) -> None:
    disk = converted(raw, "qcow2")
    with (
        held_by_a_machine(disk),
        pytest.raises(HostError) as caught,
        opener(disk, read_only=read_only),
    ):
        pass
    assert "is in use by another program" in str(caught.value)
    assert caught.value.problems[0].hint == "shut down the virtual machine that runs from it"
    assert opener.left() == []


def test_a_missing_program_is_one_clear_line(
    raw: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = converted(raw, "qcow2")
    monkeypatch.setenv("PATH", "/usr/sbin:/sbin")
    with pytest.raises(HostError) as caught, opener(disk):
        pass
    assert "is a qcow2 file, which takes qemu-storage-daemon to open" in str(caught.value)
    assert "qemu-img convert -O raw" in caught.value.problems[0].hint


def test_a_format_that_cannot_be_written_is_only_read(raw: Path, opener: Opener) -> None:
    disk = converted(raw, "vmdk", "-o", "subformat=streamOptimized")
    with opener(disk, read_only=True) as target:
        assert (target.physical_root / "ostree/repo").is_dir()
    with pytest.raises(ConfigError, match="cannot be written in place") as caught, opener(disk):
        pass
    assert "qemu-img convert -O raw" in caught.value.problems[0].hint


@pytest.mark.parametrize("after", [0.2, 0.8, 1.4, 2.0])
def test_a_killed_copy_leaves_nothing_and_the_next_one_goes_on(
    after: float, raw: Path, images: Images, source: Path
) -> None:
    disk = converted(raw, "qcow2")
    argv = unshared(("env", *COMMAND, "copy", source, disk), prelude='exec setsid "$@"\n')
    with subprocess.Popen(
        argv, env={**os.environ, **images.store.env}, stderr=subprocess.PIPE, text=True
    ) as copy:
        assert copy.stderr is not None
        for line in copy.stderr:
            if "opened" in line:
                break
        time.sleep(after)
        copy.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while _left(raw.parent) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _left(raw.parent) == []
    loops = run(("losetup", "--list", "--noheadings", "--output", "BACK-FILE")).stdout
    assert str(disk.parent) not in loops
    assert f"/target-{copy.pid}-" not in loops  # others open disks at the same time
    product("copy", source, disk, env=images.store.env)
    product("verify", disk, env={})
