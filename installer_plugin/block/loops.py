"""Loop devices and partition nodes: a disk image becomes a disk, a partition becomes a device."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.block.base import Partition
from installer_plugin.block.journal import Journal
from installer_plugin.block.steps import LoopStep, NodeStep
from installer_plugin.errors import HostError, Problem
from installer_plugin.process import Command, CommandError

SYSFS = Path("/sys")
DEV = Path("/dev")
SECTOR = 512
"""Unit of sysfs's ``start`` and ``size``, whatever the disk's own is."""
ATTEMPTS = 10
"""Other programs take loop devices too: the one that was free may be gone."""
LARGE_SECTOR = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """What a loop device is to stand on."""

    path: Path
    read_only: bool
    offset: int = 0
    size: int = 0
    """Bytes from *offset* on; 0 for all there are."""
    sector: int = SECTOR


def attach_argv(device: Path, backing: Backing) -> tuple[str, ...]:
    """Attach *device*; the kernel is asked for the partitions, and to forget them at the end."""
    return (
        "losetup", "--partscan",
        *(("--read-only",) if backing.read_only else ()),
        *(("--offset", str(backing.offset)) if backing.offset else ()),
        *(("--sizelimit", str(backing.size)) if backing.size else ()),
        *(("--sector-size", str(backing.sector)) if backing.sector != SECTOR else ()),
        str(device), str(backing.path),
    )  # fmt: skip


def sector_size(image: Path) -> int:
    """The sector size that the image's GPT was written for; raises OSError."""
    with image.open("rb") as file:
        head = file.read(LARGE_SECTOR + 8)
    small, large = head[SECTOR : SECTOR + 8], head[LARGE_SECTOR:]
    return LARGE_SECTOR if large == b"EFI PART" != small else SECTOR


def attach(backing: Backing, journal: Journal) -> Path:
    """Attach a free loop device to *backing*; raises HostError and OSError.

    From then on the kernel lets go of it with its last user, also when we are killed.
    """
    seen = backing.path.stat()
    for attempt in range(ATTEMPTS):
        device = _free_device(journal)
        step = LoopStep(str(device), seen.st_dev, seen.st_ino, backing.offset)
        journal.plan(step)
        command = Command(
            argv=attach_argv(device, backing), purpose=f"attach {backing.path} to {device}"
        )
        try:
            journal.runner.run(command)
        except CommandError as error:
            if attempt + 1 < ATTEMPTS and _is_taken(device):
                continue
            hint = "are there loop devices on this machine (modprobe loop), and are you root?"
            raise HostError(error.problem(str(backing.path), hint=hint)) from error
        _release_with_us(device, journal)
        return device
    raise RuntimeError("the last attempt returns or raises")


def _is_taken(device: Path) -> bool:
    return (SYSFS / "class/block" / device.name / "loop/backing_file").exists()


def _free_device(journal: Journal) -> Path:
    command = Command(argv=("losetup", "--find"), purpose="find a free loop device")
    try:
        said = journal.runner.run(command).stdout.decode()
    except CommandError as error:
        hint = "are there loop devices on this machine (modprobe loop), and are you root?"
        raise HostError(error.problem("loop device", hint=hint)) from error
    device = Path(said.split()[0])  # "/dev/loop8 (lost)" where it has no node
    if not device.exists():
        _make_node(device, SYSFS / "class/block" / device.name, journal)
    return device


def _release_with_us(device: Path, journal: Journal) -> None:
    """``losetup --detach`` on a device in use marks it to be released with its last user."""
    journal.holds[str(device)] = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    detach = Command(argv=("losetup", "--detach", str(device)), purpose=f"mark {device}")
    journal.runner.run(detach)
    # What is read then comes from the disk, not from the image's pages. Not every file system can.
    direct = Command(
        argv=("losetup", "--direct-io=on", str(device)), purpose=f"read {device} directly"
    )
    # Not every kernel reads every kind of partition table, nor does it do so at once. What it is told
    # of a loop device of ours it forgets when that is detached.
    tell = Command(
        argv=("partx", "--update", str(device)), purpose=f"tell the kernel of {device}'s partitions"
    )
    for command in (direct, tell):
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
    return _make_node(DEV / f"bound-images-{journal.directory.name}" / entry.name, entry, journal)


def _make_node(node: Path, entry: Path, journal: Journal) -> Path:
    journal.plan(NodeStep(str(node)))
    try:
        node.parent.mkdir(mode=0o700, exist_ok=True)
        os.mknod(node, stat.S_IFBLK | 0o600, _number_in(entry))
    except OSError as error:
        message = f"cannot be made: {error.strerror}"
        hint = "make the machine's own /dev visible (podman run -v /dev:/dev)"
        raise HostError(Problem(subject=str(node), message=message, hint=hint)) from error
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
        ),
        journal,
    )
