"""osbuild's library directory with our stage and program in it.

osbuild takes its stages from one directory (``--libdir``), which it shows the build root. Real copies:
links out of the directory lead nowhere in there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from installer_plugin.errors import PreflightError, Problem
from installer_plugin.hosts.image_builder.manifest import STAGE
from installer_plugin.hosts.image_builder.single_file import NAME, single_file, stage_files

DEFAULT = Path("/usr/lib/osbuild")
PARTS = (
    "assemblers", "devices", "inputs", "mounts", "osbuild", "runners", "schemas", "sources", "stages",
)  # fmt: skip


def require_library(library: Path) -> None:
    """Raise PreflightError for a directory that is not osbuild's library."""
    if not (library / "stages").is_dir():
        raise PreflightError(
            Problem(
                subject=str(library),
                message="has no directory 'stages', expected osbuild's library directory",
                hint="install osbuild, or name its directory with --osbuild-libdir",
            )
        )


def library_with_stage(library: Path, place: Path) -> Path | None:
    """A copy of *library* at *place* that has our stage; None where the library itself has it.

    Raises PreflightError for what is no such library, and OSError.
    """
    require_library(library)
    if (library / "stages" / STAGE).exists() and (library / NAME).exists():
        return None
    for name in PARTS:
        if (library / name).is_dir():
            shutil.copytree(library / name, place / name, symlinks=True)
    for name, content in stage_files().items():
        file = place / "stages" / name
        file.write_bytes(content)
        file.chmod(0o755)
    (place / NAME).write_bytes(single_file())
    return place
