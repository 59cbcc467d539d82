"""Makes a directory tree read-only with all that is mounted in it, then becomes another program.

A program of its own, which :func:`~installer_plugin.hooks.argv.hook_argv` starts in mounts of its own.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from installer_plugin.errors import BoundImagesError
from installer_plugin.process.runner import Command, Runner

MOUNT_SETATTR = 442
"""Number of the system call since Linux 5.12, the same on every architecture that bootc runs on."""
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
ATTRIBUTES = struct.pack("=4Q", 1, 0, 0, 0)
"""``struct mount_attr`` (mount_setattr(2)) that sets MOUNT_ATTR_RDONLY and clears nothing."""
MISSING = (errno.ENOSYS, errno.EPERM)
"""What kernels without the call say, and container runtimes that do not know it (seccomp)."""
FAILED = 1


def close_tree(top: Path, runner: Runner) -> None:
    """Make *top* and all that is mounted in it read-only, as mounts, not as file systems.

    Raises CommandError and OSError. When it raises, some of the mounts may be writable.
    """
    # A directory need not be a mount, and those of a mount that stay as they are are below it.
    _mount("join", "--rbind", str(top), str(top), runner=runner)
    try:
        _close_at_once(top)
    except OSError as error:
        if error.errno not in MISSING:
            raise
        close_each(top, runner)


def close_each(top: Path, runner: Runner) -> None:
    """Make every mount from *top* down read-only, one after the other; raises CommandError."""
    argv = ("findmnt", "--json", "--submounts", "--output", "TARGET", "--mountpoint", str(top))
    found = runner.run(Command(argv=argv, purpose=f"list what is mounted in {top}"))
    for point in mount_points(found.stdout):
        _mount("close", "-o", "remount,bind,ro", point, runner=runner)


def mount_points(listed: bytes) -> tuple[str, ...]:
    """The mount points in what ``findmnt --json`` prints, which is a tree of them."""

    def below(nodes: list[dict[str, object]]) -> list[str]:
        points = []
        for node in nodes:
            children = node.get("children")
            inner = below(children) if isinstance(children, list) else []
            points += [str(node["target"]), *inner]
        return points

    return tuple(dict.fromkeys(below(json.loads(listed)["filesystems"])))


def _mount(what: str, *words: str, runner: Runner) -> None:
    runner.run(Command(argv=("mount", *words), purpose=f"{what} {words[-1]}"))


def _close_at_once(top: Path) -> None:
    """Close the whole tree by one system call, which Python has no function for."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    arguments = (
        ctypes.c_long(MOUNT_SETATTR),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(os.fsencode(top)),
        ctypes.c_uint(AT_RECURSIVE),
        ctypes.c_char_p(ATTRIBUTES),
        ctypes.c_size_t(len(ATTRIBUTES)),
    )
    if call(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(top))


def main(argv: Sequence[str]) -> NoReturn:
    """Become a program that can write nothing below a directory: ``TOP PROGRAM WORDS...``."""
    top, *program = argv
    try:
        close_tree(Path(top), Runner())
    except (BoundImagesError, OSError) as error:
        sys.stderr.write(f"{top}: cannot be made read-only for the hook: {error}\n")
        sys.exit(FAILED)
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{program[0]}: could not be started ({error.strerror})\n")
        sys.exit(FAILED)
