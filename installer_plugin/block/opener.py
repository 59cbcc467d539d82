"""One disk or image on its way to mounted file systems; what is set up is in its journal."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from installer_plugin.block.backends import STAGE, choose_opener, choose_reader
from installer_plugin.block.base import LayerOpener, OpenedTarget, OpenOptions
from installer_plugin.block.disk_image_format import format_of
from installer_plugin.block.image_export import PROGRAMS, Exported, export_image, find_way
from installer_plugin.block.in_use import require_free, require_unattached
from installer_plugin.block.loop_ioctl import Backing
from installer_plugin.block.loops import SYSFS, attach, sector_size
from installer_plugin.block.mounts import (
    look_options,
    mount_argv,
    mount_options,
    remount_argv,
)
from installer_plugin.block.root_finder import Finder, FoundRoot
from installer_plugin.block.subvolumes import subvolume_option
from installer_plugin.block.undo_journal import Journal
from installer_plugin.block.undo_steps import FlushStep, MountStep, set_writable
from installer_plugin.errors import BoundImagesError, HostError
from installer_plugin.events import Events
from installer_plugin.process.runner import Command, CommandError, Runner


@dataclass(frozen=True, slots=True)
class Opening:
    """One disk or image on its way to a mounted root."""

    path: Path
    options: OpenOptions
    journal: Journal
    events: Events

    def open(self) -> OpenedTarget:
        """The root, mounted read-only, and the boot file systems beside it where they are wanted.

        Raises ConfigError, HostError, DataError, CommandError and OSError.
        """
        finder = self._finder()
        root, point = self._root(finder)
        return OpenedTarget(
            named=self.path,
            physical_root=point,
            device=root.volume.device,
            read_only=True,
            boot=self._boot(finder) if self.options.with_boot else (),
            export=finder.backing.path if finder.backing and not finder.backing.direct else None,
        )

    def open_boot(self) -> tuple[Path, ...]:
        """Every file system that may have boot entries, mounted to be written.

        A root that cannot be opened is left out where there are others. Raises as :meth:`open` does.
        """
        finder = self._finder()
        try:
            root, point = self._root(finder)
            make_writable(root.volume.device, point, self.journal.runner)
        except BoundImagesError as error:
            places = self._boot(finder)
            if not places:
                raise
            self.events.warn(STAGE, f"{self.path}: only its boot partitions are opened: {error}")
            return places
        return point, *self._boot(finder)

    def _finder(self) -> Finder:
        disk, backing = self._disk()
        runner, events = self.journal.runner, self.events

        @cache
        def opener() -> LayerOpener:
            return choose_opener(self.options, runner, events)

        return Finder(
            subject=str(self.path),
            disk=disk,
            backing=backing,
            journal=self.journal,
            reader=choose_reader(self.options, runner, events),
            opener=opener,
            key=self.options.key,
        )

    def _root(self, finder: Finder) -> tuple[FoundRoot, Path]:
        """The root, and where it is mounted read-only."""
        root = finder.find(self.options.root_partition)
        finder.protect(root.volume)
        point = self._mounted(root)
        self.events.step(STAGE, f"opened {root} of {self.path}")
        return root, point

    def _boot(self, finder: Finder) -> tuple[Path, ...]:
        """The boot file systems beside the root, mounted to be written; one that cannot be is told."""
        places: list[Path] = []
        for volume in finder.boot_volumes():
            point = self.journal.directory / f"boot-{len(places)}"
            point.mkdir(exist_ok=True)
            self.journal.plan(MountStep(str(point)))
            options = mount_options(volume.kind, read_only=False)
            argv = mount_argv(volume.device, volume.kind, options, point)
            try:
                # It may have been looked into in search of the root.
                self.journal.runner.run(set_writable(str(volume.device)))
                self.journal.runner.run(Command(argv=argv, purpose=f"mount {volume.shown}"))
            except CommandError as error:
                self.events.warn(STAGE, f"{error.problem(f'{self.path}: {volume.shown}')}")
                continue
            places.append(point)
        return tuple(places)

    def _disk(self) -> tuple[Path, Backing | None]:
        """The device to work on, and what it is a loop device of ours on."""
        path, read_only = self.path.resolve(), self.options.read_only
        runner = self.journal.runner
        if path.is_block_device():
            require_free(path, runner)
            if not read_only:
                _require_writable(path)
                self.journal.plan(FlushStep(str(path)))
                return path, None
            # Through a read-only loop device not even a journal can be replayed.
            backing = Backing(path=path, read_only=True, sector=_logical_sector(path))
        else:
            require_unattached(path, runner)
            if not read_only:
                self.journal.plan(FlushStep(str(path)))
            exported = self._exported(path)
            sector = sector_size(exported.path)
            backing = Backing(
                path=exported.path, read_only=read_only, sector=sector, direct=exported.direct
            )
        return attach(backing, self.journal), backing

    def _exported(self, path: Path) -> Exported:
        """What looks like a raw image: the image *path* itself, or what shows it as one."""
        form = format_of(path)
        if form is None:
            return Exported(path, direct=True)
        way = find_way(path, form)
        self.events.step(STAGE, f"{path} is a {form.name} file, shown by {PROGRAMS[way]}")
        return export_image(path, form, way, self.journal, read_only=self.options.read_only)

    def _mounted(self, root: FoundRoot) -> Path:
        """The root mounted read-only; raises HostError."""
        point = self.journal.directory / "root"
        point.mkdir()
        kind, subvolume = root.volume.kind, root.subvolume
        extra = () if subvolume is None else (subvolume_option(subvolume),)
        self.journal.plan(MountStep(str(point)))
        options = mount_options(kind, read_only=True, extra=extra)
        argv = mount_argv(root.volume.device, kind, options, point)
        command = Command(argv=argv, purpose=f"mount {root}")
        try:
            self.journal.runner.run(command)
        except CommandError as error:
            self._replay(root, point, error)
            self._run(command)
        return point

    def _replay(self, root: FoundRoot, point: Path, error: CommandError) -> None:
        """Allow the journal to be replayed, if that is what kept it from being mounted."""
        if not self._is_unclean(root, point):
            raise _unmountable(self.path, error) from error
        if self.options.read_only:
            raise self._unclean(root) from error
        self.events.step(STAGE, f"{root} was not unmounted cleanly, its journal is replayed")
        self._run(set_writable(str(root.volume.device)))

    def _run(self, command: Command) -> None:
        try:
            self.journal.runner.run(command)
        except CommandError as error:
            raise _unmountable(self.path, error) from error

    def _is_unclean(self, root: FoundRoot, point: Path) -> bool:
        """Whether the mount failed only because the journal cannot be replayed."""
        options = look_options(root.volume.kind)
        argv = mount_argv(root.volume.device, root.volume.kind, options, point)
        with suppress(CommandError):
            self.journal.runner.run(Command(argv=argv, purpose=f"look into {root}"))
            MountStep(str(point)).undo(self.journal.runner)
            return True
        return False

    def _unclean(self, root: FoundRoot) -> HostError:
        return HostError.of(
            str(self.path),
            f"{root} was not unmounted cleanly: its journal has to be replayed first",
            hint="mount it once for writing and unmount it, or run fsck; nothing was changed",
        )


def make_writable(device: Path, point: Path, runner: Runner) -> None:
    """Have what is mounted read-only from *device* at *point* written to; raises CommandError."""
    runner.run(set_writable(str(device)))
    runner.run(Command(argv=remount_argv(point), purpose="make the disk writable"))


def _unmountable(path: Path, error: CommandError) -> HostError:
    return HostError(error.problem(str(path), hint="look at its file system with fsck"))


def _sysfs(device: Path) -> Path:
    number = device.stat().st_rdev
    return (SYSFS / "dev/block" / f"{os.major(number)}:{os.minor(number)}").resolve()


def _require_writable(device: Path) -> None:
    """Raise HostError for a device that the kernel does not write to."""
    if (_sysfs(device) / "ro").read_text().strip() != "0":
        message = "is read-only, expected a disk that can be written"
        hint = f"blockdev --setrw {device}, or look for a switch on the medium"
        raise HostError.of(str(device), message, hint=hint)


def _logical_sector(device: Path) -> int:
    folder = _sysfs(device)
    disk = folder if (folder / "queue").is_dir() else folder.parent
    return int((disk / "queue/logical_block_size").read_text())
