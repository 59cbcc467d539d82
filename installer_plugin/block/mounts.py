"""Mounting: argument lists, and options for each file system."""

from __future__ import annotations

from pathlib import Path

SAFE = ("nosuid", "nodev", "noexec")
"""A target's files are data to us: nothing there is run or opened as a device."""
UNREPLAYED = {
    "ext3": ("noload",),
    "ext4": ("noload",),
    "xfs": ("norecovery",),
    "btrfs": ("rescue=nologreplay",),
    "f2fs": ("norecovery",),
}
"""Options that keep a file system from replaying its journal, which would write to the disk."""
OWN = {"xfs": ("nouuid",)}
"""xfs refuses a copy of a file system that is mounted unless told that it is one."""


def mount_options(kind: str, *, read_only: bool, extra: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Options to mount a file system of *kind*."""
    return ("ro" if read_only else "rw", *SAFE, *OWN.get(kind, ()), *extra)


def look_options(kind: str) -> tuple[str, ...]:
    """Options to look into a file system without any write to its disk."""
    return mount_options(kind, read_only=True, extra=UNREPLAYED.get(kind, ()))


def mount_argv(device: Path, kind: str, options: tuple[str, ...], point: Path) -> tuple[str, ...]:
    """Mount *device* at *point*."""
    return ("mount", "-t", kind, "-o", ",".join(options), str(device), str(point))


def remount_argv(point: Path) -> tuple[str, ...]:
    """Make what is mounted at *point* writable."""
    return ("mount", "-o", "remount,rw", str(point))


def umount_argv(point: Path) -> tuple[str, ...]:
    """Unmount *point* and all below."""
    return ("umount", "--recursive", str(point))
