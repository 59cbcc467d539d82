"""Whether a target is what ``bootc install`` is said to install to: seen before anything is touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.block.imageformat import require_raw
from installer_plugin.block.usage import require_free, require_unattached
from installer_plugin.errors import ConfigError, DataError, HostError, Problem
from installer_plugin.hosts.bootc_args import BootcInstall, Verb
from installer_plugin.process import CommandError, Runner

SYSFS = Path("/sys/dev/block")


def require_target(install: BootcInstall, runner: Runner) -> None:
    """Raise ConfigError for a target of the wrong kind, HostError for one in use."""
    target = install.target
    try:
        seen = target.stat()
    except OSError as error:
        hint = "see lsblk for the disks of this machine"
        raise _wrong(target, f"cannot be opened: {error.strerror}", hint) from error
    if install.verb is not Verb.TO_DISK:
        if not stat.S_ISDIR(seen.st_mode):
            hint = f"give the directory, or use {Verb.TO_DISK}"
            raise _wrong(target, f"is no directory, which {install.verb} expects", hint)
        return
    with _explained(target):
        if install.via_loopback:
            _require_image(target, seen, runner)
        else:
            _require_disk(target, seen, runner)


def _require_image(target: Path, seen: os.stat_result, runner: Runner) -> None:
    if not stat.S_ISREG(seen.st_mode):
        hint = "leave --via-loopback out for a disk"
        raise _wrong(target, "is no regular file, which --via-loopback expects", hint)
    require_raw(target)
    require_unattached(target, runner)


def _require_disk(target: Path, seen: os.stat_result, runner: Runner) -> None:
    if not stat.S_ISBLK(seen.st_mode):
        hint = "add --via-loopback for a disk image, or name a disk"
        raise _wrong(target, "is no block device, which to-disk expects", hint)
    number = f"{os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)}"
    if (SYSFS / number / "partition").exists():
        disk = (SYSFS / number).resolve().parent.name
        hint = f"name the disk (/dev/{disk}), or mount the partition and use to-filesystem"
        raise _wrong(target, f"is a partition of /dev/{disk}, expected a whole disk", hint)
    require_free(target, runner)


def _wrong(target: Path, message: str, hint: str) -> ConfigError:
    return ConfigError(Problem(subject=str(target), message=message, hint=hint))


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise HostError(error.problem(hint="look at the disk with lsblk")) from error
    except CommandError as error:
        hint = f"see whether {error.command.tool} is installed and works"
        raise HostError(error.problem(str(target), hint=hint)) from error
