"""What is said of a disk before it is wiped holds on the disk that comes of it."""

import os
import subprocess
from pathlib import Path

import pytest

from installer_plugin.block.fresh_filesystem import MIB
from installer_plugin.hosts.bootc.partition_plan import (
    DiskLayout,
    DiskNeed,
    device_bytes,
    disk_problems,
    planned_root_bytes,
    usable_bytes,
)
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
        (8 * GIB, DiskLayout(machine="x86_64", composefs=True), 8 * GIB - (2 + 1 + 2048) * MIB),
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


@pytest.mark.parametrize("size", [1, 2, 4, 10, 32, 100])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_fresh_file_system_has_no_less_free(kind: str, size: int, tmp_path: Path) -> None:
    image = tmp_path / "root"
    with image.open("wb") as file:
        file.truncate(size * GIB)
    run((*MKFS[kind], "root", image))
    with mounted(image) as root:
        seen = os.statvfs(root)
    free = seen.f_bavail * seen.f_frsize
    expected = usable_bytes(size * GIB, DiskLayout(filesystem=kind))
    assert expected <= free
    assert expected >= free * 0.9, "disks that would do are refused"
    assert usable_bytes(size * GIB, DiskLayout()) <= expected


def test_disk_that_is_too_small_is_a_problem_with_all_numbers() -> None:
    need = DiskNeed(system=2 * GIB, bound=GIB)
    (problem,) = disk_problems("/dev/vda", 3 * GIB, X86, need)
    assert problem.subject == "/dev/vda"
    assert problem.message == (
        "will have 2.19 GiB free in a root file system of 2.50 GiB, the system needs 2.25 GiB "
        "and its bound images 1.00 GiB"
    )
    assert problem.hint == "use a larger disk or bind fewer images"
    assert disk_problems("/dev/vda", 5 * GIB, X86, need) == ()


def test_root_size_that_is_too_small_can_be_raised() -> None:
    layout = DiskLayout(machine="x86_64", filesystem="xfs", root_size=2 * GIB)
    (problem,) = disk_problems("d", 20 * GIB, layout, DiskNeed(system=2 * GIB, bound=GIB))
    assert problem.hint == "raise --root-size"


def test_inodes_may_be_what_is_missing() -> None:
    need = DiskNeed(system=GIB, bound=0, inodes=1_000_000)
    (problem,) = disk_problems("d", 5 * GIB, X86, need)
    assert "inodes" in problem.message
    assert disk_problems("d", 5 * GIB, DiskLayout(filesystem="xfs"), need) == ()


def test_kernel_needs_no_room_in_the_root_where_it_lies_elsewhere() -> None:
    need = DiskNeed(system=usable_bytes(planned_root_bytes(4 * GIB, X86), X86), bound=0)
    assert disk_problems("d", 4 * GIB, X86, need)
    composefs = DiskLayout(machine="s390x", filesystem="xfs", composefs=True)
    room = usable_bytes(planned_root_bytes(4 * GIB, composefs), composefs)
    assert disk_problems("d", 4 * GIB, composefs, DiskNeed(system=room, bound=0)) == ()
