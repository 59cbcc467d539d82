"""Where a mounted directory really is: ``/proc/self/mountinfo`` (pure; proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")
_FIELDS = 6


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount."""

    device: str
    """``major:minor`` of the file system."""
    root: str
    """What of the file system is mounted; ``/`` is all of it."""
    mount_point: str
    writable: bool = True
    """By the mount's own options; the file system has others."""


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """All mounts, in the order in which they were made; lines of another form are passed over."""
    mounts = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= _FIELDS:
            root, point = _unescaped(fields[3]), _unescaped(fields[4])
            mounts.append(Mount(fields[2], root, point, "rw" in fields[5].split(",")))
    return tuple(mounts)


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def roots_of_store(mounts: tuple[Mount, ...], alias: str, path: str) -> tuple[Path, ...]:
    """Where the root may be whose store, at *path* below it, is bind-mounted at *alias*; likeliest first.

    Mounts of the same file system in which the store has exactly this path: neither those of what is
    around that root, such as a file system of which it is a subvolume, nor those of what is in it.
    Whatever is mounted last stands before what it may hide, and what can be written to before all else.
    """
    store = next((mount for mount in reversed(mounts) if mount.mount_point == alias), None)
    if store is None:
        return ()
    roots = [
        mount
        for mount in reversed(mounts)
        if mount.device == store.device and f"{mount.root.rstrip('/')}/{path}" == store.root
    ]
    return tuple(
        Path(root.mount_point) for root in sorted(roots, key=lambda root: not root.writable)
    )
