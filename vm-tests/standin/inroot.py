"""Paths inside a root directory, with links followed as if that directory were `/`."""

import errno
import os
from pathlib import Path, PurePosixPath

_MAX_LINKS = 40


def resolve_in_root(root: Path, inside: str) -> Path:
    """Follow every link of `inside` without leaving `root`; raises OSError when it does not exist."""
    todo = list(reversed(PurePosixPath(inside.lstrip("/")).parts))
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]  # `..` of the root is the root
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), inside)
        text = here.readlink()
        if text.is_absolute():
            done.clear()
        todo += [name for name in reversed(text.parts) if name != "/"]
    found = root.joinpath(*done)
    found.lstat()
    return found
