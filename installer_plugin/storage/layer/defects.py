"""What is wrong with the files of one layer, in bounded number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from installer_plugin.storage.layer.tree import shown

MAX_DEFECTS = 100
"""Defects kept of one layer: the rest of a ruined layer is counted only."""


class Defect(NamedTuple):
    """Something about a file that is not as the image has it."""

    path: str
    """In the image, from ``/``; empty when it is about the layer as a whole."""
    message: str


@dataclass(slots=True)
class Defects:
    """Defects found so far, bounded."""

    found: list[Defect] = field(default_factory=list)
    more: int = 0

    def add(self, path: bytes, message: str) -> None:
        """Remember that the file at *path* of the layer is wrong."""
        self.append(Defect(shown(path), message))

    def append(self, defect: Defect) -> None:
        """Remember *defect*, or only count it."""
        if len(self.found) < MAX_DEFECTS:
            self.found.append(defect)
        else:
            self.more += 1
