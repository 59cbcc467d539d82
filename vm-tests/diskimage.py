"""A disk image as a boot loader sees it: partitions, boot entries, kernels."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import Kernel

from tests.commands import CommandError, run

SECTOR = 512
# As a boot loader reads: nothing is written, no journal is replayed. nouuid: several copies of one
# disk may be looked at.
_READING = {"ext4": ("norecovery",), "xfs": ("norecovery", "nouuid")}
_WRITING = {"xfs": ("nouuid",)}


class NotBootableError(Exception):
    """A boot loader would find nothing to start here."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Where a partition lies, in bytes."""

    offset: int
    size: int


def root_partition(disk: Path) -> Partition:
    """The partition named `root`; raises NotBootableError."""
    try:
        table: dict[str, Any] = json.loads(run(("sfdisk", "--json", disk)).stdout)["partitiontable"]
    except CommandError as error:
        raise NotBootableError(f"{disk} has no partition table") from error
    for entry in table["partitions"]:
        if entry.get("name") == "root":
            return Partition(entry["start"] * SECTOR, entry["size"] * SECTOR)
    raise NotBootableError(f"{disk} has no partition named root")


@contextmanager
def mounted_root(disk: Path, *, writable: bool = False) -> Iterator[Path]:
    """The root file system, mounted; the loop device ends with the mount."""
    root = root_partition(disk)
    probe = ("blkid", "-p", "-O", str(root.offset), "-o", "value", "-s", "TYPE", disk)
    kind = run(probe).stdout.strip()
    options = (_WRITING if writable else _READING).get(kind, ())
    words = (
        "rw" if writable else "ro", "loop", f"offset={root.offset}", f"sizelimit={root.size}",
        *options,
    )  # fmt: skip
    point = disk.with_name(f"{disk.name}.mnt")
    point.mkdir()
    try:
        run(("mount", "-o", ",".join(words), disk, point))
        try:
            yield point
        finally:
            run(("umount", point))
    finally:
        point.rmdir()


def boot_entry(disk: Path, folder: Path) -> Kernel:
    """Copy out what the disk's newest boot entry starts; raises NotBootableError."""
    with mounted_root(disk) as root:
        entries = sorted((root / "boot/loader/entries").glob("*.conf"))
        if not entries:
            raise NotBootableError(f"{disk} has no boot entry")
        lines = (line.partition(" ") for line in entries[-1].read_text().splitlines())
        entry = {key: value.strip() for key, _, value in lines}
        copies = {}
        for key in ("linux", "initrd"):
            copies[key] = folder / key
            shutil.copy(_below_boot(root, entry[key]), copies[key])
    return Kernel(image=copies["linux"], initramfs=copies["initrd"], arguments=entry["options"])


def _below_boot(root: Path, name: str) -> Path:
    """Paths of an entry begin at the file system's top or, where /boot is one, at /boot."""
    path = name.lstrip("/")
    return root / path if (root / path).exists() else root / "boot" / path
