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


@dataclass(frozen=True, slots=True)
class MountedStore:
    """A store that is bind-mounted somewhere."""

    physical_root: Path
    """Where the whole of the same file system is mounted."""
    path: str
    """The store below it."""


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """All mounts, in the order in which they were made; lines of another form are passed over."""
    mounts = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= _FIELDS:
            mounts.append(Mount(fields[2], _unescaped(fields[3]), _unescaped(fields[4])))
    return tuple(mounts)


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def locate_store(mounts: tuple[Mount, ...], alias: str) -> MountedStore | None:
    """The physical root of the store that is mounted at *alias*; None when it is not or has none.

    The file system's own root may be a subvolume: what is sought is the mount that holds the store's
    path with the least above it.
    """
    store = next((mount for mount in reversed(mounts) if mount.mount_point == alias), None)
    if store is None:
        return None
    holders = [
        mount
        for mount in mounts
        if mount.device == store.device
        and mount.mount_point != alias
        and _is_below(store.root, mount.root)
    ]
    if not holders:
        return None
    holder = min(holders, key=lambda mount: len(mount.root))
    path = store.root.removeprefix(holder.root.rstrip("/")).lstrip("/")
    return MountedStore(Path(holder.mount_point), path)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
