"""Whether a disk is free: nothing on it is mounted, swapped to, or part of something larger."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from installer_plugin.block.probe import BlockNode, list_loops, lsblk_argv, parse_lsblk
from installer_plugin.errors import HostError, Problem
from installer_plugin.process.runner import Command, Runner

SWAP = "[SWAP]"


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
    """Raise HostError when a loop device stands on *image* already, CommandError, DataError."""
    seen = image.stat()
    for loop in list_loops(runner):
        if (loop.disk, loop.inode) == (seen.st_dev, seen.st_ino):
            raise HostError.of(
                str(image),
                f"is in use by {loop.device}, expected a free image",
                hint=f"detach it (losetup --detach {loop.device}), or name {loop.device}",
            )
