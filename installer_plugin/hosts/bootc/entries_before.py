"""What a target was before bootc, so that what bootc has written is told from what was there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer_plugin.hosts.bootc.boot_entries import Entries, entries

HEAD_BYTES = 1 << 20
"""A disk's partition table, whose identifier is new with every installation."""


@dataclass(frozen=True, slots=True)
class Before:
    """A target at one moment."""

    target: Path
    place: tuple[int, int, int]
    """Its file system, inode and device number; zeros for what is not there."""
    head: bytes
    """Digest of a disk's beginning; empty for a directory and for what cannot be read."""
    entries: Entries
    """Boot entries of a directory."""

    @classmethod
    def look(cls, target: Path) -> Before:
        """Look at *target*, which need not exist; raises OSError for a directory only."""
        if target.is_dir():
            return cls(target, _place(target), b"", entries(target))
        try:
            place = _place(target)
            with target.open("rb") as disk:
                head = hashlib.sha256(disk.read(HEAD_BYTES)).digest()
        except OSError:
            place, head = (0, 0, 0), b""
        return cls(target, place, head, frozenset())

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Before:
        """Read what :meth:`json` makes; raises KeyError, TypeError and ValueError."""
        disk, inode, device = map(int, data["place"])
        found = frozenset((str(path), int(size), int(time)) for path, size, time in data["entries"])
        head = bytes.fromhex(data["head"])
        return cls(Path(data["target"]), (disk, inode, device), head, found)

    def json(self) -> dict[str, object]:
        """As values that JSON has."""
        return {
            "target": str(self.target),
            "place": list(self.place),
            "head": self.head.hex(),
            "entries": sorted(map(list, self.entries)),
        }

    def is_there(self) -> bool:
        """Whether the same thing still has the target's name."""
        return Before.look(self.target).place == self.place

    def has_changed(self) -> bool:
        """Whether somebody has written the target since; raises OSError for a directory only."""
        return Before.look(self.target) != self


def _place(target: Path) -> tuple[int, int, int]:
    seen = target.stat()
    return seen.st_dev, seen.st_ino, seen.st_rdev
