"""What a target was before bootc, so that what bootc has written is told from what was there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.hosts.boot_entries import Entries, entries

HEAD_BYTES = 1 << 20
"""A disk's partition table, whose identifier is new with every installation."""


@dataclass(frozen=True, slots=True)
class Before:
    """A target at one moment."""

    target: Path
    head: bytes
    """Digest of a disk's beginning; empty for a directory and for what cannot be read."""
    entries: Entries
    """Boot entries of a directory."""

    @classmethod
    def look(cls, target: Path) -> Before:
        """Look at *target*, which need not exist; raises OSError for a directory only."""
        if target.is_dir():
            return cls(target, b"", entries(target))
        try:
            with target.open("rb") as disk:
                head = hashlib.sha256(disk.read(HEAD_BYTES)).digest()
        except OSError:
            head = b""
        return cls(target, head, frozenset())

    def has_changed(self) -> bool:
        """Whether somebody has written the target since; raises OSError for a directory only."""
        return Before.look(self.target) != self
