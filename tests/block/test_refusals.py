"""What cannot be opened is refused with a clear error, and nothing is changed."""

import gzip
import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from installer_plugin.block import in_use
from installer_plugin.block.base import Key
from installer_plugin.block.disk_image_format import convert_line, find_format, format_of
from installer_plugin.block.probe import Loop, list_loops
from installer_plugin.errors import BoundImagesError, ConfigError, HostError, InterruptedBySignal
from installer_plugin.process.runner import Runner
from tests.block.luks_header import write_luks2_header
from tests.block.scene import (
    ROOT,
    SYSTEM,
    Opener,
    Part,
    attached,
    boot,
    make_disk,
    make_file_system,
    mounted,
    place,
)
from tests.support.commands import run
from tests.support.leftovers import Machine


def refused(opener: Opener, path: Path, **options: object) -> BoundImagesError:
    """The error that opening ends in; neither the machine nor the image may have changed."""
    before, content = Machine.now(), path.read_bytes() if path.is_file() else b""
    with pytest.raises(BoundImagesError) as caught, opener(path, **options):
        raise AssertionError("it was opened")
    now = Machine.now()
    assert not [mount for mount in now.mounts - before.mounts if str(opener.state) in mount]
    assert not [loop for loop in now.loops - before.loops if str(path) in loop]
    if path.is_file():
        assert path.read_bytes() == content
    assert all(problem.hint for problem in caught.value.problems)
    return caught.value


def _error(opener: Opener, path: Path) -> BoundImagesError:
    with pytest.raises(BoundImagesError) as caught, opener(path):
        pass
    return caught.value


# --- no disk, or not ours ----------------------------------------------------------------------


def test_no_such_device(opener: Opener, tmp_path: Path) -> None:
    error = refused(opener, tmp_path / "sdx")
    assert isinstance(error, ConfigError)
    assert "No such file or directory" in str(error)


@pytest.mark.parametrize("kind", ["fifo", "character-device", "empty-file"])
def test_no_disk(kind: str, opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "character-device":
        path = Path("/dev/null")
    else:
        path.touch()
    error = refused(opener, path)
    assert isinstance(error, ConfigError)
    assert "expected a" in str(error)


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
@pytest.mark.parametrize("named", ["disk", "partition"])
def test_mounted_disk_is_left_alone(
    named: str, *, read_only: bool, opener: Opener, tmp_path: Path
) -> None:
    image = make_disk(tmp_path / "disk.img", boot(), Part(kind="ext4", type=ROOT, holds=SYSTEM))
    with attached(image) as disk, mounted(Path(f"{disk}p2")) as point:
        path = Path(f"{disk}p2") if named == "partition" else disk
        error = refused(opener, path, read_only=read_only)
        assert isinstance(error, HostError)
        assert f"is mounted on {point}" in str(error)
        assert f"umount {point}" in error.problems[0].hint


def test_disk_that_is_used_out_of_sight_is_left_alone(opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind="ext4", holds=SYSTEM))
    with attached(image, partitions=False) as disk:
        fd = os.open(disk, os.O_RDONLY | os.O_EXCL)
        try:
            error = refused(opener, disk)
        finally:
            os.close(fd)
    assert isinstance(error, HostError)
    assert "is in use" in str(error)


def test_image_that_is_attached_is_left_alone(opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind="ext4", holds=SYSTEM))
    with attached(image, partitions=False) as disk:
        error = _error(opener, image)
    assert isinstance(error, HostError)
    assert f"is in use by {disk}" in str(error)


@pytest.mark.parametrize("closed", [True, False], ids=["closed-meanwhile", "kept"])
def test_loop_device_that_somebody_still_looks_at_is_waited_for(
    closed: bool, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind="ext4", holds=SYSTEM))
    with ExitStack() as look:
        with attached(image, partitions=False) as disk:
            looked = os.open(disk, os.O_RDONLY)
            look.callback(os.close, looked)
        seen: list[tuple[Loop, ...]] = []

        def list_and_close(runner: Runner) -> tuple[Loop, ...]:
            seen.append(list_loops(runner))
            if closed:
                look.close()
            return seen[-1]

        monkeypatch.setattr(in_use, "list_loops", list_and_close)
        monkeypatch.setattr(in_use, "DETACH_SECONDS", 60 if closed else 0)
        if closed:
            with opener(image):
                pass
        else:
            assert f"is in use by {disk}" in str(_error(opener, image))
    assert str(disk) in [str(loop.device) for loop in seen[0]]


def test_read_only_disk_cannot_be_written(opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind="ext4", holds=SYSTEM))
    with attached(image, partitions=False) as disk:
        run(("blockdev", "--setro", disk))
        try:
            error = refused(opener, disk)
            with opener(disk, read_only=True) as target:
                assert (target.physical_root / SYSTEM[0]).is_dir()
        finally:
            run(("blockdev", "--setrw", disk))
    assert isinstance(error, HostError)
    assert "is read-only" in str(error)


def test_partition_of_a_directory_makes_no_sense(opener: Opener, tmp_path: Path) -> None:
    error = refused(opener, tmp_path, root_partition="2")
    assert isinstance(error, ConfigError)
    assert "is a directory" in str(error)


def test_only_root_opens_disks(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind="ext4"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = refused(opener, image)
    assert isinstance(error, HostError)
    assert "by root" in str(error)


# --- no root, or more than one -----------------------------------------------------------------


def disk_of(tmp_path: Path, *parts: Part) -> Path:
    return make_disk(tmp_path / "disk.img", boot(), *parts)


NO_ROOT: dict[str, tuple[Sequence[Part], str]] = {
    "nothing-fits": ((Part(kind="ext4", label="data"), Part(kind="swap")), "has no root"),
    "no-partitions-but-the-firmware's": ((), "has no root"),
    "root-without-file-system": ((Part(type=ROOT),), "partition 2 has no file system"),
    "root-with-swap": ((Part(kind="swap", type=ROOT),), "partition 2 has swap"),
}


@pytest.mark.parametrize(("parts", "told"), NO_ROOT.values(), ids=NO_ROOT)
def test_no_root(parts: Sequence[Part], told: str, opener: Opener, tmp_path: Path) -> None:
    error = refused(opener, disk_of(tmp_path, *parts))
    assert isinstance(error, HostError)
    assert told in str(error)


def test_nothing_at_all(opener: Opener, tmp_path: Path) -> None:
    image = tmp_path / "empty.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    error = refused(opener, image)
    assert isinstance(error, HostError)
    assert "has no file system" in str(error)


A = Part(kind="ext4", type=ROOT, name="slot-a")
B = Part(kind="ext4", type=ROOT, name="slot-b")
SEVERAL: dict[str, tuple[Part, Part]] = {
    "type": (A, B),
    "partition-name": (Part(kind="ext4", name="root"), Part(kind="ext4", name="root")),
    "label": (Part(kind="ext4", label="root"), Part(kind="ext4", label="root")),
    "content": (Part(kind="ext4", holds=SYSTEM), Part(kind="ext4", holds=("composefs",))),
}


@pytest.mark.parametrize("parts", SEVERAL.values(), ids=SEVERAL)
def test_two_candidates_are_named(parts: tuple[Part, Part], opener: Opener, tmp_path: Path) -> None:
    image = disk_of(tmp_path, *parts)
    error = refused(opener, image)
    assert isinstance(error, ConfigError)
    assert "2 candidates for the root" in str(error)
    assert "partition 2" in str(error)
    assert "partition 3" in str(error)
    assert "--root-partition" in error.problems[0].hint
    with opener(image, root_partition="3") as target:
        assert str(target.device).endswith("p3")


@pytest.mark.parametrize(
    ("choice", "told"), [("7", "nothing called '7'"), ("same", "several of its partitions")]
)
def test_choice_must_name_one(choice: str, told: str, opener: Opener, tmp_path: Path) -> None:
    twins = (Part(kind="ext4", name="same"), Part(kind="ext4", name="same"))
    error = refused(opener, disk_of(tmp_path, *twins), root_partition=choice)
    assert isinstance(error, ConfigError)
    assert told in str(error)


def test_two_subvolumes_with_a_system(opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(
        tmp_path / "root.img", Part(kind="btrfs", size=160, holds=SYSTEM, subvolume="a")
    )
    with mounted(image) as top:
        run(("btrfs", "--quiet", "subvolume", "create", top / "b"))
        (top / "b" / SYSTEM[0]).mkdir(parents=True)
    error = refused(opener, image)
    assert isinstance(error, ConfigError)
    assert "a, b" in str(error)


# --- file systems that need attention ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_journal_is_not_replayed_on_a_disk_that_is_only_read(
    kind: str, opener: Opener, tmp_path: Path
) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind=kind, size=320, holds=SYSTEM))
    snapshot = tmp_path / "snapshot.img"
    with mounted(image) as root:
        (root / "written").write_text("yes")
        run(("sync", "--file-system", root))
        run(("cp", "--sparse=always", image, snapshot))
    error = refused(opener, snapshot, read_only=True)
    assert isinstance(error, HostError)
    assert "was not unmounted cleanly" in str(error)
    with opener(snapshot) as target:
        assert (target.physical_root / "written").read_text() == "yes"
    assert "its journal is replayed" in opener.told.text
    with opener(snapshot, read_only=True):
        pass


def test_damaged_file_system(opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind="ext4"))
    with image.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 65536)
    error = refused(opener, image)
    assert isinstance(error, HostError)
    assert "mount failed" in str(error)
    assert "fsck" in error.problems[0].hint


# --- encryption, as far as no kernel is needed -----------------------------------------------------


@pytest.mark.parametrize("type_id", [ROOT, Part().type], ids=["marked", "unmarked"])
def test_encrypted_root_without_a_key(type_id: str, opener: Opener, tmp_path: Path) -> None:
    image = disk_of(tmp_path, Part(size=32, type=type_id))
    header = tmp_path / "header"
    write_luks2_header(header)
    place(header, image, 35)
    error = refused(opener, image)
    assert isinstance(error, ConfigError)
    assert "is encrypted (LUKS), and no key was given" in str(error)
    assert "--passphrase-file" in error.problems[0].hint


def test_key_file_must_be_there(opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind="ext4"))
    for key in (Key(key_file=tmp_path / "none"), Key(passphrase_file=tmp_path)):
        error = refused(opener, image, key=key)
        assert isinstance(error, ConfigError)
        assert "expected one with a key" in str(error)


# --- other formats -----------------------------------------------------------------------------

FORMATS = {
    "a.qcow2": (b"QFI\xfb\0\0\0\3", "qemu-img convert -O raw {dir}/a.qcow2 {dir}/a.raw"),
    "a.img": (b"QFI\xfb\0\0\0\3", "qemu-img convert -O raw {dir}/a.img {dir}/a.raw"),
    "a": (b"QFI\xfb\0\0\0\3", "qemu-img convert -O raw {dir}/a {dir}/a.raw"),
    "a b.vmdk": (b"KDMV", "qemu-img convert -O raw '{dir}/a b.vmdk' '{dir}/a b.raw'"),
    "text.vmdk": (
        b"# Disk DescriptorFile\n",
        "qemu-img convert -O raw {dir}/text.vmdk {dir}/text.raw",
    ),
    "a.vdi": (
        b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
        "qemu-img convert -O raw {dir}/a.vdi {dir}/a.raw",
    ),
    "a.vhdx": (b"vhdxfile", "qemu-img convert -O raw {dir}/a.vhdx {dir}/a.raw"),
    "a.vhd": (b"\0" * 8192 + b"conectix".ljust(512), "qemu-img convert -O raw {dir}/a.vhd {dir}/a.raw"),
    "a.raw.xz": (b"\xfd7zXZ\0", "xz -dc {dir}/a.raw.xz > {dir}/a.raw"),
    "a.raw.gz": (gzip.compress(b"x"), "gzip -dc {dir}/a.raw.gz > {dir}/a.raw"),
    "a.raw.zst": (b"\x28\xb5\x2f\xfd", "zstd -d {dir}/a.raw.zst -o {dir}/a.raw"),
    "a.zst": (b"\x28\xb5\x2f\xfd", "zstd -d {dir}/a.zst -o {dir}/a.raw"),
    "a.bz2": (b"BZh9", "bzip2 -dc {dir}/a.bz2 > {dir}/a.raw"),
}  # fmt: skip


PACKED = tuple(name for name in FORMATS if not FORMATS[name][1].startswith("qemu-img"))


def _written(name: str, folder: Path) -> Path:
    content, _ = FORMATS[name]
    path = folder / name
    path.write_bytes(content.ljust(600, b"\0") if name != "a.vhd" else content)
    return path


@pytest.mark.parametrize("name", PACKED)
def test_packed_image_is_refused_with_the_line_that_unpacks_it(
    name: str, opener: Opener, tmp_path: Path
) -> None:
    error = refused(opener, _written(name, tmp_path))
    assert isinstance(error, ConfigError)
    assert "expected a disk image" in str(error)
    assert error.problems[0].hint == f"convert it: {FORMATS[name][1].format(dir=tmp_path)}"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in PACKED])
def test_image_that_is_damaged_is_told_with_what_qemu_says(
    name: str, opener: Opener, tmp_path: Path
) -> None:
    path = _written(name, tmp_path)
    error = refused(opener, path)
    assert isinstance(error, HostError)
    assert str(error).startswith(f"{path}: ")
    assert "cannot be opened as a " in str(error) or "has no root" in str(error)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_line_that_makes_a_raw_image(name: str, tmp_path: Path) -> None:
    path = _written(name, tmp_path)
    form = format_of(path)
    assert form is not None
    assert convert_line(path, form) == FORMATS[name][1].format(dir=tmp_path)


def test_line_can_be_pasted_into_a_shell() -> None:
    form = find_format(b"QFI\xfb")
    assert form is not None
    words = shlex.split(convert_line(Path("/x/it's; rm -rf $HOME.qcow2"), form))
    assert words[-2] == "/x/it's; rm -rf $HOME.qcow2"


def test_raw_images_are_no_known_format() -> None:
    for head in (b"", b"\0" * 4096, b"\xeb\x63\x90", b"LUKS\xba\xbe"):
        assert find_format(head, head) is None


def test_interruption_is_not_taken_for_an_error(opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind="ext4", holds=SYSTEM))
    with pytest.raises(InterruptedBySignal), opener(image):
        raise InterruptedBySignal("SIGTERM")
    assert opener.left() == []
