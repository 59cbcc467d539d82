"""What a source root declares: the first step of every recipe, for which no store or disk is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.errors import (
    ConfigError,
    DamagedStoreError,
    DataError,
    PreflightError,
    SourceImageError,
)
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.request import Work
from installer_plugin.stages.discover import LINKS, Discovered, discover


def declarations(work: Work, root: Rootfs) -> Discovered:
    """All that the source declares; raises SourceImageError when that has to be something."""
    found = discover(root)
    if work.request.require_bound_images and not found.declared:
        raise nothing_bound(work.request.source)
    return found


def nothing_bound(subject: str) -> SourceImageError:
    """The error of ``--require-bound-images``."""
    return SourceImageError.of(
        subject,
        "no bound images declared, and --require-bound-images asks for some",
        where=LINKS,
        hint="link a Quadlet file there, or leave the option out",
    )


@contextmanager
def source_directory(path: Path) -> Iterator[Rootfs]:
    """Open a directory as the source root; raises DataError."""
    try:
        root = Rootfs.open(path)
    except OSError as error:
        raise DataError(
            str(path),
            f"cannot be opened as a source root: {error.strerror}",
            hint="give a directory or containers-storage:REFERENCE",
        ) from error
    with root:
        yield root


@contextmanager
def configured() -> Iterator[None]:
    """Turn complaints about what the caller named or configured into errors of the caller."""
    try:
        yield
    except DamagedStoreError as error:
        hint = "repair the store, or pull the images into another one and name it with --store"
        raise PreflightError(error.problem(hint=hint)) from error
    except DataError as error:
        hint = "correct the file or option that is named"
        raise ConfigError(error.problem(hint=hint)) from error
