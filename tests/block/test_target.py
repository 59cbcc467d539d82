"""Targets of every kind are opened, worked on, and closed."""

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from installer_plugin.block import loops
from installer_plugin.block.base import ROOT_TYPES
from installer_plugin.block.target import make_writable
from installer_plugin.process.runner import Runner
from tests.block.scene import (
    LINUX,
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

OTHER_ROOT = next(kind for kind in ROOT_TYPES.values() if kind != ROOT)

FOUND: dict[str, Sequence[Part]] = {
    "type": (
        Part(kind="ext4", name="root", label="root", holds=SYSTEM),
        Part(kind="ext4", type=ROOT, label="mine"),
    ),
    "type-of-another-machine": (
        Part(kind="ext4", name="root", label="root"),
        Part(kind="ext4", type=OTHER_ROOT, label="mine"),
    ),
    "partition-name": (
        Part(kind="ext4", label="root", holds=SYSTEM),
        Part(kind="ext4", name="root", label="mine"),
    ),
    "label": (
        Part(kind="ext4", label="other", holds=SYSTEM),
        Part(kind="ext4", label="root"),
    ),
    "ostree": (Part(kind="ext4", label="other"), Part(kind="ext4", label="mine", holds=SYSTEM)),
    "composefs": (
        Part(kind="ext4", label="other", holds=("ostree/deploy",)),
        Part(kind="ext4", label="mine", holds=("composefs",)),
    ),
    "xfs": (Part(kind="ext4"), Part(kind="xfs", size=320, type=ROOT, label="mine")),
    "btrfs": (Part(kind="ext4"), Part(kind="btrfs", size=160, label="mine", holds=SYSTEM)),
    "swap-and-empty-are-passed-over": (
        Part(kind="swap"),
        Part(kind="ext4", label="mine", holds=SYSTEM),
        Part(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("parts", FOUND.values(), ids=FOUND)
def test_root_is_found(parts: Sequence[Part], opener: Opener, tmp_path: Path) -> None:
    image = make_disk(tmp_path / "disk.img", boot(), *parts)
    with opener(image) as target:
        assert target.device is not None
        label = run(("blkid", "-p", "-o", "value", "-s", "LABEL", target.device)).stdout.strip()
        assert label == ("root" if parts[1].label == "root" else "mine")
        assert target.named == image
    assert "looking with util-linux" in opener.told.text


@pytest.mark.parametrize("table", ["gpt", "dos"])
def test_root_is_found_in_both_kinds_of_table(table: str, opener: Opener, tmp_path: Path) -> None:
    kind = LINUX if table == "gpt" else "83"
    parts = (
        Part(kind="ext4", type=kind, label="other"),
        Part(kind="ext4", type=kind, label="root"),
    )
    image = make_disk(tmp_path / "disk.img", *parts, table=table)
    with opener(image) as target:
        assert str(target.device).endswith("p2")


def test_directory_is_passed_through(opener: Opener, tmp_path: Path) -> None:
    folder = tmp_path / "target"
    folder.mkdir()
    with opener(folder) as target:
        assert (target.physical_root, target.device) == (folder, None)
        make_writable(target, Runner())
        (folder / "file").touch()
    assert not opener.state.exists()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_file_system_without_partitions(kind: str, opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(tmp_path / "root.img", Part(kind=kind, size=320, holds=SYSTEM))
    with opener(image) as target:
        make_writable(target, Runner())
        (target.physical_root / "written").write_text("yes")
    with opener(image, read_only=True) as target:
        assert (target.physical_root / "written").read_text() == "yes"
        with pytest.raises(OSError, match="Read-only"):
            (target.physical_root / "more").touch()


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
@pytest.mark.parametrize("number", [0, 2], ids=["disk", "partition"])
def test_block_devices(*, read_only: bool, number: int, opener: Opener, tmp_path: Path) -> None:
    image = make_disk(tmp_path / "disk.img", boot(), Part(kind="ext4", type=ROOT, holds=SYSTEM))
    with attached(image) as disk:
        named = Path(f"{disk}p{number}") if number else disk
        with opener(named, read_only=read_only) as target:
            assert (target.physical_root / SYSTEM[0]).is_dir()
            if not read_only:
                make_writable(target, Runner())
                (target.physical_root / "written").touch()
        if not read_only:
            with mounted(Path(f"{disk}p2"), "ro") as root:
                assert (root / "written").exists()


def test_disk_with_large_sectors(opener: Opener, tmp_path: Path) -> None:
    image = make_disk(tmp_path / "disk.img", boot(), Part(size=100, type=ROOT), sector=4096)
    content = make_file_system(tmp_path / "c", Part(kind="ext4", size=100, holds=SYSTEM))
    place(content, image, 35)
    with opener(image) as target:
        assert (target.physical_root / SYSTEM[0]).is_dir()


SUBVOLUMES = {"root": "root", "at": "@", "deeper": "system/root", "none": ""}


@pytest.mark.parametrize("subvolume", SUBVOLUMES.values(), ids=SUBVOLUMES)
@pytest.mark.parametrize("type_id", [ROOT, LINUX], ids=["marked", "unmarked"])
def test_btrfs_subvolume(subvolume: str, type_id: str, opener: Opener, tmp_path: Path) -> None:
    part = Part(kind="btrfs", size=160, type=type_id, holds=SYSTEM, subvolume=subvolume)
    image = make_disk(tmp_path / "disk.img", boot(), part)
    with opener(image) as target:
        make_writable(target, Runner())
        (target.physical_root / "written").touch()
    with opener(image, read_only=True) as target:
        assert (target.physical_root / SYSTEM[0]).is_dir()
        assert (target.physical_root / "written").exists()


CHOICES = {"number": "3", "name": "second", "label": "mine"}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_root_may_be_chosen(choice: str, opener: Opener, tmp_path: Path) -> None:
    first = Part(kind="ext4", type=ROOT, label="other", holds=SYSTEM)
    second = Part(kind="ext4", name="second", label="mine")
    image = make_disk(tmp_path / "disk.img", boot(), first, second)
    with opener(image, root_partition=choice) as target:
        assert str(target.device).endswith("p3")


# --- nothing is changed before it is time ------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_opening_and_looking_change_no_byte(
    kind: str, *, read_only: bool, opener: Opener, tmp_path: Path
) -> None:
    image = make_disk(
        tmp_path / "disk.img", boot(), Part(kind="ext4"), Part(kind=kind, size=320, holds=SYSTEM)
    )
    before = image.read_bytes()
    with opener(image, read_only=read_only):
        pass
    assert image.read_bytes() == before


# --- where the machine does not do its part ------------------------------------------------------


def test_partition_without_a_node_gets_one_of_ours(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_disk(tmp_path / "disk.img", boot(), Part(kind="ext4", type=ROOT, holds=SYSTEM))
    dev = tmp_path / "dev"
    dev.mkdir()
    monkeypatch.setattr(loops, "DEV", dev)
    with opener(image) as target:
        assert target.device is not None
        assert target.device.is_relative_to(dev)
        assert stat.S_ISBLK(target.device.stat().st_mode)
        assert (target.physical_root / SYSTEM[0]).is_dir()
    assert list(dev.iterdir()) == []


@pytest.mark.parametrize("own", [True, False], ids=["image", "disk"])
def test_partition_that_the_kernel_does_not_know_is_reached_by_its_place(
    *, own: bool, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_disk(tmp_path / "disk.img", boot(), Part(kind="ext4", type=ROOT, holds=SYSTEM))
    monkeypatch.setattr(loops, "_entry_of", lambda *_: None)
    if own:
        with opener(image, read_only=True) as target:
            assert (target.physical_root / SYSTEM[0]).is_dir()
        return
    with attached(image, partitions=False) as disk, opener(disk) as target:
        make_writable(target, Runner())
        (target.physical_root / "written").touch()
    with opener(image) as target:
        assert (target.physical_root / "written").exists()
