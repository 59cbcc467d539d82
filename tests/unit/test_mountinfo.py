"""Finding the physical root of a store that is bind-mounted at bootc's alias."""

from pathlib import Path

import pytest

from installer_plugin.block.mountinfo import (
    Mount,
    mount_at,
    mount_of,
    parse_mountinfo,
    roots_of_store,
)

ALIAS = "/run/bootc/storage"
DISK = "60 30 7:3 / /run/bootc/mounts/rootfs rw,relatime shared:9 - ext4 /dev/loop0p3 rw"
STORE = "61 30 7:3 /ostree/bootc/storage /run/bootc/storage rw - ext4 /dev/loop0p3 rw"
OTHER = "30 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
SUBVOLUME = "60 30 0:40 /root /mnt/target rw - btrfs /dev/sda3 rw,subvol=/root"
SUBVOLUME_STORE = "61 30 0:40 /root/ostree/bootc/storage /run/bootc/storage rw - btrfs /dev/sda3 rw"
BOOT = "62 30 7:3 /boot /mnt/boot rw - ext4 /dev/loop0p3 rw"


TOP_LEVEL = "59 30 0:40 / /mnt rw - btrfs /dev/sda3 rw,subvol=/"
READ_ONLY = "59 30 7:3 / /mnt/a ro,relatime - ext4 /dev/loop0p3 rw"
FOLDER = "60 30 254:0 /srv/root /mnt/target rw - ext4 /dev/vda rw"
FOLDER_STORE = "61 30 254:0 /srv/root/ostree/bootc/storage /run/bootc/storage rw - ext4 /dev/vda rw"
DEPLOYMENT = "58 1 7:3 /ostree/deploy/default/deploy/1.0 /target rw - ext4 /dev/loop0p3 rw"
TWICE = "63 30 7:3 / /mnt/b rw - ext4 /dev/loop0p3 rw"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([OTHER, DISK, STORE], ["/run/bootc/mounts/rootfs"]),
        ([OTHER, BOOT, DISK, STORE], ["/run/bootc/mounts/rootfs"]),
        ([OTHER, SUBVOLUME, SUBVOLUME_STORE], ["/mnt/target"]),
        ([OTHER, TOP_LEVEL, SUBVOLUME, SUBVOLUME_STORE], ["/mnt/target"]),
        ([OTHER, FOLDER, FOLDER_STORE], ["/mnt/target"]),
        ([OTHER, DEPLOYMENT, DISK, STORE], ["/run/bootc/mounts/rootfs"]),
        ([OTHER, READ_ONLY, DISK, STORE], ["/run/bootc/mounts/rootfs", "/mnt/a"]),
        ([OTHER, DISK, READ_ONLY, STORE], ["/run/bootc/mounts/rootfs", "/mnt/a"]),
        ([OTHER, DISK, TWICE, STORE], ["/mnt/b", "/run/bootc/mounts/rootfs"]),
        ([OTHER, DISK], []),
        ([OTHER, STORE], []),
        ([], []),
        (["garbage", "1 2 3"], []),
    ],
    ids=[
        "disk", "beside boot", "subvolume", "subvolume beside its top level", "bound directory",
        "beside a deployment", "read-only before", "read-only after", "mounted twice",
        "no store", "no root", "empty", "garbage",
    ],
)  # fmt: skip
def test_a_root_is_what_has_the_store_in_its_place(lines: list[str], found: list[str]) -> None:
    mounts = parse_mountinfo("\n".join(lines))
    roots = roots_of_store(mounts, ALIAS, "ostree/bootc/storage")
    assert [str(root) for root in roots] == found


def test_escaped_characters_are_read() -> None:
    (mount,) = parse_mountinfo(r"60 30 7:3 / /mnt/a\040b\134c rw - ext4 /dev/x rw")
    assert mount.mount_point == r"/mnt/a b\c"


def test_mount_is_read_with_its_options_and_those_of_its_file_system() -> None:
    text = (
        "36 35 98:0 /sub /mnt/a\\040b\\134c ro,noatime shared:1 master:2 - ext4 /dev/x rw,errors=x\n"
        "37 35 0:40 / /x rw - vfat /dev/y ro\n"
        "38 35 0:41 / /y rw\n"
        "garbage\n"
    )
    assert parse_mountinfo(text) == (
        Mount("98:0", "/sub", "/mnt/a b\\c", writable=False, kind="ext4"),
        Mount("0:40", "/", "/x", kind="vfat", file_system_writable=False),
        Mount("0:41", "/", "/y"),
    )


def test_mount_of_a_path_is_the_nearest_one() -> None:
    proc = mount_of(Path("/proc/self"))
    assert proc == mount_at(Path("/proc"))
    assert proc is not None
    assert proc.kind == "proc"
    assert mount_at(Path("/proc/self/fd/absent")) is None
