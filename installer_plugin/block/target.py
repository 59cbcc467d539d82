"""A target opened as a directory: a mounted one as it is, a disk or raw image by opening it first."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
from installer_plugin.block.undo_journal import Journal, close_stale, opening, private_directory
from installer_plugin.errors import ConfigError, DataError, HostError
from installer_plugin.events import Events
from installer_plugin.process.runner import CommandError, Runner

KINDS = "expected a directory, a disk, a partition or a disk image"
Opened = TypeVar("Opened")


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
    with _held(path, options, runner, events, Opening.open) as opened:
        yield opened


@contextmanager
def open_boot_places(
    path: Path, options: OpenOptions, runner: Runner, events: Events
) -> Iterator[tuple[Path, ...]]:
    """Every file system of *path* that may have boot entries, to be written; a directory is one.

    What of a disk cannot be opened, such as an encrypted root without its key, is left out and told
    to *events*, as long as there is another. Raises as :func:`open_target` does.
    """
    if path.is_dir():
        yield (path,)
        return
    with _held(path, options, runner, events, Opening.open_boot) as places:
        yield places


@contextmanager
def _held(
    path: Path,
    options: OpenOptions,
    runner: Runner,
    events: Events,
    way: Callable[[Opening], Opened],
) -> Iterator[Opened]:
    """What *way* makes of the disk *path*, until the context is left."""
    require_suitable(path, options)
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


def make_writable(target: OpenedTarget, runner: Runner) -> None:
    """Have what is mounted at a disk's root written to from now on; raises HostError."""
    if target.device is None:
        return
    try:
        opener.make_writable(target.device, target.physical_root, runner)
    except CommandError as error:
        hint = "look at its file system with fsck"
        raise HostError(error.problem(str(target.named), hint=hint)) from error


def forget_memory(target: OpenedTarget) -> None:
    """Have what is read of an image of another format come from its own file, not from memory.

    Its loop device reads what FUSE shows, of which the kernel keeps pages: for a second after they
    were written, reading past the page cache of the file system on it still finds them. What was
    written has to be on the disk by now. Raises HostError.
    """
    if target.export is None:
        return
    try:
        fd = os.open(target.export, os.O_RDONLY | os.O_CLOEXEC)
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


def _require_no_partition(path: Path, options: OpenOptions) -> None:
    if options.root_partition:
        raise ConfigError.of(
            str(path),
            "is a directory, which has no partitions to choose from",
            hint="leave --root-partition out, or name the disk",
        )


def require_suitable(path: Path, options: OpenOptions) -> None:
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
