"""Where hooks are: the four directories, and what one of them holds for a phase."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import Problem
from installer_plugin.files.rootfs import printable
from installer_plugin.hooks.phases import Phase
from installer_plugin.hooks.security import directory_problems, file_problems, mask_problems

PLACES = ("etc", "run", "usr/local/lib", "usr/lib")
"""By precedence, as systemd orders its configuration."""
FOLDER = "bootc-bound-images/hooks.d"
NO_HOOK = Path(os.devnull)
BACKUPS = (
    "~", ".bak", ".orig", ".rej", ".rpmsave", ".rpmorig", ".rpmnew",
    ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".swp",
)  # fmt: skip
"""Ends of names that editors and package managers leave behind."""
NAME = re.compile(r"[0-9]{2}-[A-Za-z0-9_][A-Za-z0-9_.@+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file with the name of a hook."""

    file: Path
    masks: bool
    """Whether it is a link to /dev/null, which stands for no hook at all."""
    problems: tuple[Problem, ...]
    """Why it may not be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What one directory holds for one phase."""

    entries: tuple[Entry, ...] = ()
    ignored: tuple[Path, ...] = ()
    """Files that are neither hooks nor backups of hooks."""
    problems: tuple[Problem, ...] = ()
    """Why the directory may not be used; its entries have them too."""


def hook_directories(root: Path = Path("/")) -> tuple[Path, ...]:
    """The directories of hooks below *root*, by precedence."""
    return tuple(root / place / FOLDER for place in PLACES)


def list_phase(directory: Path, phase: Phase) -> Listing:
    """What *directory* holds for *phase*; nothing is raised, what is wrong is in the result."""
    folder = directory / f"{phase}.d"
    ours = (directory.parent, directory, folder)
    problems = tuple(problem for each in ours for problem in directory_problems(each))
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return Listing(problems=problems)
    except OSError as error:
        unreadable = Problem(
            subject=printable(str(folder)),
            message=f"cannot be read: {error.strerror}",
            hint="look at it as root",
        )
        return Listing(problems=problems or (unreadable,))
    kept = [name for name in names if not name.endswith(BACKUPS)]
    return Listing(
        entries=tuple(_entry(folder / name, problems) for name in kept if NAME.fullmatch(name)),
        ignored=tuple(folder / name for name in kept if not NAME.fullmatch(name)),
        problems=problems,
    )


def entry_problems(file: Path) -> tuple[Problem, ...]:
    """Why the hook *file* may not be run now: its own faults and those of its directories."""
    folder = file.parent
    ours = (folder.parent.parent, folder.parent, folder)
    above = (problem for each in ours for problem in directory_problems(each))
    return (*above, *file_problems(file))


def _entry(file: Path, above: tuple[Problem, ...]) -> Entry:
    masks = _leads_nowhere(file)
    own = mask_problems(file) if masks else file_problems(file)
    return Entry(file=file, masks=masks, problems=(*above, *own))


def _leads_nowhere(file: Path) -> bool:
    if not file.is_symlink():
        return False
    try:
        return file.readlink() == NO_HOOK or file.resolve() == NO_HOOK
    except (OSError, RuntimeError):  # a circle of links
        return False
