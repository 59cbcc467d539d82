"""What a command costs: wall time, CPU of the whole process tree, bytes written, peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    began = time.monotonic()
    for argv in commands:
        with subprocess.Popen(
            argv, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as child:
            watcher = _Memory(child.pid)
            watcher.start()
            errors = child.stderr.read() if child.stderr else b""
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            watcher.stop()
        if child.returncode:
            sys.exit(f"{' '.join(argv)}\nfailed with {child.returncode}:\n{errors.decode()}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, watcher.peak)
    devices.flush()
    wall = time.monotonic() - began
    return Cost(wall=wall, cpu=cpu, written=devices.written() - written, memory=peak)


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
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                queue += map(int, task.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended
    return found


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended
    return next(
        (int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), 0
    )
