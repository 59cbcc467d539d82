"""A disk, a partition or a disk image as a target: opened, mounted privately, and closed again."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from installer_plugin.block import opener
from installer_plugin.block.backends import STAGE
from installer_plugin.block.base import OpenedTarget, OpenOptions
from installer_plugin.block.disk_image_format import require_disk
from installer_plugin.block.image_export import DAEMON
from installer_plugin.block.luks import require_key
from installer_plugin.block.namespace import own_mounts
from installer_plugin.block.opener import Opening
from installer_plugin.block.owner_lock import opening
from installer_plugin.block.undo_journal import Journal, close_stale, private_directory
from installer_plugin.errors import ConfigError, DataError, HostError
from installer_plugin.events import Events
from installer_plugin.process.runner import CommandError, Runner

KINDS = "expected a directory, a disk, a partition or a disk image"
Opened = TypeVar("Opened")


def opened_root(
    path: Path, options: OpenOptions, runner: Runner, events: Events
) -> AbstractContextManager[OpenedTarget]:
    """The root of *path*, mounted until the context is left; raises ConfigError and HostError."""
    return _held(path, options, runner, events, Opening.open)


def opened_boot_places(
    path: Path, options: OpenOptions, runner: Runner, events: Events
) -> AbstractContextManager[tuple[Path, ...]]:
    """What of *path* may have boot entries, mounted until the context is left; raises the same."""
    return _held(path, options, runner, events, Opening.open_boot)


@contextmanager
def _held(
    path: Path,
    options: OpenOptions,
    runner: Runner,
    events: Events,
    way: Callable[[Opening], Opened],
) -> Iterator[Opened]:
    """What *way* makes of the disk *path*, until the context is left."""
    _require_suitable(path, options)
    with ExitStack() as stack:
        with _explained(path):
            stack.enter_context(own_mounts())
        with opening(options.state), _explained(path):
            for problem in close_stale(options.state, runner):
                events.warn(STAGE, f"an earlier run left {problem}")
            directory = stack.enter_context(private_directory(options.state))
            journal = stack.enter_context(_closed_at_end(Journal(directory, runner), events))
            opened = way(Opening(path, options, journal, events))
        yield opened


def make_writable(target: OpenedTarget, device: Path, runner: Runner) -> None:
    """Have what is mounted of *device* at the root of *target* written to; raises HostError."""
    try:
        opener.make_writable(device, target.physical_root, runner)
    except CommandError as error:
        hint = "look at its file system with fsck"
        raise HostError(error.problem(str(target.named), hint=hint)) from error


def forget_pages(target: OpenedTarget, export: Path) -> None:
    """Drop the pages of *export*, the file that shows *target* as a disk; raises HostError."""
    try:
        fd = os.open(export, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    except OSError as error:
        message = f"cannot be read from its own file: {error.strerror}"
        hint = f"is the {DAEMON} of this run still there?"
        raise HostError.of(str(target.named), message, hint=hint) from error


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
        raise HostError.of(str(path), message, hint="be root") from error


def _require_suitable(path: Path, options: OpenOptions) -> None:
    """Raise ConfigError or HostError for what is not a disk, or not one that we may open."""
    try:
        seen = path.stat()
        if stat.S_ISREG(seen.st_mode):
            require_disk(path, to_write=not options.read_only)
        elif not stat.S_ISBLK(seen.st_mode):
            message = f"is neither file nor block device, {KINDS}"
            raise ConfigError.of(str(path), message, hint="name another target")
    except OSError as error:
        message = f"cannot be opened as a target: {error.strerror}, {KINDS}"
        hint = "see lsblk for the disks of this machine"
        raise ConfigError.of(str(path), message, hint=hint) from error
    if os.geteuid() != 0:
        message = "can only be opened by root: it has to be mounted"
        raise HostError.of(str(path), message, hint="use sudo")
    if not options.read_only and not os.access(path, os.W_OK):
        message = "is read-only, expected a target that can be written"
        raise HostError.of(str(path), message, hint="make it writable")
    require_key(options.key)
