"""Writes files so that a power cut leaves the old one or the new one, whole."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(
    path: Path, content: bytes, *, mode: int = 0o600, staging: Path | None = None
) -> None:
    """Put *content* at *path* so that a crash leaves the old file or the new one, whole.

    It is written in *staging*, on the same file system, or beside *path*.
    """
    temporary = (staging or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.unlink(missing_ok=True)  # of a killed run whose process ID has come round again
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
        temporary.rename(path)
    except BaseException as failure:
        try:
            temporary.unlink(missing_ok=True)
        except OSError as error:  # what has failed before is what the caller must know
            failure.add_note(f"{temporary} cannot be removed: {error.strerror}")
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the names in the directory *path* on the disk: a power cut may be next."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
