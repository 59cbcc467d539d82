"""Whether a disk is free: nothing on it is mounted, swapped to, or part of something larger."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from installer_plugin.block.probe import BlockNode, Loop, list_loops, lsblk_argv, parse_lsblk
from installer_plugin.block.undo_steps import SYSFS
from installer_plugin.errors import HostError, Problem
from installer_plugin.process.runner import Command, Runner

SWAP = "[SWAP]"
DETACH_SECONDS = 2.0
"""How long a loop device that is being detached is waited for: who looks at it takes milliseconds."""
DETACH_POLL_SECONDS = 0.02


def uses_of(nodes: tuple[BlockNode, ...]) -> Iterator[Problem]:
    """What is made of a device and of what stands on it."""
    for top in nodes:
        for node in top.walk():
            yield from _mounts(node)
            for child in node.children:
                if child.kind != "part":
                    yield Problem(
                        subject=node.path,
                        message=f"is in use by {child.path} ({child.kind}), expected a free device",
                        hint=f"close {child.path} first",
                    )


def _mounts(node: BlockNode) -> Iterator[Problem]:
    """Swap space, and one problem for all places at which the device is mounted."""
    if SWAP in node.mount_points:
        message = "is swap space in use, expected a free device"
        yield Problem(subject=node.path, message=message, hint=f"swapoff {node.path}")
    points = tuple(dict.fromkeys(point for point in node.mount_points if point != SWAP))
    if points:
        # The last one first: it may lie below another.
        unmount = " ".join(sorted(points, reverse=True))
        yield Problem(
            subject=node.path,
            message=f"is mounted on {', '.join(points)}, expected a device that is not mounted",
            hint=f"unmount it (umount {unmount}), or name the directory as the target",
        )


def require_free(device: Path, runner: Runner) -> None:
    """Raise HostError when *device* is in use anywhere on the machine, CommandError, DataError."""
    command = Command(argv=lsblk_argv(device), purpose=f"see what uses {device}")
    text = runner.run(command).stdout.decode(errors="replace")
    problems = tuple(uses_of(parse_lsblk(text, str(device))))
    if problems:
        raise HostError(*problems)
    try:
        # The kernel's own word, which counts other mount namespaces too (open(2), O_EXCL).
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        busy = error.errno == errno.EBUSY
        message = "is in use" if busy else f"cannot be opened: {error.strerror}"
        hint = "find its user with lsof, or in another mount namespace with 'lsns --type mnt'"
        raise HostError.of(str(device), message, hint=hint) from error


def require_unattached(image: Path, runner: Runner) -> None:
    """Raise HostError when a loop device stands on *image* already, CommandError, DataError.

    A device that is detached stays until its last reader closes it, such as a blkid that looks at all
    devices: the kernel calls it `autoclear`, and it is waited for.
    """
    deadline = time.monotonic() + DETACH_SECONDS
    while loop := _loop_on(image, runner):
        if not _autoclear(loop.device) or time.monotonic() > deadline:
            raise HostError.of(
                str(image),
                f"is in use by {loop.device}, expected a free image",
                hint=f"detach it (losetup --detach {loop.device}), or name {loop.device}",
            )
        time.sleep(DETACH_POLL_SECONDS)


def _loop_on(image: Path, runner: Runner) -> Loop | None:
    seen = image.stat()
    here = (seen.st_dev, seen.st_ino)
    return next((loop for loop in list_loops(runner) if (loop.disk, loop.inode) == here), None)


def _autoclear(loop: Path) -> bool:
    """Whether the kernel detaches a loop device when its last user closes it."""
    try:
        return (SYSFS / "class/block" / loop.name / "loop/autoclear").read_text().strip() == "1"
    except FileNotFoundError:
        return True  # it has just gone
