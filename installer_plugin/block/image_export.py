"""Disk images of other formats as files that look raw: qemu-storage-daemon shows them through FUSE.

Where there is no FUSE, qemu-nbd shows them as a network block device of the kernel.

The daemon runs below a keeper of ours, in mounts of its own, which others reach by the keeper's entry
in /proc. When the run that wanted the image is killed, the keeper sees its stdin end, waits until the
kernel has let go of the loop devices on the image, so that all is written, and ends the daemon. Nothing
of it is left: the mount is nobody else's.

A loop device on what FUSE shows must not read and write past the page cache (losetup --direct-io): what
is written comes back changed, or the device hangs (seen with Linux 6 and qemu 7.2).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from installer_plugin.block.disk_image_format import Format, FormattedImage, convert_line
from installer_plugin.block.nbd_device import SERVER, nbd_devices, served
from installer_plugin.block.probe import list_loops
from installer_plugin.block.undo_journal import Journal
from installer_plugin.block.undo_steps import ExportStep
from installer_plugin.errors import BoundImagesError, HostError, InterruptedBySignal
from installer_plugin.process.runner import (
    Command,
    CommandError,
    Runner,
    bound_to_us_argv,
    find_tool,
    our_program_argv,
)
from installer_plugin.process.signals import interruptible

PROGRAM = "installer_plugin.block.image_export"
DAEMON = "qemu-storage-daemon"
FUSE, NBD = Path("/dev/fuse"), Path("/dev/nbd0")
EXPORT, LOCK = "image", "image-lock"
"""Names in the private directory: what is mounted over, and who is at work."""
PATIENCE_SECONDS = 60.0
"""How long loop devices of a killed run may take to go."""
PAUSE_SECONDS = 0.05
NODE = "disk"


class Way(StrEnum):
    """How an image is shown."""

    FUSE = "fuse"
    NBD = "nbd"


PROGRAMS = {Way.FUSE: DAEMON, Way.NBD: SERVER}
PACKAGES = {Way.FUSE: "qemu-system-common", Way.NBD: "qemu-utils"}


@dataclass(frozen=True, slots=True)
class Exported:
    """An image that is shown as a raw disk."""

    path: Path
    """A file, or a block device."""
    direct: bool
    """Whether it may be read past the page cache."""


def export_image(
    path: Path, form: Format, way: Way, journal: Journal, *, read_only: bool
) -> Exported:
    """What shows the image *path* as a raw disk would; the journal takes it back.

    Raises HostError for an image that is in use or damaged.
    """
    export, lock = journal.directory / EXPORT, journal.directory / LOCK
    journal.plan(ExportStep(str(lock)))
    words = (way, str(export), str(lock), form.driver, str(path), "ro" if read_only else "rw")
    command = Command(
        argv=(
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "--",
            *our_program_argv(PROGRAM, *words),
        ),
        purpose=f"show the {form.name} file {path} as a disk",
    )
    keeper = ExitStack()
    try:
        pid, line = keeper.enter_context(journal.runner.hold(command))
    except CommandError as error:
        raise _not_shown(path, form, error) from error
    journal.keepers[str(lock)] = keeper
    shown = Path(os.fsdecode(line.rstrip(b"\n")))
    if way is Way.NBD:
        return Exported(shown, direct=True)
    return Exported(Path(f"/proc/{pid}/root{shown}"), direct=False)


def find_way(path: Path, form: Format) -> Way:
    """How this machine can show an image; raises HostError where it cannot."""
    there = {Way.FUSE: FUSE.exists(), Way.NBD: bool(nbd_devices())}
    for way in Way:
        if there[way] and find_tool(PROGRAMS[way]):
            return way
    convert = f"convert: {convert_line(path, form)}"
    if not any(there.values()):
        message = f"takes FUSE or NBD to open, and neither {FUSE} nor {NBD} is there"
        hint = f"load the module fuse or nbd, or {convert}"
    else:
        way = next(way for way in Way if there[way])
        message = f"takes {PROGRAMS[way]} to open, and that is not in PATH"
        hint = f"install it (Debian: {PACKAGES[way]}), or {convert}"
    raise HostError.of(str(path), f"is a {form.name} file, which {message}", hint=hint)


def _not_shown(path: Path, form: Format, error: CommandError) -> HostError:
    lines = [line for line in error.stderr.splitlines() if line.strip()]
    said = "; ".join(lines[-2:])
    if " lock" in said:
        message = f"is in use by another program, expected a free image: {said}"
        hint = "shut down the virtual machine that runs from it"
    else:
        message = f"cannot be opened as a {form.name} file: {said}"
        hint = f"look at it with: qemu-img check {path}"
    return HostError.of(str(path), message, hint=hint)


def daemon_argv(export: Path, image: FormattedImage) -> tuple[str, ...]:
    """The daemon's call: it says that it is ready by the greeting of its monitor on stdout."""
    cache = {"direct": image.direct}
    node = {
        "driver": image.driver,
        "node-name": NODE,
        "read-only": image.read_only,
        "discard": "unmap",
        "cache": cache,
        "file": {"driver": "file", "filename": str(image.path), "cache": cache},
    }
    shown = {
        "type": "fuse",
        "id": "export",
        "node-name": NODE,
        "mountpoint": str(export),
        "writable": not image.read_only,
    }
    return (
        DAEMON,
        "--blockdev", json.dumps(node),
        "--export", json.dumps(shown),
        "--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor",
    )  # fmt: skip


def main(argv: Sequence[str]) -> NoReturn:
    """Keep one daemon: ``fuse|nbd EXPORT LOCK DRIVER IMAGE ro|rw``; says where the disk is."""
    way, export, lock, driver, path, access = argv
    runner = Runner(PATIENCE_SECONDS)
    image = FormattedImage(path=Path(path), driver=driver, read_only=access == "ro")
    show = {Way.FUSE: _by_fuse, Way.NBD: served}[Way(way)]
    try:
        with (
            interruptible(),
            _locked(Path(lock)),
            show(image, Path(export), runner) as shown,
        ):
            _keep(shown, runner)
    except CommandError as error:
        sys.exit(error.stderr or str(error))
    except InterruptedBySignal:
        pass  # the daemon has ended, with all it had to write
    sys.exit(0)


@contextmanager
def _by_fuse(image: FormattedImage, export: Path, runner: Runner) -> Iterator[Path]:
    export.touch(mode=0o600)
    command = Command(
        argv=bound_to_us_argv(daemon_argv(export, image)), purpose=f"show {image.path}"
    )
    with runner.hold(command):
        yield export


def _keep(shown: Path, runner: Runner) -> None:
    """Say where it is, wait for who wanted it, and for the kernel."""
    sys.stdout.buffer.write(os.fsencode(shown) + b"\n")
    sys.stdout.buffer.flush()
    while os.read(0, 1 << 10):
        pass
    _wait_until_free(shown, runner)


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Let others see that an image is still being written."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def _wait_until_free(export: Path, runner: Runner) -> None:
    """Wait until no loop device stands on the export, within bounds."""
    seen, deadline = export.stat(), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(BoundImagesError):
            loops = list_loops(runner)
            if not any((loop.disk, loop.inode) == (seen.st_dev, seen.st_ino) for loop in loops):
                return
        time.sleep(PAUSE_SECONDS)
