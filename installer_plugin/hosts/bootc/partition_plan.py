"""How much room a disk will have for the system once ``bootc install to-disk`` has laid it out. Pure
but for :func:`device_bytes`.

Partitions: bootc ``crates/lib/src/install/baseline.rs``.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.block.fresh_filesystem import EXT4_SMALL, MIB, free_bytes
from installer_plugin.errors import Problem
from installer_plugin.events import iec

LABEL_BYTES = MIB
"""At the start, where partitions are aligned to it, and at the end for the second GPT."""
FIRST = {"x86_64": MIB, "ppc64le": 4 * MIB}
"""For the firmware: BIOS-BOOT, PReP."""
ESP = 512 * MIB
ESP_COMPOSEFS = 1024 * MIB
"""In bootc 1.16; twice that in later ones, where a disk that seems to do may not."""
WITH_ESP = frozenset(("x86_64", "aarch64"))
BOOT = 510 * MIB
"""A boot partition of its own, with ``--block-setup tpm2-luks`` only."""
LUKS_HEADER = 16 * MIB
EXT4_INODE = 16384
"""Bytes for which mkfs.ext4 makes one inode; a fourth on a small file system."""
MARGIN_PERCENT = 1
"""Of the need, by which our sums may be too high: a disk that would just do is not refused."""
OVERRIDE = "--no-space-check tries it all the same"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLayout:
    """What decides how bootc lays a disk out."""

    filesystem: str = ""
    """``ext4``, ``xfs`` or ``btrfs``; "" where only the image knows."""
    composefs: bool = False
    tpm2_luks: bool = False
    root_size: int | None = None
    """Bytes, of ``--root-size``; None for all that is left."""
    machine: str = ""
    """As ``uname -m`` says; "" for this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeed:
    """What is to be written to the root file system, with what files take beyond their content."""

    system: int
    """Bytes of the OS image."""
    bound: int
    """Bytes of the bound images."""
    inodes: int = 0
    """Of both."""


def planned_root_bytes(disk_size: int, layout: DiskLayout) -> int:
    """Bytes of the root partition on a disk of *disk_size* bytes; 0 when there is no room for one."""
    left = max(0, _left_for_root(disk_size, layout))
    return left if layout.root_size is None else min(left, layout.root_size // MIB * MIB)


def _left_for_root(disk_size: int, layout: DiskLayout) -> int:
    machine = layout.machine or platform.machine()
    others = FIRST.get(machine, 0)
    if machine in WITH_ESP:
        others += ESP_COMPOSEFS if layout.composefs else ESP
    if layout.tpm2_luks:
        others += BOOT
    return disk_size // MIB * MIB - 2 * LABEL_BYTES - others


def usable_bytes(root_bytes: int, layout: DiskLayout) -> int:
    """Bytes that a fresh file system of *root_bytes* has free; the most of all where it is unknown."""
    size = root_bytes - (LUKS_HEADER if layout.tpm2_luks else 0)
    return free_bytes(size, layout.filesystem)


def disk_problems(
    subject: str, disk_size: int, layout: DiskLayout, need: DiskNeed
) -> tuple[Problem, ...]:
    """Why the system and its bound images will not fit on a disk of *disk_size* bytes."""
    root = planned_root_bytes(disk_size, layout)
    room = usable_bytes(root, layout)
    # Kernel and initramfs take no room of their own: ostree links them to /boot, or they are elsewhere.
    needed = (need.system + need.bound) * (100 - MARGIN_PERCENT) // 100
    if needed > room:
        message = (
            f"will have {iec(room)} free in a root file system of {iec(root)}, the system needs "
            f"{iec(need.system)} and its bound images {iec(need.bound)}"
        )
        larger = layout.root_size is not None and _left_for_root(disk_size, layout) > root
        do = "raise --root-size" if larger else "use a larger disk or bind fewer images"
        return (Problem(subject=subject, message=message, hint=f"{do}; {OVERRIDE}"),)
    inodes = root // (EXT4_INODE if root >= EXT4_SMALL else EXT4_INODE // 4)
    if layout.filesystem == "ext4" and need.inodes > inodes:
        message = f"will have {inodes} inodes, the system and its images need {need.inodes}"
        hint = f"use a larger disk, or another --filesystem; {OVERRIDE}"
        return (Problem(subject=subject, message=message, hint=hint),)
    return ()


def device_bytes(path: Path) -> int:
    """Size of a disk or disk image; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
