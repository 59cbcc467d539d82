"""Finds the root of a disk, and opens the layers that lead to it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from installer_plugin.block import root_choice
from installer_plugin.block.base import (
    LUKS,
    LVM,
    DiskReader,
    Key,
    LayerOpener,
    TargetDisk,
    Volume,
)
from installer_plugin.block.loop_ioctl import Backing
from installer_plugin.block.loops import partition_device
from installer_plugin.block.luks import LockedError, WrongKeyError
from installer_plugin.block.lvm import LogicalVolume, list_volumes
from installer_plugin.block.mounts import look_options, mount_argv
from installer_plugin.block.probe import parse_signature, probe
from installer_plugin.block.subvolumes import TOP, choose_subvolume, holds_system, subvolume_option
from installer_plugin.block.undo_journal import Journal
from installer_plugin.block.undo_steps import (
    MAPPER,
    GroupStep,
    MappingStep,
    MountStep,
    ReadOnlyStep,
    disk_sequence,
    set_read_only,
)
from installer_plugin.process.runner import Command


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRoot:
    """The file system that is the root."""

    volume: Volume
    subvolume: str | None = None
    """Path of the btrfs subvolume to mount; None for the default one."""

    def __str__(self) -> str:
        inside = f", subvolume {self.subvolume!r}" if self.subvolume is not None else ""
        return f"{self.volume.shown} ({self.volume.kind}{inside})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finder:
    """Looks for the root of one disk. What it opens is in the journal."""

    subject: str
    """The target, as the user named it."""
    disk: Path
    backing: Backing | None
    """What *disk* is a loop device of ours on."""
    journal: Journal
    reader: DiskReader
    opener: Callable[[], LayerOpener]
    """Asked for once a layer has to be opened."""
    key: Key
    groups: set[str] = field(default_factory=set)
    """UUIDs of the volume groups whose volumes were seen already."""

    def find(self, wanted: str) -> FoundRoot:
        """The root, or what the user calls *wanted*.

        Raises ConfigError when the user has to choose or has no fitting key, HostError when there is
        no root, DataError and CommandError.
        """
        disk = self.reader.read(self.disk)
        volumes = self._volumes(disk)
        if not disk.partitions and not wanted:
            return self._inside(volumes, volumes[0])
        if wanted:
            chosen: Volume | None = self._chosen(volumes, wanted)
        else:
            chosen = root_choice.marked(volumes, self.subject)
        return self._inside(volumes, chosen) if chosen else self._searched(volumes)

    def boot_volumes(self) -> tuple[Volume, ...]:
        """The partitions that a boot loader reads beside the root; raises as :meth:`find` does."""
        volumes = self._volumes(self.reader.read(self.disk))
        return tuple(map(self._usable, root_choice.boot_volumes(volumes)))

    def _volumes(self, disk: TargetDisk) -> tuple[Volume, ...]:
        if not disk.partitions:
            return (root_choice.volume_of_disk(disk),)
        return tuple(
            root_choice.volume_of(partition, usual_node(self.disk, partition.number))
            for partition in disk.partitions
        )

    def _chosen(self, volumes: tuple[Volume, ...], wanted: str) -> Volume:
        """What is called so: a partition, or a logical volume, once those can be seen."""
        locked: list[LockedError] = []
        if not any(wanted in volume.names for volume in volumes):
            layered = [volume for volume in volumes if volume.kind in (LUKS, LVM)]
            volumes += tuple(self._leaves_if_key(volumes, layered, locked))
        if not any(wanted in volume.names for volume in volumes):
            _raise_wrong_key(locked)
        return root_choice.choose(volumes, wanted, self.subject)

    def _inside(self, volumes: tuple[Volume, ...], chosen: Volume) -> FoundRoot:
        """The file system of a volume that is known to be or to contain the root."""
        root_choice.require_openable(chosen, self.subject)
        leaves = tuple(self._leaves(volumes, chosen))
        if len(leaves) == 1:
            root_choice.require_openable(leaves[0], self.subject)
            return FoundRoot(volume=leaves[0], subvolume=self._subvolume(leaves[0]))
        return self._best(leaves)

    def _searched(self, volumes: tuple[Volume, ...]) -> FoundRoot:
        """The root among volumes of which none says that it is one."""
        locked: list[LockedError] = []
        leaves = tuple(self._leaves_if_key(volumes, root_choice.openable(volumes), locked))
        try:
            return self._best(leaves)
        except root_choice.NoRootError:
            _raise_wrong_key(locked)
            if locked:
                raise locked[0] from None
            raise

    def _best(self, leaves: tuple[Volume, ...]) -> FoundRoot:
        """The root among file systems: by label, else by what they hold."""
        leaves = tuple(root_choice.openable(leaves))
        labelled = root_choice.marked(leaves, self.subject)
        if labelled:
            return FoundRoot(volume=labelled, subvolume=self._subvolume(labelled))
        held = [leaf for leaf in leaves if self._holds(leaf)]
        root = root_choice.only(held, self.subject)
        return FoundRoot(volume=root, subvolume=self._subvolume(root))

    # --- layers ------------------------------------------------------------------------------

    def _leaves_if_key(
        self, volumes: tuple[Volume, ...], some: Iterable[Volume], locked: list[LockedError]
    ) -> Iterator[Volume]:
        """The file systems in *some* of *volumes*; why others stay closed goes into *locked*."""
        for volume in some:
            try:
                yield from self._leaves(volumes, volume)
            except LockedError as error:
                locked.append(error)

    def _leaves(self, volumes: tuple[Volume, ...], volume: Volume) -> Iterator[Volume]:
        """What is at the end of the layers that *volume* leads to."""
        usable = self._usable(volume)
        if volume.kind == LUKS:
            yield from self._leaves(volumes, self._decrypted(usable))
        elif volume.kind == LVM:
            members = [each for each in volumes if each.kind == LVM]
            if volume not in members:
                members = [volume]
            for inner in self._activated(tuple(self._usable(each).device for each in members)):
                yield from self._leaves(volumes, inner)
        else:
            yield usable

    def _usable(self, volume: Volume) -> Volume:
        """*volume* with a device that exists."""
        if volume.partition is None:
            return volume
        device = partition_device(self.disk, volume.partition, self.journal, self.backing)
        return replace(volume, device=device)

    def _decrypted(self, volume: Volume) -> Volume:
        mapping = f"bound-images-{secrets.token_hex(4)}"
        self.journal.plan(MappingStep(mapping))
        self.opener().open_luks(volume.device, mapping, self.key)
        shown = f"{volume.shown}, decrypted"
        return self._probed(replace(volume, device=MAPPER / mapping, shown=shown, partition=None))

    def _activated(self, members: tuple[Path, ...]) -> Iterator[Volume]:
        """The volumes of groups on *members* that were not activated yet."""
        listed = list_volumes(members, self.journal.runner)
        found = [each for each in listed if each.group_uuid not in self.groups]
        for uuid, name in {each.group_uuid: each.group for each in found}.items():
            self.groups.add(uuid)
            self.journal.plan(GroupStep(name, uuid, [str(member) for member in members]))
            self.opener().activate(name, members)
        for each in found:
            yield self._probed(_volume_of(each))

    def _probed(self, volume: Volume) -> Volume:
        text = probe(volume.device, self.journal.runner)
        return replace(volume, signature=parse_signature(text))

    # --- looking -----------------------------------------------------------------------------

    def _holds(self, leaf: Volume) -> bool:
        with self._looked_into(leaf) as point:
            if holds_system(point):
                return True
        return self._subvolume(leaf) is not None

    def _subvolume(self, leaf: Volume) -> str | None:
        """The btrfs subvolume that holds the system, where that is not the default one."""
        if leaf.kind != "btrfs":
            return None
        with self._looked_into(leaf) as point:
            if holds_system(point):
                return None
        with self._looked_into(leaf, subvolume_option(TOP)) as point:
            return choose_subvolume(point, f"{self.subject}: {leaf.shown}")

    @contextmanager
    def _looked_into(self, leaf: Volume, *extra: str) -> Iterator[Path]:
        """*leaf* mounted for a look, without any write to the disk."""
        point = self.journal.directory / "look"
        point.mkdir(exist_ok=True)
        step = MountStep(str(point))
        self.protect(leaf)
        self.journal.plan(step)
        options = (*look_options(leaf.kind), *extra)
        argv = mount_argv(leaf.device, leaf.kind, options, point)
        self.journal.runner.run(Command(argv=argv, purpose=f"look into {leaf.shown}"))
        try:
            yield point
        finally:
            step.undo(self.journal.runner)

    def protect(self, leaf: Volume) -> None:
        """Have the kernel refuse writes to *leaf*: xfs writes to its log even when read-only.

        btrfs does not, and never becomes writable once it was mounted from such a device.
        """
        step = ReadOnlyStep(str(leaf.device), disk_sequence(leaf.device))
        protected = step in self.journal.steps or (self.backing and self.backing.read_only)
        if leaf.kind != "btrfs" and not protected:
            self.journal.plan(step)
            self.journal.runner.run(set_read_only(step.device))


def _raise_wrong_key(locked: Sequence[LockedError]) -> None:
    """Whoever has given a key expects the root behind it."""
    for error in locked:
        if isinstance(error, WrongKeyError):
            raise error


def usual_node(disk: Path, number: int) -> Path:
    """What the kernel calls a partition; it need not be there."""
    separator = "p" if disk.name[-1].isdigit() else ""
    return disk.with_name(f"{disk.name}{separator}{number}")


def _volume_of(volume: LogicalVolume) -> Volume:
    name = f"{volume.group}/{volume.name}"
    names = (name, volume.name, f"/dev/{name}", str(volume.device), volume.device.name)
    return Volume(device=volume.device, shown=str(volume), signature=None, names=names)
