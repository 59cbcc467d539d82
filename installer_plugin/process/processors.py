"""How many processors this process may use, whatever the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
"""Where systemd, and containers, have control groups."""
UNIFIED = ("", "unified")
"""Places of control groups version 2 below it."""
CPU = "cpu"
"""Controller of version 1 that limits processor time, alone or in a list such as ``cpu,cpuacct``."""
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_processors() -> int:
    """Processors that we may run on and whose time our control groups let us use; at least one."""
    count = float(len(os.sched_getaffinity(0)))
    try:
        membership = MEMBERSHIP.read_text()
    except OSError:  # a kernel without control groups
        membership = ""
    return max(1, ceil(min([count, *quotas(membership, MOUNTED)])))


def quotas(membership: str, mounted: Path) -> Iterator[float]:
    """Processors that each of the control groups of *membership* may use (proc_pid_cgroup(5)).

    A limit holds for all groups below it. In a container that sees paths of the host, its own group
    is what is mounted: a path that does not exist is tried from its end.
    """
    for line in membership.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        files: tuple[str, ...] = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        places = (controllers, CPU) if CPU in controllers.split(",") else ()
        if not controllers:
            files, places = ("cpu.max",), UNIFIED
        for place in dict.fromkeys(places):
            for folder in _with_parents(mounted / place, path):
                yield from _quota(folder, files)


def _with_parents(top: Path, path: str) -> Iterator[Path]:
    names = [name for name in path.split("/") if name not in ("", "..")]
    for length in range(len(names), -1, -1):
        yield top.joinpath(*names[:length])


def _quota(folder: Path, files: tuple[str, ...]) -> Iterator[float]:
    """The quota of one group; nothing where it has none, or says it in a way that is not known."""
    try:
        words = " ".join((folder / name).read_text() for name in files).split()
        quota, period = map(int, words)
    except (OSError, ValueError):
        return
    if quota > 0 and period > 0:
        yield quota / period
