"""Which files may be run as hooks: what nobody but root can have put there or changed."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from os import stat_result
from pathlib import Path

from installer_plugin.errors import Problem
from installer_plugin.files.rootfs import file_type, printable

ROOT = 0
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
SPECIAL = stat.S_ISUID | stat.S_ISGID


def file_problems(file: Path) -> Iterator[Problem]:
    """Why *file* may not be run as a hook; nothing when it may."""
    seen = _seen(file)
    if isinstance(seen, Problem):
        yield seen
        return
    if not stat.S_ISREG(seen.st_mode):
        message = f"is a {file_type(seen.st_mode)}, expected a regular file or a link to /dev/null"
        yield _problem(file, message, "put the program itself there")
        return
    yield from _ownership(file, seen)
    if seen.st_mode & SPECIAL:
        message = f"has the mode {_mode(seen)}: setuid or setgid, which no hook needs"
        yield _problem(file, message, f"chmod u-s,g-s {printable(str(file))}")
    if not seen.st_mode & stat.S_IXUSR:
        message = f"has the mode {_mode(seen)}, expected an executable file"
        yield _problem(file, message, f"chmod u+x {printable(str(file))}, or remove it")


def mask_problems(link: Path) -> Iterator[Problem]:
    """Why *link* may not mask a hook; nothing when it may."""
    seen = _seen(link)
    if isinstance(seen, Problem):
        yield seen
    elif seen.st_uid != ROOT:
        yield _owner(link, seen, "chown --no-dereference")


def directory_problems(folder: Path) -> Iterator[Problem]:
    """Why nothing in the directory *folder* may be believed; nothing when it does not exist."""
    seen = _seen(folder)
    if isinstance(seen, Problem):
        if folder.exists() or folder.is_symlink():
            yield seen
        return
    if not stat.S_ISDIR(seen.st_mode):
        message = f"is a {file_type(seen.st_mode)}, expected a directory"
        yield _problem(folder, message, "make it a directory, or remove it")
        return
    yield from _ownership(folder, seen)


def _ownership(path: Path, seen: stat_result) -> Iterator[Problem]:
    if seen.st_uid != ROOT:
        yield _owner(path, seen, "chown")
    if seen.st_mode & OTHERS_MAY_WRITE:
        message = f"has the mode {_mode(seen)}, expected that only its owner can write it"
        yield _problem(path, message, f"chmod go-w {printable(str(path))}")


def _owner(path: Path, seen: stat_result, chown: str) -> Problem:
    message = f"belongs to user {seen.st_uid}, expected root"
    return _problem(path, message, f"{chown} root {printable(str(path))}, if you trust it")


def _seen(path: Path) -> stat_result | Problem:
    try:
        return path.lstat()
    except OSError as error:
        return _problem(path, f"cannot be looked at: {error.strerror}", "look at it as root")


def _mode(seen: stat_result) -> str:
    return f"{stat.S_IMODE(seen.st_mode):04o}"


def _problem(path: Path, message: str, hint: str) -> Problem:
    return Problem(subject=printable(str(path)), message=message, hint=hint)
