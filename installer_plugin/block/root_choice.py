"""Which partition or volume is the root: chosen by the user, by its marks, by what it holds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from installer_plugin.block.base import (
    BOOT_FILE_SYSTEMS,
    BOOT_NAME,
    BOOT_TYPES,
    FILE_SYSTEMS,
    LUKS,
    LVM,
    ROOT_NAME,
    Partition,
    TargetDisk,
    Volume,
    root_types,
)
from installer_plugin.errors import ConfigError, HostError, Problem

CHOOSE = "choose one with --root-partition NUMBER (or its name, or its device)"
OPENABLE = FILE_SYSTEMS | {LUKS, LVM}
"""What may be, or lead to, a root file system."""


def volume_of_disk(disk: TargetDisk) -> Volume:
    """The whole of *disk*, for one without a partition table."""
    return Volume(device=disk.device, shown="the whole of it", signature=disk.signature)


def volume_of(partition: Partition, device: Path) -> Volume:
    """*partition* of a disk, to be used through *device*."""
    signature = partition.signature
    names = (
        str(partition.number), partition.name, str(device), device.name,
        *((signature.label, signature.uuid) if signature else ()),
    )  # fmt: skip
    return Volume(
        device=device,
        shown=str(partition),
        signature=signature,
        partition=partition,
        names=tuple(name for name in names if name),
    )


def choose(volumes: Sequence[Volume], wanted: str, subject: str) -> Volume:
    """The volume that the user calls *wanted*; raises ConfigError for none and for several."""
    found = [volume for volume in volumes if wanted in volume.names]
    if len(found) == 1:
        return found[0]
    there = "; ".join(map(_described, volumes)) or "no partition at all"
    message = (
        f"{wanted!r} is what several of its partitions are called: {_listed(found)}"
        if found
        else f"has nothing called {wanted!r}, it has {there}"
    )
    raise ConfigError.of(subject, message, hint=CHOOSE)


def marked(volumes: Sequence[Volume], subject: str) -> Volume | None:
    """The volume that says it is the root: by partition type, by PARTLABEL, by its label.

    Raises ConfigError when several say so in the same way.
    """
    types = [(_of_type(kinds), "the partition type of a root") for kinds in root_types()]
    ways = (
        *types,
        (lambda volume: _name(volume) == ROOT_NAME, f"the partition name {ROOT_NAME!r}"),
        (lambda volume: _label(volume) == ROOT_NAME, f"the label {ROOT_NAME!r}"),
    )
    for has, what in ways:
        found = [volume for volume in volumes if has(volume)]
        if len(found) > 1:
            raise several(subject, found, what)
        if found:
            return found[0]
    return None


def only(found: Sequence[Volume], subject: str) -> Volume:
    """The one volume that holds a system; raises HostError for none, ConfigError for several."""
    if len(found) > 1:
        raise several(subject, found, "an ostree/repo or composefs directory")
    if not found:
        raise no_root(subject)
    return found[0]


def several(subject: str, found: Sequence[Volume], what: str) -> ConfigError:
    """Two candidates and no reason to take one of them."""
    message = (
        f"has {len(found)} candidates for the root, expected one with {what}: {_listed(found)}"
    )
    return ConfigError.of(subject, message, hint=CHOOSE)


class NoRootError(HostError):
    """Nothing on a disk looks like a root."""


def no_root(subject: str) -> NoRootError:
    """A disk on which nothing looks like a root."""
    return NoRootError(
        Problem(
            subject=subject,
            message="has no root: no partition of a root's type, none named or labelled "
            f"{ROOT_NAME!r}, and none with ostree/repo or composefs",
            hint=f"install the system first, or {CHOOSE}",
        )
    )


def require_openable(volume: Volume, subject: str) -> None:
    """Raise HostError unless *volume* has a file system for a root, or leads to one."""
    if volume.kind in OPENABLE:
        return
    expected = ", ".join(sorted(FILE_SYSTEMS))
    message = (
        f"{volume.shown} has {volume.kind}, expected a file system for a root ({expected})"
        if volume.kind
        else f"{volume.shown} has no file system"
    )
    raise HostError.of(subject, message, hint=f"make one, or {CHOOSE}")


def openable(volumes: Sequence[Volume]) -> Iterator[Volume]:
    """Volumes that may be, or lead to, a root."""
    return (volume for volume in volumes if volume.kind in OPENABLE)


def boot_volumes(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """File systems beside the root that say a boot loader reads them: all that do, in any way."""
    return tuple(
        volume
        for volume in volumes
        if volume.kind in BOOT_FILE_SYSTEMS
        and (_type(volume) in BOOT_TYPES or BOOT_NAME in (_name(volume), _label(volume)))
    )


def _of_type(kinds: tuple[str, ...]) -> Callable[[Volume], bool]:
    return lambda volume: _type(volume) in kinds


def _type(volume: Volume) -> str:
    return volume.partition.type_id if volume.partition else ""


def _name(volume: Volume) -> str:
    return volume.partition.name if volume.partition else ""


def _label(volume: Volume) -> str:
    return volume.signature.label if volume.signature else ""


def _listed(volumes: Sequence[Volume]) -> str:
    return "; ".join(map(_described, volumes))


def _described(volume: Volume) -> str:
    return f"{volume.shown} ({volume.kind or 'empty'})"
