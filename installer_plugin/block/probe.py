"""Looks at disks with util-linux alone: nothing needs to be running. Parsers are pure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from installer_plugin.block.base import Partition, Signature, TargetDisk
from installer_plugin.errors import DataError
from installer_plugin.process.runner import Command, Runner

BLKID_NOTHING = 2
"""blkid's exit code for a device without any signature that it knows."""
BLKID_AMBIVALENT = 8
EXTENDED = frozenset(("5", "f", "85"))
"""MBR types of a partition that only contains others."""
LOOP_COLUMNS = "NAME,BACK-MAJ:MIN,BACK-INO,OFFSET"
"""Not the file's name: seen from another mount namespace or a chroot it is a different one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop device in use."""

    device: Path
    disk: int
    """Number of the device that its file is on, as ``st_dev``."""
    inode: int
    """Of the file."""
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNode:
    """A line of lsblk: a device with what stands on it."""

    path: str
    kind: str
    """``disk``, ``part``, ``loop``, ``crypt``, ``lvm``, ..."""
    mount_points: tuple[str, ...]
    """Where it is mounted; ``[SWAP]`` for swap space in use."""
    children: tuple[BlockNode, ...] = ()

    def walk(self) -> Iterator[BlockNode]:
        """Itself and all that stands on it."""
        yield self
        for child in self.children:
            yield from child.walk()


def sfdisk_argv(device: Path) -> tuple[str, ...]:
    """The partition table of *device*."""
    return ("sfdisk", "--json", str(device))


def blkid_argv(device: Path, partition: Partition | None = None) -> tuple[str, ...]:
    """Signatures of *device*, or of *partition* on it, which needs no node of its own."""
    area = ("--offset", str(partition.start), "--size", str(partition.size)) if partition else ()
    return ("blkid", "--probe", *area, "--output", "export", str(device))


def lsblk_argv(device: Path) -> tuple[str, ...]:
    """Everything lsblk knows about *device* and what stands on it."""
    return ("lsblk", "--json", "--bytes", "--output-all", str(device))


def losetup_list_argv() -> tuple[str, ...]:
    """All loop devices in use."""
    return ("losetup", "--json", "--list", "--output", LOOP_COLUMNS)


def parse_export(text: str) -> Mapping[str, str]:
    """``blkid -o export``: KEY=VALUE lines, unsafe characters of values behind a backslash."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key: re.sub(r"\\(.)", r"\1", value) for key, _, value in pairs}


def parse_signature(text: str) -> Signature | None:
    """The content that ``blkid -o export`` tells of; None for a partition table or nothing."""
    values = parse_export(text)
    kind = values.get("TYPE", "")
    if not kind:
        return None
    return Signature(kind=kind, label=values.get("LABEL", ""), uuid=values.get("UUID", ""))


def parse_sfdisk(text: str, subject: str) -> tuple[Partition, ...]:
    """``sfdisk --json`` -> partitions in the order of their numbers; raises DataError."""
    try:
        table = json.loads(text)["partitiontable"]
        sector = int(table.get("sectorsize", 512))
        found = (_partition(entry, sector) for entry in table.get("partitions", ()))
        return tuple(sorted(found, key=lambda partition: partition.number))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(subject, "sfdisk's answer cannot be read, expected its JSON") from error


def _partition(entry: Mapping[str, Any], sector: int) -> Partition:
    number = re.search(r"(\d+)$", entry["node"])
    if number is None:
        raise ValueError(entry["node"])
    return Partition(
        number=int(number[1]),
        start=int(entry["start"]) * sector,
        size=int(entry["size"]) * sector,
        type_id=str(entry.get("type", "")).lower(),
        name=str(entry.get("name", "")),
    )


def parse_lsblk(text: str, subject: str) -> tuple[BlockNode, ...]:
    """``lsblk --json --output-all`` -> the trees it shows; raises DataError."""
    try:
        return tuple(map(_node, json.loads(text)["blockdevices"]))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(subject, "lsblk's answer cannot be read, expected its JSON") from error


def _node(entry: Mapping[str, Any]) -> BlockNode:
    points = entry.get("mountpoints") or [entry.get("mountpoint")]
    return BlockNode(
        path=str(entry["path"]),
        kind=str(entry["type"]),
        mount_points=tuple(str(point) for point in points if point),
        children=tuple(map(_node, entry.get("children", ()))),
    )


def parse_losetup(text: str) -> tuple[Loop, ...]:
    """``losetup --json --list``; empty output means no loop device; raises DataError.

    A device that is just being detached has some of its columns no more, and is left out.
    """
    if not text.strip():
        return ()
    try:
        return tuple(
            Loop(
                device=Path(entry["name"]),
                disk=_device_number(entry["back-maj:min"]),
                inode=int(entry["back-ino"]),
                offset=int(entry["offset"]),
            )
            for entry in json.loads(text)["loopdevices"]
            if None not in (entry["back-maj:min"], entry["back-ino"], entry["offset"])
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = "losetup's answer cannot be read, expected its JSON"
        raise DataError("loop devices", message) from error


def _device_number(text: str) -> int:
    major, _, minor = text.strip().partition(":")
    return os.makedev(int(major), int(minor))


def list_loops(runner: Runner) -> tuple[Loop, ...]:
    """Loop devices in use; raises CommandError and DataError."""
    command = Command(argv=losetup_list_argv(), purpose="list the loop devices")
    return parse_losetup(runner.run(command).stdout.decode(errors="replace"))


def probe(device: Path, runner: Runner, partition: Partition | None = None) -> str:
    """What blkid says about *device*, "" for nothing; raises CommandError, and DataError where two
    signatures contradict each other.
    """
    shown = f"{partition} of {device}" if partition else str(device)
    command = Command(argv=blkid_argv(device, partition), purpose=f"look what is on {shown}")
    done = runner.run(command, ok=(0, BLKID_NOTHING, BLKID_AMBIVALENT))
    if done.returncode == BLKID_AMBIVALENT:
        raise DataError(
            shown,
            "has signatures of several file systems, expected one",
            hint=f"look at them with 'wipefs {device}' and remove the wrong one",
        )
    return done.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ProbeReader:
    """Reads disks with sfdisk and blkid."""

    runner: Runner
    name: str = "util-linux"

    def read(self, device: Path) -> TargetDisk:
        """See :class:`base.DiskReader`."""
        said = probe(device, self.runner)
        if "PTTYPE" not in parse_export(said):
            return TargetDisk(device=device, signature=parse_signature(said))
        partitions = tuple(
            replace(each, signature=parse_signature(probe(device, self.runner, each)))
            for each in self.table(device)
        )
        return TargetDisk(device=device, partitions=partitions)

    def table(self, device: Path) -> tuple[Partition, ...]:
        """The partitions of *device* without their content; raises DataError and CommandError."""
        command = Command(argv=sfdisk_argv(device), purpose=f"read the partitions of {device}")
        text = self.runner.run(command).stdout.decode(errors="replace")
        found = parse_sfdisk(text, str(device))
        return tuple(each for each in found if each.size and each.type_id not in EXTENDED)
