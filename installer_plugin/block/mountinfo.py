"""What is mounted where, and how: ``/proc/self/mountinfo`` (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
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
    """By the mount's own options."""
    kind: str = ""
    """The type of the file system; empty when the line does not say."""
    file_system_writable: bool = True
    """By the options of the file system itself, which all its mounts share."""


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """All mounts, in the order in which they were made; lines of another form are ignored."""
    mounts = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= _FIELDS:
            # Behind optional fields and a hyphen: type, source, options of the file system.
            _, _, behind = line.partition(" - ")
            kind, _, options = (*behind.split(" "), "", "", "")[:3]
            mounts.append(
                Mount(
                    device=fields[2],
                    root=_unescaped(fields[3]),
                    mount_point=_unescaped(fields[4]),
                    writable="rw" in fields[5].split(","),
                    kind=kind,
                    file_system_writable="ro" not in options.split(","),
                )
            )
    return tuple(mounts)


def own_mounts() -> tuple[Mount, ...]:
    """The mounts of our own namespace."""
    return parse_mountinfo(MOUNTINFO.read_text(errors="surrogateescape"))


def mount_at(point: Path) -> Mount | None:
    """What is mounted at *point*, the last mount where there are several; None when it is not a mount."""
    found = [mount for mount in own_mounts() if mount.mount_point == str(point)]
    return found[-1] if found else None


def mount_of(path: Path) -> Mount | None:
    """The mount that holds *path*, which has no links in it; None only where there is no root."""
    for place in (path, *path.parents):
        if mount := mount_at(place):
            return mount
    return None


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
