"""What ``bootc install`` does to a file system at its end, for targets that we keep mounted longer."""

from __future__ import annotations

from pathlib import Path

from installer_plugin.process import Command, Runner

BOOT = "boot"


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
            commands.append(_command("freeze", path, "fsfreeze", "-f", str(path)))
            commands.append(_command("thaw", path, "fsfreeze", "-u", str(path)))
    return tuple(commands)


def _command(what: str, path: Path, *argv: str) -> Command:
    return Command(argv=argv, purpose=f"{what} {path}")


def finalize(physical_root: Path, runner: Runner) -> None:
    """Finalize the target's root and its ``/boot`` when that is a file system of its own.

    Raises CommandError.
    """
    boot = physical_root / BOOT
    mount_points = (boot, physical_root) if boot.is_mount() else (physical_root,)
    vfat = frozenset(path for path in mount_points if _is_vfat(path, runner))
    for command in finalize_commands(mount_points, vfat):
        runner.run(command)


def _is_vfat(path: Path, runner: Runner) -> bool:
    argv = ("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(path))
    found = runner.run(Command(argv=argv, purpose=f"learn the file system of {path}"))
    return found.stdout.strip() == b"vfat"
