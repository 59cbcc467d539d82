"""Which way the bound images come onto the disks, and why (pure)."""

from __future__ import annotations

from collections.abc import Sequence
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


class When(StrEnum):
    """What the caller wants."""

    AUTO = "auto"
    STAGE = "stage"
    STOCK = "stock"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Choice:
    """A mode with its reason, both for the log."""

    mode: Mode
    reason: str


def choose_mode(
    when: When, images: Sequence[ResolvedImage], *, new_python: bool, archives: Sequence[str] = ()
) -> Choice:
    """The mode for *images*; *archives* are exports that cannot be opened afterwards.

    Raises PreflightError for one that cannot serve, with all that speaks against it.
    """
    against: dict[Mode, tuple[str, ...]] = {
        Mode.STAGE: () if new_python else ("the build root has no Python 3.11 or later",),
        Mode.STOCK: (*_not_for_skopeo(images), *_not_opened(archives)),
        Mode.AFTER: _not_opened(archives),
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


def _not_opened(archives: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"the export {name!r} is an archive, which cannot be opened" for name in archives)


def _unsuitable(when: When, reasons: Sequence[str]) -> PreflightError:
    hint = (
        "use a build container with Python 3.11 or later (--bootc-build-ref), or build a disk (raw, "
        "qcow2) and make the archive of that"
    )
    problems = (Problem(subject=f"--when={when}", message=each, hint=hint) for each in reasons)
    return PreflightError(*problems)


def archives_in(manifest: Manifest, exports: Sequence[str]) -> tuple[str, ...]:
    """The exports whose last stage packs what was built."""
    last = {place.name: place.stages[-1].get("type") for place in manifest.places if place.stages}
    kinds = ((name, last.get(name)) for name in exports)
    return tuple(name for name, kind in kinds if kind is not None and kind.text in ARCHIVES)
