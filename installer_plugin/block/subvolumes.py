"""btrfs subvolumes: which one holds the system, when it is not the one that is mounted by default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from installer_plugin.errors import ConfigError
from installer_plugin.files.rootfs import Rootfs

TOP = ""
"""The subvolume that contains all others."""
SUBVOLUME_INODE = 256
"""Inode number of a subvolume's top directory (BTRFS_FIRST_FREE_OBJECTID)."""
DEPTH = 2
"""Levels of directories in which subvolumes are looked for: ``@``, ``system/root``."""
MARKS = ("ostree/repo", "composefs")
"""What a physical root of bootc has, one or the other."""


def holds_system(root: Path) -> bool:
    """Whether the directory *root* is a physical root; raises OSError and DataError."""
    with Rootfs.open(root) as opened:
        return any(opened.is_dir(mark) for mark in MARKS)


def subvolume_option(path: str) -> str:
    """The mount option for a subvolume, by its path from the top."""
    return "subvolid=5" if path == TOP else f"subvol=/{path}"


def choose_subvolume(top: Path, subject: str) -> str | None:
    """The subvolume below the mounted *top* that holds the system; None when none does.

    Raises ConfigError when several do, OSError and DataError.
    """
    if holds_system(top):
        return TOP
    found = [path for path in subvolumes(top) if holds_system(top / path)]
    if len(found) > 1:
        listed = ", ".join(found)
        message = f"has {len(found)} subvolumes with a system, expected one: {listed}"
        hint = (
            "make one the default (btrfs subvolume set-default), or mount it and name the directory"
        )
        raise ConfigError.of(subject, message, hint=hint)
    return found[0] if found else None


def subvolumes(top: Path, depth: int = DEPTH) -> Iterator[str]:
    """Paths of the subvolumes below *top* that a mount option can name; no link is followed."""
    with os.scandir(top) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in folders:
        if (
            (top / name).lstat().st_ino == SUBVOLUME_INODE
            and "," not in name
            and name.isprintable()
        ):
            yield name
        if depth > 1:
            yield from (f"{name}/{inner}" for inner in subvolumes(top / name, depth - 1))
