"""Whole installations: `bootc install` alone, and ours around it, with the stand-in or bootc itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from host import InContainer, add_bootc, kernel_reads_gpt
from osroot import CACHE, os_root, small_root
from rundir import run_directory
from scene import bind_units, os_with

from tests.bench.ways import PRODUCT, Commands, Installer, Setting
from tests.support.commands import unshared
from tests.support.leftovers import new_session

STANDIN = Path(__file__).parents[2] / "vm-tests/standin"
DISK = "5G"
# The declarations of the container's `/` are those that bootc reads there.
_IN_PLACE_OF_USR = (
    "mkdir -p /var/lib/containers\n"
    "mount -t tmpfs tmpfs /var/lib/containers\n"
    'mount -t overlay overlay -o "ro,lowerdir=$STANDIN_CONTAINER_ROOT/usr:/usr" /usr\n'
    'exec "$@"\n'
)


@contextmanager
def installer(
    units: Mapping[str, str], folder: Path, bootc: Path | None, suite: str
) -> Iterator[Installer]:
    """What installs an OS that binds `units`; raises OsRootError and BootcError."""
    if bootc is None:
        root = small_root(folder / "os")
        bind_units(root, units)
        yield _with_standin(root)
        return
    session = new_session().replace("/", "-")
    with run_directory(CACHE, "bench", session) as place:
        root = os_with(os_root(suite=suite), place / "os", units)
        add_bootc(root, bootc)
        yield _in_container(root, InContainer(kernel_reads_gpt(place)))


def _words(setting: Setting, when: str | None) -> tuple[tuple[str, ...], Path]:
    """What follows the program, and the disk image; without `when` for bootc alone."""
    disk = setting.target / "disk.img"
    ours = (f"--when={when}",) if when else ()
    kind = f"--filesystem={setting.kind}"
    return ("install", *ours, "to-disk", "--via-loopback", "--wipe", kind), disk


def _with_standin(root: Path) -> Installer:
    def commands(setting: Setting, when: str | None) -> Commands:
        words, disk = _words(setting, when)
        program = PRODUCT if when else (str(STANDIN / "bootc"),)
        env = (f"STANDIN_CONTAINER_ROOT={root}", f"PATH={STANDIN}:{os.environ['PATH']}")
        line = ("env", *env, *program, *words, str(disk))
        wrapped = unshared(line, prelude=_IN_PLACE_OF_USR)
        return [("truncate", f"--size={DISK}", str(disk)), ("env", env[0], *wrapped)]

    return commands


def _in_container(root: Path, host: InContainer) -> Installer:
    def commands(setting: Setting, when: str | None) -> Commands:
        words, disk = _words(setting, when)
        line = (*words, *host.options, str(disk))
        command = (
            host.product(setting.store, root, setting.target, line)
            if when
            else host.bootc(setting.store, root, setting.target, ("bootc", *line))
        )
        env = (f"{name}={value}" for name, value in command.env.items())
        make = ("truncate", f"--size={DISK}", str(disk))
        return [make, ("env", *env, *command.argv)]

    return commands
