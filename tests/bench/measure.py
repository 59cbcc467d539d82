"""What a command costs: wall time, CPU of the whole process tree, bytes written, peak memory, and
where its time goes when it reports progress.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

SECTOR = 512
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one way."""

    wall: float
    """Seconds, until the target's file system is flushed."""
    cpu: float
    """Seconds, user and system, of all processes (not of the kernel's writeback threads)."""
    written: int
    """Bytes that reached the block devices of target and scratch."""
    memory: int
    """Bytes: the largest sum of the process tree's proportional set sizes that was seen."""
    path: Mapping[str, float]
    """Seconds of each stage, one after the other: what would have to become shorter."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The file systems a way writes to: mount points and their loop devices' names."""

    mounts: tuple[Path, ...]
    names: tuple[str, ...]

    def flush(self) -> None:
        """Bring everything to the devices, so that the counters have it."""
        for mount in self.mounts:
            subprocess.run(("sync", "--file-system", mount), check=True)

    def written(self) -> int:
        """Bytes written since boot (Documentation/block/stat.rst, field 7: sectors)."""
        stats = (Path(f"/sys/block/{name}/stat").read_text().split() for name in self.names)
        return sum(int(fields[6]) * SECTOR for fields in stats)


def measure(commands: Sequence[Sequence[str]], devices: Devices, env: Mapping[str, str]) -> Cost:
    """Run *commands* one after the other with cold caches; raises SystemExit when one fails."""
    devices.flush()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    written, cpu, peak = devices.written(), 0.0, 0
    said: list[tuple[float, bytes]] = []
    began = time.monotonic()
    for argv in commands:
        with subprocess.Popen(
            argv, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as child:
            watcher = _Memory(child.pid)
            watcher.start()
            said += [(time.monotonic() - began, line) for line in child.stderr or ()]
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            watcher.stop()
        if child.returncode:
            errors = b"".join(line for _, line in said).decode()
            sys.exit(f"{' '.join(argv)}\nfailed with {child.returncode}:\n{errors}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, watcher.peak)
    ended = time.monotonic() - began
    devices.flush()
    wall = time.monotonic() - began
    path = _path(said, ended, wall)
    return Cost(wall=wall, cpu=cpu, written=devices.written() - written, memory=peak, path=path)


def _path(said: Iterable[tuple[float, bytes]], ended: float, wall: float) -> Mapping[str, float]:
    """Seconds between the first words of each stage in progress lines; empty where there are none."""
    began = {"start": 0.0}
    for when, line in said:
        if line.startswith(b"{"):
            began.setdefault(json.loads(line)["stage"], when)
    if len(began) == 1:
        return {}
    times = (*began.values(), ended, wall)
    spans = [later - earlier for earlier, later in pairwise(times)]
    return dict(zip((*began, "flush"), spans, strict=True))


class _Memory(threading.Thread):
    """Watches a process tree's memory; pages that several processes share count once."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._stopped = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self.peak = max(self.peak, sum(map(_pss, _tree(self._root))))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _tree(root: int) -> list[int]:
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for task in _threads(pid):
            try:
                queue += map(int, (task / "children").read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended
    return found


def _threads(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return []  # the process has ended


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended
    return next(
        (int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), 0
    )
