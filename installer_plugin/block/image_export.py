"""Disk images of other formats as files that look raw: qemu-storage-daemon shows them through FUSE.

The daemon runs below a keeper of ours, in mounts of its own, which others reach by the keeper's entry
in /proc. When the run that wanted the image is killed, the keeper sees its stdin end, waits until the
kernel has let go of the loop devices on the image, so that all is written, and ends the daemon. Nothing
of it is left: the mount is nobody else's.

A loop device on it must not read and write past the page cache (losetup --direct-io): what is written
comes back changed, or the device hangs (seen with Linux 6 and qemu 7.2).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from installer_plugin.block.disk_image_format import Format, convert_line
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
FUSE = Path("/dev/fuse")
EXPORT, LOCK = "image", "image-lock"
"""Names in the private directory: what is mounted over, and who is at work."""
READY = b"ready\n"
PATIENCE_SECONDS = 60.0
"""How long loop devices of a killed run may take to go."""
PAUSE_SECONDS = 0.05
NODE = "disk"


def export_image(path: Path, form: Format, journal: Journal, *, read_only: bool) -> Path:
    """A file that shows what is in the image *path* as a raw disk would; the journal takes it back.

    Raises HostError where the program is missing, and for an image that is in use or damaged.
    """
    _require_tools(path, form)
    export, lock = journal.directory / EXPORT, journal.directory / LOCK
    journal.plan(ExportStep(str(lock)))
    words = (str(export), str(lock), form.driver, str(path), "ro" if read_only else "rw")
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
    if line != READY:
        raise RuntimeError(f"the keeper has said {line!r}")
    return Path(f"/proc/{pid}/root{export}")


def _require_tools(path: Path, form: Format) -> None:
    hint = f"install it (Debian: qemu-system-common), or convert: {convert_line(path, form)}"
    if find_tool(DAEMON) is None:
        message = f"is a {form.name} file, which takes {DAEMON} to open, and that is not in PATH"
        raise HostError.of(str(path), message, hint=hint)
    if not FUSE.exists():
        message = f"is a {form.name} file, which takes FUSE to open, and {FUSE} is not there"
        hint = f"load the module fuse, or convert: {convert_line(path, form)}"
        raise HostError.of(str(path), message, hint=hint)


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


def daemon_argv(
    export: Path, driver: str, path: Path, *, read_only: bool, direct: bool
) -> tuple[str, ...]:
    """The daemon's call: it says that it is ready by the greeting of its monitor on stdout."""
    cache = {"direct": direct}
    node = {
        "driver": driver,
        "node-name": NODE,
        "read-only": read_only,
        "discard": "unmap",
        "cache": cache,
        "file": {"driver": "file", "filename": str(path), "cache": cache},
    }
    shown = {
        "type": "fuse",
        "id": "export",
        "node-name": NODE,
        "mountpoint": str(export),
        "writable": not read_only,
    }
    return (
        DAEMON,
        "--blockdev", json.dumps(node),
        "--export", json.dumps(shown),
        "--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor",
    )  # fmt: skip


def main(argv: Sequence[str]) -> NoReturn:
    """Keep one daemon: ``EXPORT LOCK DRIVER IMAGE ro|rw``."""
    export, lock, driver, path, access = argv
    try:
        with interruptible(), _locked(Path(lock)):
            _keep(Path(export), driver, Path(path), read_only=access == "ro")
    except CommandError as error:
        sys.exit(error.stderr or str(error))
    except InterruptedBySignal:
        pass  # the daemon has ended, with all it had to write
    sys.exit(0)


def _keep(export: Path, driver: str, path: Path, *, read_only: bool) -> None:
    export.touch(mode=0o600)
    words = daemon_argv(export, driver, path, read_only=read_only, direct=_can_read_directly(path))
    command = Command(argv=bound_to_us_argv(words), purpose=f"show {path}")
    runner = Runner(PATIENCE_SECONDS)
    with runner.hold(command):
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        while os.read(0, 1 << 10):
            pass
        _wait_until_free(export, runner)


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Let others see that an image is still being written."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def _can_read_directly(path: Path) -> bool:
    """Whether what is read can come from the disk itself, and not from memory."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _wait_until_free(export: Path, runner: Runner) -> None:
    """Wait until no loop device stands on the export, within bounds."""
    seen, deadline = export.stat(), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(BoundImagesError):
            loops = list_loops(runner)
            if not any((loop.disk, loop.inode) == (seen.st_dev, seen.st_ino) for loop in loops):
                return
        time.sleep(PAUSE_SECONDS)
