"""What is said of a disk before it is wiped holds on the disk that comes of it."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from installer_plugin.block.fresh_filesystem import EXT4_HELD, MIB
from installer_plugin.hosts.bootc.partition_plan import (
    DiskLayout,
    DiskNeed,
    device_bytes,
    disk_problems,
    planned_root_bytes,
    usable_bytes,
)
from installer_plugin.storage.engine.space import need_bytes
from tests.block.scene import MKFS, mounted
from tests.support.commands import run

pytestmark = pytest.mark.real

GIB = 1 << 30
X86 = DiskLayout(machine="x86_64", filesystem="ext4")


@pytest.mark.parametrize(
    ("size", "layout", "expected"),
    [
        (4 * GIB, X86, 4 * GIB - (2 + 1 + 512) * MIB),
        (4 * GIB + 12345, X86, 4 * GIB - (2 + 1 + 512) * MIB),
        (4 * GIB, DiskLayout(machine="aarch64"), 4 * GIB - (2 + 512) * MIB),
        (4 * GIB, DiskLayout(machine="ppc64le"), 4 * GIB - (2 + 4) * MIB),
        (4 * GIB, DiskLayout(machine="s390x"), 4 * GIB - 2 * MIB),
        (8 * GIB, DiskLayout(machine="x86_64", composefs=True), 8 * GIB - (2 + 1 + 1024) * MIB),
        (
            8 * GIB,
            DiskLayout(machine="x86_64", tpm2_luks=True),
            8 * GIB - (2 + 1 + 512 + 510) * MIB,
        ),
        (8 * GIB, DiskLayout(machine="x86_64", root_size=3 * GIB + 5), 3 * GIB),
        (2 * GIB, DiskLayout(machine="x86_64", root_size=3 * GIB), 2 * GIB - 515 * MIB),
        (100 * MIB, X86, 0),
    ],
)
def test_root_gets_what_is_left(size: int, layout: DiskLayout, expected: int) -> None:
    assert planned_root_bytes(size, layout) == expected


@pytest.mark.parametrize("size", [2 * GIB, 3 * GIB + 4711 * 512])
def test_sfdisk_makes_the_partition_no_smaller(size: int, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(size)
    table = "label: gpt\nsize=1MiB\nsize=512MiB\nname=root\n"
    subprocess.run(("sfdisk", "--quiet", image), input=table.encode(), check=True)
    sizes = run(("partx", "--show", "--bytes", "--noheadings", "--output", "SIZE", image)).stdout
    assert int(sizes.split()[2]) >= planned_root_bytes(size, X86)
    assert device_bytes(image) == size


@pytest.mark.parametrize("size", [520, 700, 1000, 2100, 4096, 10240, 32768, 102400])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_fresh_file_system_has_as_much_free_for_root(kind: str, size: int, tmp_path: Path) -> None:
    """Of ext4 root may use what is kept for it, but not what the kernel holds back; a small btrfs
    takes more for metadata later.
    """
    image = tmp_path / "root"
    with image.open("wb") as file:
        file.truncate(size * MIB)
    run((*MKFS[kind], "root", image))
    with mounted(image) as root:
        seen = os.statvfs(root)
    blocks = seen.f_bavail if kind == "btrfs" else seen.f_bfree
    later = {"ext4": EXT4_HELD, "btrfs": size * MIB // 5 if size < 1024 else 0}
    free = blocks * seen.f_frsize - later.get(kind, 0)
    expected = usable_bytes(size * MIB, DiskLayout(filesystem=kind))
    assert abs(expected - free) <= 8 * MIB
    assert usable_bytes(size * MIB, DiskLayout()) >= expected


# The smallest disks on which bootc 1.16.9 itself has installed an OS image of 485 MiB (12,000 entries)
# with bound images of 55 and 63 MiB (3,600 entries), in steps of 8 MiB: --bootloader none, e2fsprogs
# 1.47.4, xfsprogs and btrfs-progs 6.17.
REAL = {"ext4": 1180 * MIB, "xfs": 1252 * MIB, "btrfs": 1428 * MIB}
REAL_NEED = DiskNeed(system=508303360, bound=need_bytes(57968640 + 65607680, 3606), inodes=3606)


@pytest.mark.parametrize("kind", REAL)
def test_smallest_disk_that_will_do_is_not_refused(kind: str) -> None:
    layout = DiskLayout(machine="x86_64", filesystem=kind)
    assert disk_problems("d", REAL[kind], layout, REAL_NEED) == ()


@pytest.mark.parametrize("kind", REAL)
def test_disk_that_is_a_little_smaller_is_refused(kind: str) -> None:
    layout = DiskLayout(machine="x86_64", filesystem=kind)
    (problem,) = disk_problems("d", REAL[kind] * 96 // 100, layout, REAL_NEED)
    assert problem.hint.endswith("; --no-space-check tries it all the same")


def test_disk_that_is_too_small_is_a_problem_with_all_numbers() -> None:
    need = DiskNeed(system=2 * GIB, bound=GIB)
    (problem,) = disk_problems("/dev/vda", 3 * GIB, X86, need)
    assert problem.subject == "/dev/vda"
    assert problem.message == (
        "will have 2.37 GiB free in a root file system of 2.50 GiB, the system needs 2.00 GiB "
        "and its bound images 1.00 GiB"
    )
    assert problem.hint == (
        "use a larger disk or bind fewer images; --no-space-check tries it all the same"
    )
    assert disk_problems("/dev/vda", 5 * GIB, X86, need) == ()


def test_root_size_that_is_too_small_can_be_raised() -> None:
    layout = DiskLayout(machine="x86_64", filesystem="xfs", root_size=2 * GIB)
    (problem,) = disk_problems("d", 20 * GIB, layout, DiskNeed(system=2 * GIB, bound=GIB))
    assert problem.hint.startswith("raise --root-size;")


def test_inodes_may_be_what_is_missing() -> None:
    need = DiskNeed(system=GIB, bound=0, inodes=1_000_000)
    (problem,) = disk_problems("d", 5 * GIB, X86, need)
    assert "inodes" in problem.message
    assert disk_problems("d", 5 * GIB, DiskLayout(filesystem="xfs"), need) == ()


@pytest.mark.parametrize(("root", "inodes"), [(400 * MIB, 100_000), (800 * MIB, 50_000)])
def test_small_file_system_has_more_inodes_for_its_size(root: int, inodes: int) -> None:
    need = DiskNeed(system=0, bound=0, inodes=inodes)
    assert disk_problems("d", root + 515 * MIB, X86, need) == ()
    (problem,) = disk_problems("d", root + 515 * MIB, X86, replace(need, inodes=inodes * 11 // 10))
    assert "inodes" in problem.message
