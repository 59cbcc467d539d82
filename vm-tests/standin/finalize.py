"""The end of an installation: what is on the file systems reaches the disk."""

from collections.abc import Sequence
from pathlib import Path

from standin.process import run, say


def finalize(mount_points: Sequence[Path]) -> None:
    """Trim, remount read-only, and flush the journal by freezing, for boot loaders without one."""
    for point in mount_points:
        say(f"Finalizing filesystem {point}")
        kind = run(("findmnt", "--noheadings", "--output=FSTYPE", f"--mountpoint={point}")).strip()
        # In the place itself, as bootc does, which has it as a descriptor (install.rs).
        run(("fstrim", "--quiet-unsupported", "-v", "."), cwd=point)
        run(("mount", "-o", "remount,ro", "."), cwd=point)
        if kind != "vfat":
            run(("fsfreeze", "-f", "."), cwd=point)
            run(("fsfreeze", "-u", "."), cwd=point)
