"""A target opened as a directory: a mounted one as it is, a disk or raw image by opening it first."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from installer_plugin.block.backends import STAGE, choose_opener, choose_reader
from installer_plugin.block.base import LayerOpener, OpenedTarget, OpenOptions
from installer_plugin.block.finding import Finder, FoundRoot
from installer_plugin.block.imageformat import require_raw
from installer_plugin.block.journal import Journal, close_stale, opening, private_directory
from installer_plugin.block.loopdev import Backing
from installer_plugin.block.loops import SYSFS, attach, sector_size
from installer_plugin.block.mounts import (
    look_options,
    mount_argv,
    mount_options,
    remount_argv,
)
from installer_plugin.block.namespace import own_mounts
from installer_plugin.block.steps import FlushStep, MountStep, set_writable
from installer_plugin.block.subvolumes import subvolume_option
from installer_plugin.block.usage import require_free, require_unattached
from installer_plugin.errors import ConfigError, DataError, HostError, Problem
from installer_plugin.events import Events
from installer_plugin.process import Command, CommandError, Runner

KINDS = "expected a directory, a disk, a partition or a raw disk image"


@contextmanager
def open_target(
    path: Path, options: OpenOptions, runner: Runner, events: Events
) -> Iterator[OpenedTarget]:
    """*path* as a physical root: a directory is passed through, anything else opened and mounted.

    A disk is mounted read-only; :func:`make_writable` is for the moment when all checks have passed.
    Whatever was set up is taken back when the context is left, and on the disk by then. What a killed
    run left behind is taken back first.

    Raises ConfigError for what the caller has to correct or choose, HostError for the rest: a disk in
    use, without a root, that cannot be mounted, or that cannot be closed again.
    """
    if path.is_dir():
        _require_no_partition(path, options)
        yield OpenedTarget(named=path, physical_root=path)
        return
    _require_suitable(path, options)
    with ExitStack() as stack:
        with _explained(path):
            stack.enter_context(own_mounts())
        with opening(options.state), _explained(path):
            for problem in close_stale(options.state, runner):
                events.warn(STAGE, f"an earlier run left {problem}")
            directory = stack.enter_context(private_directory(options.state))
            journal = stack.enter_context(_closed_at_end(Journal(directory, runner), events))
            opened = _Opening(path, options, journal, events).open()
        yield opened


def make_writable(target: OpenedTarget, runner: Runner) -> None:
    """Have what is mounted at a disk's root written to from now on; raises HostError."""
    if target.device is None:
        return
    command = Command(argv=remount_argv(target.physical_root), purpose="make the disk writable")
    try:
        runner.run(set_writable(str(target.device)))
        runner.run(command)
    except CommandError as error:
        hint = "look at its file system with fsck"
        raise HostError(error.problem(str(target.named), hint=hint)) from error


@contextmanager
def _closed_at_end(journal: Journal, events: Events) -> Iterator[Journal]:
    """Close *journal*; what cannot be closed is an error, unless another one is on its way."""
    try:
        yield journal
    except BaseException:
        for problem in journal.close():
            events.warn(STAGE, f"{problem}")
        raise
    problems = journal.close()
    if problems:
        raise HostError(*problems)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong while a disk is opened is the disk's or the machine's."""
    try:
        yield
    except DataError as error:
        raise HostError(error.problem(hint="look at the disk with lsblk and wipefs")) from error
    except CommandError as error:
        hint = f"install {error.command.tool}" if "could not be started" in error.ending else ""
        raise HostError(error.problem(str(path), hint=hint)) from error
    except OSError as error:
        message = f"cannot be opened: {error.strerror} ({error.filename})"
        raise HostError(Problem(subject=str(path), message=message, hint="be root")) from error


def _require_no_partition(path: Path, options: OpenOptions) -> None:
    if options.root_partition:
        raise ConfigError(
            Problem(
                subject=str(path),
                message="is a directory, which has no partitions to choose from",
                hint="leave --root-partition out, or name the disk",
            )
        )


def _require_suitable(path: Path, options: OpenOptions) -> None:
    """Raise ConfigError or HostError for what is no disk, or not one that we may open."""
    try:
        seen = path.stat()
        if stat.S_ISREG(seen.st_mode):
            require_raw(path)
        elif not stat.S_ISBLK(seen.st_mode):
            message = f"is neither file nor block device, {KINDS}"
            raise ConfigError(
                Problem(subject=str(path), message=message, hint="name another target")
            )
    except OSError as error:
        message = f"cannot be opened as a target: {error.strerror}, {KINDS}"
        hint = "see lsblk for the disks of this machine"
        raise ConfigError(Problem(subject=str(path), message=message, hint=hint)) from error
    if os.geteuid() != 0:
        message = "can only be opened by root: it has to be mounted"
        raise HostError(Problem(subject=str(path), message=message, hint="use sudo"))
    if not options.read_only and not os.access(path, os.W_OK):
        message = "is read-only, expected a target that can be written"
        raise HostError(Problem(subject=str(path), message=message, hint="make it writable"))
    for name in (options.key.passphrase_file, options.key.key_file):
        if name is not None and not name.is_file():
            message = "is no file, expected one with a key"
            raise ConfigError(Problem(subject=str(name), message=message, hint="name another file"))


@dataclass(frozen=True, slots=True)
class _Opening:
    """One disk or image on its way to a mounted root."""

    path: Path
    options: OpenOptions
    journal: Journal
    events: Events

    def open(self) -> OpenedTarget:
        disk, backing = self._disk()
        reader = choose_reader(self.options, self.journal.runner, self.events)

        @cache
        def opener() -> LayerOpener:
            return choose_opener(self.options, self.journal.runner, self.events)

        finder = Finder(
            subject=str(self.path),
            disk=disk,
            backing=backing,
            journal=self.journal,
            reader=reader,
            opener=opener,
            key=self.options.key,
        )
        root = finder.find(self.options.root_partition)
        finder.protect(root.volume)
        point = self._mounted(root)
        self.events.step(STAGE, f"opened {root} of {self.path}")
        return OpenedTarget(
            named=self.path,
            physical_root=point,
            device=root.volume.device,
            opened_by=reader.name,
            read_only=True,
        )

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
            backing = Backing(path=path, read_only=read_only, sector=sector_size(path))
        return attach(backing, self.journal), backing

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
        return HostError(
            Problem(
                subject=str(self.path),
                message=f"{root} was not unmounted cleanly: its journal has to be replayed first",
                hint="mount it once for writing and unmount it, or run fsck; nothing was changed",
            )
        )


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
        raise HostError(Problem(subject=str(device), message=message, hint=hint))


def _logical_sector(device: Path) -> int:
    folder = _sysfs(device)
    disk = folder if (folder / "queue").is_dir() else folder.parent
    return int((disk / "queue/logical_block_size").read_text())
