"""A disk image as a boot loader sees it: partitions, boot entries, kernels."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import Kernel

from tests.support.commands import CommandError, run

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


def partitions(disk: Path) -> dict[str, Partition]:
    """All partitions, by name; raises NotBootableError."""
    try:
        table: dict[str, Any] = json.loads(run(("sfdisk", "--json", disk)).stdout)["partitiontable"]
    except CommandError as error:
        raise NotBootableError(f"{disk} has no partition table") from error
    return {
        entry.get("name", ""): Partition(entry["start"] * SECTOR, entry["size"] * SECTOR)
        for entry in table["partitions"]
    }


def file_system(disk: Path, part: Partition) -> str:
    """What kind of file system, or of encryption, a partition holds."""
    probe = ("blkid", "-p", "-O", str(part.offset), "-o", "value", "-s", "TYPE", disk)
    return run(probe).stdout.strip()


@contextmanager
def mounted(disk: Path, name: str = "root", *, writable: bool = False) -> Iterator[Path]:
    """The file system of a named partition, mounted; the loop device ends with the mount."""
    part = partitions(disk)[name]
    options = (_WRITING if writable else _READING).get(file_system(disk, part), ())
    words = (
        "rw" if writable else "ro", "loop", f"offset={part.offset}", f"sizelimit={part.size}",
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
    if disk.suffix == ".qcow2":
        disk = _raw(disk, folder)
    place = next((name for name in ("boot", "root") if name in partitions(disk)), None)
    if place is None:
        raise NotBootableError(f"{disk} has no partition named root")
    with mounted(disk, place) as top:
        boot = top if place == "boot" else top / "boot"
        entries = sorted((boot / "loader/entries").glob("*.conf"))
        if not entries:
            raise NotBootableError(f"{disk} has no boot entry")
        lines = (line.partition(" ") for line in entries[-1].read_text().splitlines())
        entry = {key: value.strip() for key, _, value in lines}
        copies = {}
        for key in ("linux", "initrd"):
            copies[key] = folder / key
            shutil.copy(_below(boot, entry[key]), copies[key])
    return Kernel(image=copies["linux"], initramfs=copies["initrd"], arguments=entry["options"])


def _raw(disk: Path, folder: Path) -> Path:
    raw = folder / "as-raw.img"
    run(("qemu-img", "convert", "-O", "raw", disk, raw))
    return raw


def _below(boot: Path, name: str) -> Path:
    """Paths of an entry begin at the top of a file system, with or without `boot`."""
    path = name.lstrip("/")
    return boot / path if (boot / path).exists() else boot.parent / path
