"""What the kernel says of processes in ``/proc/PID/stat`` (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
ZOMBIE = "Z"
MAX_ANCESTORS = 32


@dataclass(frozen=True, slots=True)
class Process:
    """A process at one moment."""

    state: str
    """One letter."""
    parent: int
    """0 for what the kernel or a container's host has started."""
    group: int

    @property
    def has_ended(self) -> bool:
        """Whether it waits only for its parent to ask; in containers nobody may ever do that."""
        return self.state == ZOMBIE


def parse_stat(text: str) -> Process:
    """Read one ``stat`` file; the name in it may contain anything, so that its end is looked for."""
    state, parent, group, *_ = text.rpartition(")")[2].split()
    return Process(state, int(parent), int(group))


def find_process(pid: int) -> Process | None:
    """The process *pid*; None when there is none."""
    return _read(PROC / str(pid))


def lives(pid: int) -> bool:
    """Whether the process *pid* is there and not a zombie."""
    process = find_process(pid)
    return process is not None and not process.has_ended


def has_started_us(pid: int) -> bool:
    """Whether the process *pid*, still alive, has started us, at however many removes."""
    here = os.getppid()
    for _ in range(MAX_ANCESTORS):
        if here == pid:
            return True
        process = find_process(here)
        if process is None:
            return False
        here = process.parent
    return False


def living_in_group(group: int) -> bool:
    """Whether a process of the process group *group* still runs."""
    found = map(_read, PROC.glob("[0-9]*"))
    return any(each and each.group == group and not each.has_ended for each in found)


def _read(folder: Path) -> Process | None:
    try:
        return parse_stat((folder / "stat").read_text(errors="replace"))
    except OSError:  # it is gone, perhaps just now
        return None
