"""Network block devices of this machine's kernel, on which qemu-nbd shows disk images: for want of FUSE."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.block.disk_image_format import FormattedImage
from installer_plugin.block.undo_steps import SYSFS
from installer_plugin.process.runner import Command, CommandError, Runner, bound_to_us_argv

SERVER = "qemu-nbd"
DEV = Path("/dev")
CONNECTED = b"NBD device "
"""How the server's first line begins when all went well."""
TAKEN = "Failed to set NBD socket"
"""What it says where somebody else has taken the device meanwhile."""
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.05
_NAME = re.compile(r"nbd(\d+)")


def nbd_devices() -> tuple[Path, ...]:
    """The machine's devices, in use or not, in the order of their numbers."""
    found = {
        int(match[1]): DEV / entry.name
        for entry in (SYSFS / "class/block").glob("nbd*")
        if (match := _NAME.fullmatch(entry.name)) and (DEV / entry.name).is_block_device()
    }
    return tuple(found[number] for number in sorted(found))


def _is_connected(device: Path) -> bool:
    return (SYSFS / "class/block" / device.name / "pid").exists()


def _size(device: Path) -> int:
    return int((SYSFS / "class/block" / device.name / "size").read_text())


def server_argv(device: Path, image: FormattedImage, socket: Path) -> tuple[str, ...]:
    """The server's call, with everything that it says on stdout; it goes when it is disconnected."""
    return (
        "sh", "-c", 'exec "$0" "$@" 2>&1',
        SERVER, "--verbose", f"--connect={device}", f"--socket={socket}", f"--format={image.driver}",
        f"--cache={'none' if image.direct else 'writeback'}", "--discard=unmap",
        *(("--read-only",) if image.read_only else ()),
        "--", str(image.path),
    )  # fmt: skip


@contextmanager
def served(image: FormattedImage, socket: Path, runner: Runner) -> Iterator[Path]:
    """A free device that shows what is in *image*, until the context is left.

    Raises CommandError, with what the server has said.
    """
    refused: list[str] = []
    for device in nbd_devices():
        if _is_connected(device):
            continue
        words = server_argv(device, image, socket)
        command = Command(argv=bound_to_us_argv(words), purpose=f"show {image.path}")
        with runner.hold(command) as (_, line):
            if line.startswith(CONNECTED):
                _wait_until_ready(device, command)
                yield device
                return
        said = line.decode(errors="replace").strip()
        if TAKEN not in said:
            raise CommandError(command, "failed", said)
        refused.append(device.name)
    command = Command(argv=(SERVER,), purpose=f"show {image.path}")
    raise CommandError(command, "failed", f"no free device (tried: {', '.join(refused) or 'none'})")


def _wait_until_ready(device: Path, command: Command) -> None:
    """Wait until the kernel serves the device: it says so after the server does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (_is_connected(device) and _size(device)):
        if time.monotonic() > deadline:
            raise CommandError(
                command, "failed", f"{device} has no size, expected that of the disk"
            )
        time.sleep(PAUSE_SECONDS)
