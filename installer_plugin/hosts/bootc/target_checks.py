"""Whether a target is what ``bootc install`` is said to install to: seen before anything is touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.block.base import ROOT_NAME, OpenOptions
from installer_plugin.block.disk_image_format import require_raw
from installer_plugin.block.in_use import require_free, require_unattached
from installer_plugin.block.luks import require_key
from installer_plugin.block.root_finder import usual_node
from installer_plugin.errors import ConfigError, DataError, HostError
from installer_plugin.hosts.bootc.bootc_cli import BootcInstall, Verb
from installer_plugin.process.runner import CommandError, Runner

SYSFS = Path("/sys/dev/block")
MAX_PARTITIONS = 4
"""Boot code, EFI system partition, boot, root (bootc ``crates/lib/src/install/baseline.rs``)."""
_HINTS_MISSING = {
    Verb.TO_DISK: "see lsblk for the disks of this machine",
    Verb.TO_FILESYSTEM: "mount the file system there, or name where it is mounted",
    # bootc mounts it itself where it is missing, but then nobody else comes to it.
    Verb.TO_EXISTING_ROOT: "mount the machine's root there, by podman run -v /:/target",
}


def require_target(install: BootcInstall, runner: Runner) -> None:
    """Raise ConfigError for a target of the wrong kind, HostError for one in use."""
    target = install.target
    try:
        seen = target.stat()
    except OSError as error:
        hint = _HINTS_MISSING[install.verb]
        raise _wrong(target, f"cannot be opened: {error.strerror}", hint) from error
    if install.verb is not Verb.TO_DISK:
        if not stat.S_ISDIR(seen.st_mode):
            hint = f"give the directory, or use {Verb.TO_DISK}"
            raise _wrong(target, f"is not a directory, which {install.verb} expects", hint)
        return
    with _explained(target):
        if install.via_loopback:
            _require_image(target, seen, runner)
        else:
            _require_disk(target, seen, runner)


def require_opening(install: BootcInstall, opening: OpenOptions) -> None:
    """Raise ConfigError for options that cannot open what bootc is going to make.

    Not known before bootc has run: whether a key opens it, and which number its root will have.
    """
    require_key(opening.key)
    if install.verb is not Verb.TO_DISK:
        given = {
            "--key-file": opening.key.key_file,
            "--passphrase-file": opening.key.passphrase_file,
            "--root-partition": opening.root_partition,
        }
        for name in (name for name, value in given.items() if value):
            message = f"makes no sense with {install.verb}, whose target is mounted already"
            raise ConfigError.of(name, message, hint="leave it out")
    elif not _may_be_root(install, opening.root_partition):
        message = (
            f"nothing on {install.target} will be called {opening.root_partition!r}: bootc makes its "
            f"partitions, and calls the root {ROOT_NAME!r}"
        )
        hint = "leave it out: the root is found by its type"
        raise ConfigError.of("--root-partition", message, hint=hint)


def _may_be_root(install: BootcInstall, wanted: str) -> bool:
    """Whether the root can be called so, by the names that opening the disk knows."""
    numbers = range(1, MAX_PARTITIONS + 1)
    names = {"", ROOT_NAME, *map(str, numbers)}
    if not install.via_loopback:
        nodes = [usual_node(install.target.resolve(), number) for number in numbers]
        names |= {name for node in nodes for name in (str(node), node.name)}
    return wanted in names


def _require_image(target: Path, seen: os.stat_result, runner: Runner) -> None:
    if not stat.S_ISREG(seen.st_mode):
        hint = "leave --via-loopback out for a disk"
        raise _wrong(target, "is not a regular file, which --via-loopback expects", hint)
    require_raw(target)
    require_unattached(target, runner)


def _require_disk(target: Path, seen: os.stat_result, runner: Runner) -> None:
    if not stat.S_ISBLK(seen.st_mode):
        hint = "add --via-loopback for a disk image, or name a disk"
        raise _wrong(target, "is not a block device, which to-disk expects", hint)
    number = f"{os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)}"
    if (SYSFS / number / "partition").exists():
        disk = (SYSFS / number).resolve().parent.name
        hint = f"name the disk (/dev/{disk}), or mount the partition and use to-filesystem"
        raise _wrong(target, f"is a partition of /dev/{disk}, expected a whole disk", hint)
    require_free(target, runner)


def _wrong(target: Path, message: str, hint: str) -> ConfigError:
    return ConfigError.of(str(target), message, hint=hint)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise HostError(error.problem(hint="look at the disk with lsblk")) from error
    except CommandError as error:
        hint = f"see whether {error.command.tool} is installed and works"
        raise HostError(error.problem(str(target), hint=hint)) from error
