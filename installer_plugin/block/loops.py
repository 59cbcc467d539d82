"""Loop devices and partition nodes: a disk image becomes a disk, a partition becomes a device."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from installer_plugin.block.base import Partition
from installer_plugin.block.loop_ioctl import SECTOR, Backing, configure, free_number
from installer_plugin.block.undo_journal import Journal
from installer_plugin.block.undo_steps import NODES_PREFIX, LoopStep, NodeStep
from installer_plugin.errors import HostError
from installer_plugin.process.runner import Command, CommandError

SYSFS = Path("/sys")
DEV = Path("/dev")
ATTEMPTS = 10
"""Other programs take loop devices too: the one that was free may be gone."""
LARGE_SECTOR = 4096


def sector_size(image: Path) -> int:
    """The sector size that the image's GPT was written for; raises OSError."""
    with image.open("rb") as file:
        head = file.read(LARGE_SECTOR + 8)
    small, large = head[SECTOR : SECTOR + 8], head[LARGE_SECTOR:]
    return LARGE_SECTOR if large == b"EFI PART" != small else SECTOR


def attach(backing: Backing, journal: Journal) -> Path:
    """Attach a free loop device to *backing*; raises HostError and OSError.

    The kernel lets go of it with its last user, also when we are killed.
    """
    seen = backing.path.stat()
    for attempt in range(ATTEMPTS):
        device = _free_device(journal)
        journal.plan(LoopStep(str(device), seen.st_dev, seen.st_ino, backing.offset))
        try:
            journal.holds[str(device)] = configure(device, backing)
        except OSError as error:
            if error.errno == errno.EBUSY and attempt + 1 < ATTEMPTS:
                continue
            raise _no_loop(f"{backing.path} cannot be attached to {device}", error) from error
        _prepare(device, journal, direct=backing.direct)
        return device
    raise RuntimeError("the last attempt returns or raises")


def _no_loop(what: str, error: OSError) -> HostError:
    hint = "are there loop devices on this machine (modprobe loop), and are you root?"
    message = f"{what}: {error.strerror}"
    return HostError.of("loop device", message, hint=hint)


def _free_device(journal: Journal) -> Path:
    try:
        device = DEV / f"loop{free_number()}"
    except OSError as error:
        raise _no_loop("none can be had", error) from error
    if not device.exists():
        _make_node(device, SYSFS / "class/block" / device.name, journal)
    return device


def _prepare(device: Path, journal: Journal, *, direct: bool) -> None:
    """What makes a loop device better, where it can be had."""
    # What is read then comes from the disk, not from the image's pages. Not every file system can.
    past_cache = Command(
        argv=("losetup", "--direct-io=on", str(device)), purpose=f"read {device} directly"
    )
    # Not every kernel reads every kind of partition table, nor does it do so at once. What it is told
    # of a loop device of ours it forgets when that is detached.
    tell = Command(
        argv=("partx", "--update", str(device)), purpose=f"tell the kernel of {device}'s partitions"
    )
    for command in (past_cache, tell) if direct else (tell,):
        with suppress(CommandError):
            journal.runner.run(command)


def node_of(disk: Path, partition: Partition, journal: Journal) -> Path | None:
    """A node of *partition* as the kernel has it, made when there is none.

    None when the kernel does not have the partition, or has another in its place. Raises OSError.
    """
    entry = _entry_of(disk, partition)
    if entry is None:
        return None
    node = DEV / entry.name
    if _number_of(node) == _number_in(entry):
        return node
    return _private_node(entry, journal)


def _entry_of(disk: Path, partition: Partition) -> Path | None:
    """The directory in sysfs of *partition*, where the kernel agrees with the table."""
    number = disk.stat().st_rdev
    folder = SYSFS / "dev/block" / f"{os.major(number)}:{os.minor(number)}"
    # sysfs counts in units of 512 bytes, whatever the disk's own are.
    wanted = (partition.number, partition.start // SECTOR, partition.size // SECTOR)
    for entry in sorted(folder.resolve().glob("*/partition")):
        found = tuple(
            int((entry.parent / name).read_text()) for name in ("partition", "start", "size")
        )
        if found == wanted:
            return entry.parent
    return None


def _number_in(entry: Path) -> int:
    major, _, minor = (entry / "dev").read_text().strip().partition(":")
    return os.makedev(int(major), int(minor))


def _number_of(node: Path) -> int | None:
    try:
        seen = node.stat()
    except FileNotFoundError:
        return None
    return seen.st_rdev if stat.S_ISBLK(seen.st_mode) else None


def _private_node(entry: Path, journal: Journal) -> Path:
    """A node for a partition that has none, below ``/dev``: elsewhere file systems are ``nodev``."""
    return _make_node(DEV / f"{NODES_PREFIX}{journal.directory.name}" / entry.name, entry, journal)


def _make_node(node: Path, entry: Path, journal: Journal) -> Path:
    journal.plan(NodeStep(str(node)))
    try:
        node.parent.mkdir(mode=0o700, exist_ok=True)
        os.mknod(node, stat.S_IFBLK | 0o600, _number_in(entry))
    except OSError as error:
        message = f"cannot be made: {error.strerror}"
        hint = "make the machine's own /dev visible (podman run -v /dev:/dev)"
        raise HostError.of(str(node), message, hint=hint) from error
    return node


def partition_device(
    disk: Path, partition: Partition, journal: Journal, backing: Backing | None
) -> Path:
    """A device for *partition*: the kernel's own, or a loop device at its place on the disk.

    *backing* is what the disk is a loop device of ours on, None for a disk that is not. Raises
    HostError, CommandError and OSError.
    """
    node = node_of(disk, partition, journal)
    if node is not None:
        return node
    below = backing or Backing(path=disk, read_only=False)
    return attach(
        Backing(
            path=below.path,
            read_only=below.read_only,
            offset=below.offset + partition.start,
            size=partition.size,
            sector=below.sector,
            direct=below.direct,
        ),
        journal,
    )
