"""What a fresh file system keeps for itself, and what a system takes in it beyond its image (pure).

Measured on fresh ones of 1 to 100 GiB (e2fsprogs 1.47, xfsprogs 6.1 and 6.13, btrfs-progs 6.2).
"""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30
KERNEL = 256 * MIB
"""Kernel and initramfs, which ostree copies to /boot."""
BTRFS_LARGE = 50 * GIB
"""From this size on btrfs takes space in larger pieces."""


def free_bytes(size: int, filesystem: str) -> int:
    """Bytes that a fresh file system of *size* bytes has free; the least of all where it is unknown."""
    kept = {
        "ext4": 128 * MIB + size * 72 // 1000,
        "xfs": 150 * MIB + size * 20 // 1000,
        "btrfs": min(size * 13 // 100, (2100 if size >= BTRFS_LARGE else 550) * MIB),
    }
    return max(0, size - kept.get(filesystem, max(kept.values())))
