"""Finds what a test run has left behind on the machine, and takes away what a dead one left."""

import os
import signal
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import run

SESSION_VARIABLE = "BOUND_IMAGES_TEST_SESSION"
"""Inherited by every process that the tests start, so that stragglers are known by it.

A session that is started by another one, as xdist's workers are, has a name that begins with that
one's: what it leaves behind is the other's too.
"""
_PATIENCE_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Mounts and loop devices at one moment."""

    mounts: frozenset[str]
    """Lines of /proc/self/mountinfo without the ids, which change."""
    loops: frozenset[str]
    """`DEVICE BACKING-FILE` of every loop device in use."""

    @classmethod
    def now(cls) -> "Machine":
        """Look at the machine."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return cls(
            mounts=frozenset(" ".join(line.split()[3:]) for line in lines),
            loops=frozenset(f"{device} {file}" for device, file in _loops()),
        )


def new_session() -> str:
    """Name a session of tests; below the one that has started us, if there is one."""
    return "/".join((*filter(None, (os.environ.get(SESSION_VARIABLE),)), uuid.uuid4().hex))


def leftovers(before: Machine, session: str, own: Iterable[Path], *, alone: bool) -> list[str]:
    """List mounts, loop devices and processes that appeared since `before` and are ours.

    Ours are those that name a path of `own` or a device that does. When the tests are `alone` on
    the machine, as in CI, every new one counts.
    """
    now = Machine.now()
    marks = [str(path) for path in own]
    loops = [loop for loop in now.loops - before.loops if alone or _names(loop, marks)]
    marks += [f" {loop.split()[0]} " for loop in loops]
    mounts = [line for line in now.mounts - before.mounts if alone or _names(line, marks)]
    return sorted(
        [f"loop device {loop}" for loop in loops]
        + [f"mount {mount}" for mount in mounts]
        + [f"process {process}" for process in _processes(session)]
    )


def open_descriptors() -> set[str]:
    """Numbers of the descriptors that are open, but for the one that lists them."""
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


def detach_below(directory: Path) -> list[str]:
    """Take away every mount on or below a directory; return where they were."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = (line.split()[4].encode().decode("unicode_escape") for line in lines)
    found = [point for point in points if Path(point).is_relative_to(directory)]
    for point in reversed(found):
        run(("umount", "--lazy", point))
    return found


def clear_away(directory: Path, session: str) -> None:
    """End the processes of a session that has died, and free what it has mounted or attached below."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while stragglers := _processes(session):
        assert time.monotonic() < deadline, f"cannot be ended: {stragglers}"
        for straggler in stragglers:
            with suppress(ProcessLookupError):
                os.kill(int(straggler.split()[0]), signal.SIGKILL)
        time.sleep(0.02)
    detach_below(directory)
    for device, file in _loops():
        if file.startswith(f"{directory}/"):
            # The kernel has scanned no partitions of it if they were added one by one.
            run(("partx", "--delete", device), ok=(0, 1))
            run(("losetup", "--detach", device))


def _names(text: str, marks: Iterable[str]) -> bool:
    return any(mark in text for mark in marks)


def _processes(session: str) -> list[str]:
    """`PID COMMAND` of all that inherited the session's variable, or one below it, but us."""
    mark = f"{SESSION_VARIABLE}={session}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            if any(entry == mark or entry.startswith(mark + b"/") for entry in variables):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"{process.name} {command.decode(errors='replace')}")
        except OSError:
            continue  # it ended meanwhile
    return found


def _loops() -> Iterator[tuple[str, str]]:
    """Device and backing file of every loop device in use."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        yield f"/dev/{path.parts[3]}", _read(path)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
