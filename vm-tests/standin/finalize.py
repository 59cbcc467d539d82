"""The end of an installation: what is on the file systems reaches the disk."""

from collections.abc import Sequence
from pathlib import Path

from standin.process import run, say


def finalize(mount_points: Sequence[Path]) -> None:
    """Trim, remount read-only, and flush the journal by freezing, for boot loaders without one."""
    for point in mount_points:
        say(f"Finalizing filesystem {point}")
        kind = run(("findmnt", "--noheadings", "--output=FSTYPE", f"--mountpoint={point}")).strip()
        run(("fstrim", "--quiet-unsupported", "-v", point))
        run(("mount", "-o", "remount,ro", point))
        if kind != "vfat":
            run(("fsfreeze", "--freeze", point))
            run(("fsfreeze", "--unfreeze", point))
