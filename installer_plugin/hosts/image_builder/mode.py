"""Which way the bound images come onto the disks, and why (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from installer_plugin.errors import PreflightError, Problem
from installer_plugin.hosts.image_builder.manifest import Manifest
from installer_plugin.hosts.image_builder.rewrite import Mode
from installer_plugin.model import ResolvedImage

ARCHIVES = frozenset((
    "org.osbuild.tar", "org.osbuild.xz", "org.osbuild.gzip", "org.osbuild.zstd", "org.osbuild.ovf",
    "org.osbuild.zip",
))  # fmt: skip
"""Last stages of pipelines whose result is not a disk that could be opened."""
CONVERTER = "org.osbuild.qemu"
"""Last stage of pipelines that make a disk of another format."""

COMPRESSED_VMDK = "streamOptimized"
"""Subformat in which image-builder makes vmdk files: it is read, but cannot be written in place."""


class When(StrEnum):
    """What the caller wants."""

    AUTO = "auto"
    STAGE = "stage"
    STOCK = "stock"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Exports:
    """What can and cannot be done with the results that are wanted, by their names."""

    archives: tuple[str, ...] = ()
    """They cannot be opened as disks."""
    read_only: tuple[str, ...] = ()
    """They can be opened, and not written."""
    all_disks: bool = False
    """Whether there are some, and each is known to be a disk: it is opened when the build is over."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A mode with its reason, both for the log."""

    mode: Mode
    reason: str


def choose_mode(
    when: When,
    images: Sequence[ResolvedImage],
    *,
    new_python: bool,
    exports: Exports = Exports(),
) -> Choice:
    """The mode for *images* and what is wanted of the build.

    Raises PreflightError for one that cannot serve, with all that speaks against it.
    """
    closed = tuple(_not_filled(exports))
    against: dict[Mode, tuple[str, ...]] = {
        Mode.STAGE: () if new_python else ("the build root has no Python 3.11 or later",),
        Mode.STOCK: (*_not_for_skopeo(images), *closed),
        Mode.AFTER: closed,
    }
    if when is not When.AUTO:
        mode = Mode(when)
        if against[mode]:
            raise _unsuitable(when, against[mode])
        return Choice(mode, "as asked for")
    refused: list[str] = []
    for mode, reasons in against.items():
        if not reasons:
            return Choice(mode, "; ".join(refused) or "the build root has a Python for our stage")
        refused += reasons
    raise _unsuitable(when, tuple(dict.fromkeys(refused)))


def _not_for_skopeo(images: Sequence[ResolvedImage]) -> tuple[str, ...]:
    """What osbuild's own stage cannot name: a name with a digest fits the manifest of that digest only."""
    pinned = [each.bound.reference for each in images if "@" in each.bound.reference]
    if not pinned:
        return ()
    return (f"osbuild's own stage cannot name {pinned[0]}, which is pinned by its digest",)


def _not_filled(exports: Exports) -> Iterator[str]:
    for name in exports.archives:
        yield f"the export {name!r} is an archive, which cannot be opened"
    for name in exports.read_only:
        yield f"the export {name!r} is a compressed vmdk file, which cannot be written in place"


def _unsuitable(when: When, reasons: Sequence[str]) -> PreflightError:
    hint = (
        "use a build container with Python 3.11 or later (--bootc-build-ref), or build a disk (raw, "
        "qcow2) and make the archive of that"
    )
    *others, last = reasons
    subject = f"--when={when}"
    problems = (Problem(subject=subject, message=each) for each in others)
    return PreflightError(*problems, Problem(subject=subject, message=last, hint=hint))


def exports_of(manifest: Manifest, names: Sequence[str]) -> Exports:
    """What the last stages of these pipelines make of what was built."""
    last = {place.name: place.stages[-1] for place in manifest.places if place.stages}
    wanted = {name: last[name] for name in names if name in last}
    installed = {install.pipeline.name for install in manifest.installs}
    disks = installed | {n for n, stage in wanted.items() if stage.get_text("type") == CONVERTER}
    return Exports(
        archives=tuple(
            name for name, stage in wanted.items() if stage.get_text("type") in ARCHIVES
        ),
        read_only=tuple(
            name
            for name, stage in wanted.items()
            if stage.get_text("options", "format", "subformat") == COMPRESSED_VMDK
        ),
        all_disks=bool(names) and disks.issuperset(names),
    )
