"""What was set up to open a target, one value a step, each with the way back.

A step is written down before it is taken (see ``journal``), so each way back begins with looking
whether there is anything to take back. A run that comes after a killed one goes the same way.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from installer_plugin.block.lvm import deactivate_argv
from installer_plugin.block.mountinfo import mount_at
from installer_plugin.block.mounts import umount_argv
from installer_plugin.block.probe import list_loops
from installer_plugin.block.udev import device_mapper_env
from installer_plugin.errors import DataError
from installer_plugin.process.runner import Command, CommandError, Runner

PATIENCE_SECONDS = 10.0
"""How long a device may stay busy: udevd looks at devices that were just written."""
EXPORT_PATIENCE_SECONDS = 120.0
"""How long what a killed run had written may take to be in the image."""
PAUSE_SECONDS = 0.1
MAPPER = Path("/dev/mapper")
SYSFS = Path("/sys")
NODES_PREFIX = "bound-images-"
"""Of our directories below ``/dev``."""


@dataclass(frozen=True, slots=True)
class MountStep:
    """A file system mounted at *point*."""

    point: str

    def undo(self, runner: Runner) -> None:
        """Unmount it, with whatever was mounted below; raises CommandError."""
        command = Command(argv=umount_argv(Path(self.point)), purpose=f"unmount {self.point}")
        _patiently(lambda: runner.run(command), lambda: not mount_at(Path(self.point)))


@dataclass(frozen=True, slots=True)
class FlushStep:
    """A device or image that is written to."""

    path: str

    def undo(self, runner: Runner) -> None:
        """Have all of it on the disk; raises OSError (EIO among others)."""
        del runner
        with suppress(FileNotFoundError):
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


@dataclass(frozen=True, slots=True)
class ReadOnlyStep:
    """A device that the kernel was told not to write to."""

    device: str
    sequence: int
    """Of the disk that a partition is on, see :func:`disk_sequence`."""

    def undo(self, runner: Runner) -> None:
        """Allow it again, if the device is still there; raises CommandError."""
        with suppress(FileNotFoundError):
            if self._is_there():
                self._allow(runner)

    def _is_there(self) -> bool:
        return disk_sequence(Path(self.device)) == self.sequence

    def _allow(self, runner: Runner) -> None:
        try:
            runner.run(set_writable(self.device))
        except CommandError:
            # The kernel may be taking a killed run's device away just now.
            if self._is_there():
                raise


@dataclass(frozen=True, slots=True)
class LoopStep:
    """A loop device attached to a file or device."""

    device: str
    disk: int
    """Number of the device that the file is on."""
    inode: int
    offset: int

    def undo(self, runner: Runner) -> None:
        """Detach it, unless it is somebody else's by now; raises CommandError and DataError."""
        command = Command(
            argv=("losetup", "--detach", self.device), purpose=f"detach {self.device}"
        )
        _patiently(lambda: runner.run(command), lambda: not self._attached(runner))

    def _attached(self, runner: Runner) -> bool:
        own = (Path(self.device), self.disk, self.inode, self.offset)
        return any(
            (loop.device, loop.disk, loop.inode, loop.offset) == own for loop in list_loops(runner)
        )


@dataclass(frozen=True, slots=True)
class NodeStep:
    """A device node that was not there."""

    path: str

    def undo(self, runner: Runner) -> None:
        """Remove it, and the directory that was made for it; raises OSError."""
        del runner
        node = Path(self.path)
        node.unlink(missing_ok=True)
        if node.parent.name.startswith(NODES_PREFIX):
            with suppress(OSError):  # others of ours are in it, and remove it after this one
                node.parent.rmdir()


@dataclass(frozen=True, slots=True)
class MappingStep:
    """An encrypted volume opened under a name of ours."""

    name: str

    def undo(self, runner: Runner) -> None:
        """Close it; raises CommandError."""
        command = Command(
            argv=("cryptsetup", "close", self.name),
            purpose=f"close {self.name}",
            env=device_mapper_env(),
        )
        _patiently(lambda: runner.run(command), lambda: not (MAPPER / self.name).exists())


@dataclass(frozen=True, slots=True)
class GroupStep:
    """An LVM volume group that was activated; its UUID tells it from others of its name."""

    name: str
    uuid: str
    members: list[str]

    def undo(self, runner: Runner) -> None:
        """Deactivate it, if its members are there; raises CommandError."""
        if not all(Path(member).exists() for member in self.members):
            return
        argv = deactivate_argv(self.uuid, self.members)
        command = Command(argv=argv, purpose=f"deactivate {self.name}", env=device_mapper_env())
        _patiently(lambda: runner.run(command))


@dataclass(frozen=True, slots=True)
class ExportStep:
    """A disk image of another format that a program of ours shows as a raw one."""

    path: str
    """A lock file that it holds as long as it is at work."""

    def undo(self, runner: Runner) -> None:
        """Wait until all is written and the program has gone; raises OSError and DataError."""
        del runner
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _patiently(lambda: None, lambda: _free(fd), EXPORT_PATIENCE_SECONDS)
        finally:
            os.close(fd)


def _free(fd: int) -> bool:
    """Whether nobody holds a lock on an open file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


Step = (
    MountStep
    | FlushStep
    | ReadOnlyStep
    | LoopStep
    | NodeStep
    | MappingStep
    | GroupStep
    | ExportStep
)
_KINDS: dict[str, type[Step]] = {
    kind.__name__: kind
    for kind in (
        MountStep,
        FlushStep,
        ReadOnlyStep,
        LoopStep,
        NodeStep,
        MappingStep,
        GroupStep,
        ExportStep,
    )
}


def disk_sequence(device: Path) -> int:
    """The kernel's number for what a partition is on, another one each time a loop device is attached.

    0 for a whole device, whose flags outlast that, and where the kernel does not count (before Linux
    5.15). Raises FileNotFoundError.
    """
    number = device.stat().st_rdev
    folder = (SYSFS / "dev/block" / f"{os.major(number)}:{os.minor(number)}").resolve()
    counter = folder.parent / "diskseq"
    if not (folder / "partition").exists() or not counter.exists():
        return 0
    return int(counter.read_text())


def set_read_only(device: str) -> Command:
    """Have the kernel refuse every write to *device*, those of a read-only file system's log too."""
    return Command(argv=("blockdev", "--setro", device), purpose=f"protect {device}")


def set_writable(device: str) -> Command:
    """Take that back."""
    return Command(argv=("blockdev", "--setrw", device), purpose=f"make {device} writable")


def _patiently(
    attempt: Callable[[], object],
    done: Callable[[], bool] | None = None,
    seconds: float | None = None,
) -> None:
    """Make the attempt until nothing is left to do, or, without *done*, until it succeeds.

    Raises the attempt's last error when time is up, and DataError when it changed nothing.
    """
    deadline = time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds)
    while done is None or not done():
        late = time.monotonic() > deadline
        try:
            attempt()
        except CommandError:
            if late:
                raise
        else:
            if done is None:
                return
            if late and not done():
                raise DataError("target", "is still in use, expected it to be free by now")
        time.sleep(PAUSE_SECONDS)


def dump_step(step: Step) -> str:
    """A step as one line."""
    return json.dumps({"step": type(step).__name__, **asdict(step)}) + "\n"


def parse_steps(text: str, subject: str) -> tuple[Step, ...]:
    """Steps in the order in which they were planned; raises DataError.

    A last line without its end was being written when the writer was killed: that step was not taken.
    """
    lines = text.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    return tuple(_parse_step(line, subject) for line in whole)


def _parse_step(line: str, subject: str) -> Step:
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("step")]
        whole = fields.keys() == kind.__annotations__.keys() and all(map(_plain, fields.values()))
        step = kind(**fields) if whole else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(subject, f"has {line.strip()!r}, expected a step of ours") from error
    if step is None:
        raise DataError(subject, f"has {line.strip()!r}, expected a step of ours")
    return step


def _plain(value: object) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, str | int)
