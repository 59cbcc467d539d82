"""What is known about a disk, in values that no library below leaks into, and who finds it out."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from installer_plugin.errors import Problem

ROOT_TYPES = {
    "x86_64": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "aarch64": "b921b045-1df0-41c3-af44-4c6f280d3fae",
    "ppc64le": "c31c45e6-3f39-412e-80fb-4809c4980599",
    "riscv64": "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
    "s390x": "5eead9a9-fe09-4a1e-a1d7-520d00531306",
}
"""Partition types of root file systems (Discoverable Partitions Specification), by machine."""
BOOT_TYPES = frozenset((
    "bc13c2ff-59e6-4262-a352-b275fd6f7172", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ea", "ef",
))  # fmt: skip
"""Partition types of what boot loaders read beside the root: XBOOTLDR and ESP, GPT and MBR."""
BOOT_NAME = "boot"
"""PARTLABEL and file-system label of a separate ``/boot``."""
ROOT_NAME = "root"
"""PARTLABEL and file-system label of a root."""
LUKS = "crypto_LUKS"
LVM = "LVM2_member"
FILE_SYSTEMS = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"))
"""File systems that a root may be on, as blkid names them."""
BOOT_FILE_SYSTEMS = FILE_SYSTEMS | {"vfat"}


class BackendChoice(StrEnum):
    """What looks at disks and opens their layers."""

    AUTO = "auto"
    UTIL_LINUX = "util-linux"
    UDEV = "udev"
    """What udevd knows, read with pyudev; layers are opened by cryptsetup and lvm."""
    BLIVET = "blivet"
    """What udevd knows, or util-linux sees; layers are opened by blivet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a device says it contains."""

    kind: str
    """As blkid names it: ``ext4``, ``crypto_LUKS``, ``LVM2_member``."""
    label: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """An entry of a partition table, with what was found inside."""

    number: int
    start: int
    """Bytes from the start of the disk."""
    size: int
    """Bytes."""
    type_id: str = ""
    """Type GUID in lower case (GPT), or two hex digits (MBR)."""
    name: str = ""
    """PARTLABEL."""
    signature: Signature | None = None

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"partition {self.number}{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDisk:
    """A whole block device: a disk, or anything else that was named."""

    device: Path
    partitions: tuple[Partition, ...] = ()
    signature: Signature | None = None
    """Of the whole device, where there is no partition table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Something that may be, or lead to, the root: a partition, a whole device, what is inside."""

    device: Path
    shown: str
    """What it is, for people: ``partition 2 'root'``."""
    signature: Signature | None
    partition: Partition | None = None
    names: tuple[str, ...] = ()
    """What ``--root-partition`` may call it."""

    @property
    def kind(self) -> str:
        """What it contains, as blkid names it; "" for nothing that is known."""
        return self.signature.kind if self.signature else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What opens an encrypted volume; neither appears in a log, an argv or a receipt."""

    passphrase_file: Path | None = None
    """A file that holds the passphrase; one newline at its end does not belong to it."""
    key_file: Path | None = None
    """A file whose bytes are the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How a target is opened."""

    key: Key = Key()
    root_partition: str = ""
    """Which partition or volume is the root: a number, a name, a device; "" to find it."""
    read_only: bool = False
    """Nothing is ever written, not even by a file system's journal."""
    with_boot: bool = False
    """Boot file systems beside the root are mounted too, to be written: ``OpenedTarget.boot``."""
    backend: BackendChoice = BackendChoice.AUTO
    state: Path = Path("/run/bootc-bound-images")
    """Where private directories are made, and what a killed run left behind is found again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedTarget:
    """A target that can be worked on as a directory."""

    named: Path
    """As the user named it."""
    physical_root: Path
    device: Path | None = None
    """What is mounted there; None for a directory."""
    read_only: bool = False
    """Mounted read-only by us; always so at first, see ``opened.make_writable``."""
    boot: tuple[Path, ...] = ()
    """Where boot file systems beside the root are mounted, see ``OpenOptions.with_boot``."""
    export: Path | None = None
    """The file that shows an image of another format as a disk, see ``target.forget_memory``."""

    def shown(self, text: str) -> str:
        """*text*, with paths below the physical root told as paths inside of what was named."""
        if self.device is None:
            return text
        return text.replace(str(self.physical_root), f"{self.named}:")

    def retold(self, problem: Problem) -> Problem:
        """*problem* with such paths."""
        return Problem(
            subject=self.shown(problem.subject).removesuffix(":"),
            message=self.shown(problem.message),
            where=self.shown(problem.where),
            hint=self.shown(problem.hint),
        )


class DiskReader(Protocol):
    """Finds out what is on a disk."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        ...

    def read(self, device: Path) -> TargetDisk:
        """Partitions and signatures of *device*; raises DataError and CommandError."""
        ...


class LayerOpener(Protocol):
    """Opens what lies between a partition and a file system; the journal closes it."""

    @property
    def name(self) -> str:
        """What the log calls it."""
        ...

    def open_luks(self, device: Path, mapping: str, key: Key) -> None:
        """Open the encrypted *device* as ``/dev/mapper/MAPPING``.

        Raises ConfigError without a key or with a wrong one, HostError when it cannot be opened.
        """
        ...

    def activate(self, group: str, members: tuple[Path, ...]) -> None:
        """Activate the volume group *group* on its *members*; raises HostError."""
        ...


def root_types(machine: str = "") -> tuple[tuple[str, ...], ...]:
    """Root partition types in the order of preference: this machine's, then those of others."""
    own = ROOT_TYPES.get(machine or platform.machine(), "")
    return ((own,) if own else (), tuple(kind for kind in ROOT_TYPES.values() if kind != own))
