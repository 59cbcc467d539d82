"""The files that a build has left, each opened as a disk and proven from its own bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin.block.base import OpenOptions
from installer_plugin.block.target import open_target
from installer_plugin.errors import HostError, VerificationError
from installer_plugin.files.atomic import replace_file
from installer_plugin.hosts.image_builder.rewrite import Mode
from installer_plugin.hosts.image_builder.session import BuildOutcome, listing
from installer_plugin.model import VerifiedImage
from installer_plugin.opening import require_target
from installer_plugin.pipeline import copy_images, verify_target
from installer_plugin.request import IMAGE_PREFIX, TARGET_ITSELF, Work

STAGE = "exports"
RECEIPT_ENDING = ".bound-images.json"
"""Added to the name of a disk."""
BESIDE = frozenset((".json", ".buildlog", ".progress", ".upload-result", ".log", ".txt", ".xml"))
"""Endings of what image-builder leaves beside its artifacts."""
_HEAD = 0x8806
_PACKED: tuple[tuple[int, bytes, str], ...] = (
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0x101, b"ustar", "a tar archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"PK\x03\x04", "a zip archive"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An artifact, with what was proven on it."""

    path: Path
    images: tuple[VerifiedImage, ...] = ()
    receipt: Path | None = None
    not_opened: str = ""
    """Why nothing was read in it."""


def find_exports(outcome: BuildOutcome) -> tuple[Path, ...]:
    """The artifacts that are there since; raises HostError where there is none."""
    output = Path(outcome.output)
    now, before = listing(output), outcome.before or {}
    found = tuple(
        output / name
        for name, seen in now.items()
        if before.get(name) != seen and Path(name).suffix not in BESIDE
    )
    if not found:
        raise HostError.of(
            str(output),
            "has no new file, expected the disk that was built",
            hint="see what the build has said above",
        )
    return found


def what_it_packs(path: Path) -> str:
    """What kind of archive a file is; "" for what may be a disk. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for offset, magic, kind in _PACKED:
        if head[offset : offset + len(magic)] == magic:
            return kind
    return ""


def prove_exports(outcome: BuildOutcome, image: str, created: int, work: Work) -> Iterator[Export]:
    """Each artifact, opened; in the modes in which the build has not done so, filled and finished.

    Raises what copying and verification raise, and VerificationError for one that could not be opened
    and was not proven in the build either.
    """
    for path in find_exports(outcome):
        packed = what_it_packs(path)
        if packed and outcome.mode != Mode.STAGE:
            raise VerificationError.of(
                str(path),
                f"is {packed}, which is not opened: its bound images are not proven",
                hint="build a raw or qcow2 disk, or use --when=stage",
            )
        if packed:
            said = f"{packed} is not opened: its images were proven while it was built"
            work.events.warn(STAGE, f"{path}: {said}")
            yield Export(path=path, not_opened=packed)
        else:
            yield _proven(path, outcome, _Build(image, created), work)


@dataclass(frozen=True, slots=True)
class _Build:
    image: str
    created: int


def _proven(path: Path, outcome: BuildOutcome, build: _Build, work: Work) -> Export:
    receipt = path.with_name(path.name + RECEIPT_ENDING)
    if outcome.mode == Mode.STAGE:
        asked = replace(work.request, source=TARGET_ITSELF, target=path)
        images = verify_target(work.asking(asked))
        _copy_receipt(path, receipt, work)
        return Export(path=path, images=images, receipt=receipt)
    asked = replace(
        work.request,
        source=f"{IMAGE_PREFIX}{build.image}",
        target=path,
        receipts=(receipt,),
        receipt_source=f"{IMAGE_PREFIX}{build.image}",
    )
    context = replace(work.context, env=_dated(work.context.env, build.created))
    copy_images(replace(work, request=asked, context=context))
    # What was written is proven as it is read again by whoever opens the disk next.
    again = replace(work.request, source=TARGET_ITSELF, target=path)
    return Export(path=path, images=verify_target(work.asking(again)), receipt=receipt)


def _dated(env: Mapping[str, str], created: int) -> Mapping[str, str]:
    """Two builds of one image are to be equal."""
    return {"SOURCE_DATE_EPOCH": str(created), **env}


def _copy_receipt(disk: Path, receipt: Path, work: Work) -> None:
    """Have the receipt that is on the disk beside it as well."""
    options = OpenOptions(read_only=True)
    with open_target(disk, options, work.runner, work.events) as target:
        store = require_target(replace(work.request, target=target.physical_root))
        replace_file(receipt, store.receipt.read_bytes(), mode=0o644)
