"""What ``bootc install`` does to a file system at its end, for targets that we keep mounted longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.block.mountinfo import mount_at, mount_of
from installer_plugin.process.runner import Command, CommandError, Runner

BOOT = "boot"
FREEZE = 'trap : TERM; fsfreeze -f "$1"; code=$?; fsfreeze -u "$1" || code=$?; exit "$code"'
"""Freeze and thaw; a signal does not come between them."""


def finalize_commands(mount_points: tuple[Path, ...], vfat: frozenset[Path]) -> tuple[Command, ...]:
    """Trim, make read-only and flush each file system, as bootc does (install.rs, finalize_filesystem).

    Freezing flushes the journal, so that boot loaders without journal support read what was written;
    VFAT has no freezing.
    """
    commands = []
    for path in mount_points:
        commands.append(_command("trim", path, "fstrim", "--quiet-unsupported", "-v", str(path)))
        commands.append(_command("close", path, "mount", "-o", "remount,ro", str(path)))
        if path not in vfat:
            commands.append(_command("flush", path, "sh", "-c", FREEZE, "fsfreeze", str(path)))
    return tuple(commands)


def _command(what: str, path: Path, *argv: str) -> Command:
    return Command(argv=argv, purpose=f"{what} {path}")


def finalize(physical_root: Path, runner: Runner) -> None:
    """Finalize the target's root and its ``/boot`` when that is a file system of its own.

    Raises CommandError.
    """
    boot = physical_root / BOOT
    mount_points = (boot, physical_root) if boot.is_mount() else (physical_root,)
    vfat = frozenset(path for path in mount_points if _is_vfat(path))
    for command in finalize_commands(mount_points, vfat):
        runner.run(command)


@contextmanager
def writable(physical_root: Path, runner: Runner) -> Iterator[None]:
    """Make a root writable once more that is finalized, or that its system mounts read-only.

    In the latter case the mount alone: the file system is the running system's. Raises CommandError,
    but for what fails after the body has: its error goes on.
    """
    places = (physical_root, physical_root / BOOT)
    closed = {place: way for place in places if (way := _way_closed(place))}
    for place, way in closed.items():
        runner.run(_command("open", place, "mount", "-o", f"{way},rw", str(place)))
    try:
        yield
    except BaseException as failure:
        try:
            _close(closed, runner)
        except CommandError as error:  # what has failed before is what people must know
            failure.add_note(str(error))
        raise
    _close(closed, runner)


def _close(closed: Mapping[Path, str], runner: Runner) -> None:
    for place, way in closed.items():
        runner.run(_command("close", place, "mount", "-o", f"{way},ro", str(place)))


def _way_closed(place: Path) -> str:
    """How *place* is to be remounted; empty when it is not a mount, or writable."""
    mount = mount_at(place.resolve())
    if mount is None or (mount.writable and mount.file_system_writable):
        return ""
    return "remount,bind" if mount.file_system_writable else "remount"


def _is_vfat(path: Path) -> bool:
    mount = mount_of(path.resolve())
    return mount is not None and mount.kind == "vfat"
