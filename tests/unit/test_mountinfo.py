"""Finding the physical root of a store that is bind-mounted at bootc's alias."""

from pathlib import Path

import pytest

from installer_plugin.hosts.mountinfo import MountedStore, locate_store, parse_mountinfo

ALIAS = "/run/bootc/storage"
DISK = "60 30 7:3 / /run/bootc/mounts/rootfs rw,relatime shared:9 - ext4 /dev/loop0p3 rw"
STORE = "61 30 7:3 /ostree/bootc/storage /run/bootc/storage rw - ext4 /dev/loop0p3 rw"
OTHER = "30 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"
SUBVOLUME = "60 30 0:40 /root /mnt/target rw - btrfs /dev/sda3 rw,subvol=/root"
SUBVOLUME_STORE = "61 30 0:40 /root/ostree/bootc/storage /run/bootc/storage rw - btrfs /dev/sda3 rw"
BOOT = "62 30 7:3 /boot /mnt/boot rw - ext4 /dev/loop0p3 rw"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([OTHER, DISK, STORE], ("/run/bootc/mounts/rootfs", "ostree/bootc/storage")),
        ([OTHER, BOOT, DISK, STORE], ("/run/bootc/mounts/rootfs", "ostree/bootc/storage")),
        ([OTHER, SUBVOLUME, SUBVOLUME_STORE], ("/mnt/target", "ostree/bootc/storage")),
        ([OTHER, DISK], None),
        ([OTHER, STORE], None),
        ([], None),
        (["garbage", "1 2 3"], None),
    ],
    ids=["disk", "beside boot", "subvolume", "no store", "no root", "empty", "garbage"],
)
def test_the_physical_root_is_the_mount_that_holds_the_store(
    lines: list[str], found: tuple[str, str] | None
) -> None:
    expected = MountedStore(Path(found[0]), found[1]) if found else None
    assert locate_store(parse_mountinfo("\n".join(lines)), ALIAS) == expected


def test_escaped_characters_are_read() -> None:
    (mount,) = parse_mountinfo(r"60 30 7:3 / /mnt/a\040b\134c rw - ext4 /dev/x rw")
    assert mount.mount_point == r"/mnt/a b\c"
