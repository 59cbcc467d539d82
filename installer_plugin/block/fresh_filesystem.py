"""What a fresh file system leaves for root to write (pure).

Measured on fresh ones of 0.5 to 100 GiB (e2fsprogs 1.47, xfsprogs 6.1 and 6.17, btrfs-progs 6.2 and 6.17).
"""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30
EXT4_SMALL = 512 * MIB
"""Below it mkfs.ext4 makes blocks of 1 KiB and an inode for every 4 KiB (mke2fs.conf, ``small``)."""
EXT4_INODES = 64
"""256 bytes of inode for every 16 KiB."""
EXT4_HELD = 16 * MIB
"""Blocks that the kernel keeps for metadata which it has promised (fs/ext4/super.c,
ext4_calculate_resv_clusters). The share for root, 5 %, is there for bootc, which is root."""
EXT4_JOURNAL = (
    (GIB, 16 * MIB),
    (2 * GIB, 32 * MIB),
    (16 * GIB, 64 * MIB),
    (32 * GIB, 128 * MIB),
    (64 * GIB, 256 * MIB),
    (128 * GIB, 512 * MIB),
)
"""Sizes below which the journal has that size, else a GiB (libext2fs, ext2fs_default_journal_size)."""
BTRFS_SMALL = GIB
BTRFS_LARGE = 50 * GIB
"""From this size on btrfs takes space in larger pieces."""


def free_bytes(size: int, filesystem: str) -> int:
    """Bytes that root can write to a fresh file system of *size* bytes; the most where it is unknown."""
    kept = {"ext4": _ext4(size), "xfs": 96 * MIB + size * 7 // 1000, "btrfs": _btrfs(size)}
    return max(0, size - kept.get(filesystem, min(kept.values())))


def _ext4(size: int) -> int:
    if size < EXT4_SMALL:
        return size // 10 + min(EXT4_HELD, size // 50)
    journal = next((bytes_ for below, bytes_ in EXT4_JOURNAL if size < below), GIB)
    groups = min(size * 45 // 10000, 40 * MIB + size * 3 // 10000)
    return size // EXT4_INODES + journal + groups + EXT4_HELD


def _btrfs(size: int) -> int:
    """Two copies of metadata, in pieces of up to 256 MiB.

    A small one takes a second, larger piece while files are written, though it stays nearly empty.
    """
    if size >= BTRFS_LARGE:
        return 2066 * MIB
    pieces = max(size // 10, 64 * MIB) if size < 2560 * MIB else 512 * MIB
    return pieces + (size // 5 if size < BTRFS_SMALL else 0) + 17 * MIB
