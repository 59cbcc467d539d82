"""The files that a build has left, each opened as a disk and proven from its own bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin.errors import CopyError, DataError, HostError, Problem, VerificationError
from installer_plugin.events import Events, after_failure
from installer_plugin.expectations import expected_of_resolved
from installer_plugin.files.atomic import replace_file
from installer_plugin.hosts.image_builder.os_content import OsImageContent
from installer_plugin.hosts.image_builder.rewrite import Mode
from installer_plugin.hosts.image_builder.session import BuildOutcome, listing
from installer_plugin.model import VerifiedImage
from installer_plugin.opening import on_target, require_target
from installer_plugin.pipeline import DOING, WITHOUT_CONTENT, copy_images
from installer_plugin.proving import verify_target
from installer_plugin.receipt import with_checks
from installer_plugin.request import IMAGE_PREFIX, TARGET_ITSELF, Work
from installer_plugin.stages.verify import HINT as VERIFY_HINT

STAGE = "exports"
RECEIPT_ENDING = ".bound-images.json"
"""Added to the name of a disk."""
UNPROVEN_ENDING = ".unproven"
"""Added to the name of a disk that is refuted."""
BESIDE = frozenset((".json", ".buildlog", ".progress", ".upload-result", ".log", ".txt", ".xml"))
"""Endings of what image-builder leaves beside its artifacts."""
HINT = "build it again; if that does not help, the store's image is damaged: pull it again"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What was built, as far as the disks have to show it."""

    image: str
    """The OS image, as it was asked for."""
    content: OsImageContent
    verify_again: bool = False
    """Whether content is read in the build, or when a disk is filled, and once more when it is finished."""


def prove_exports(outcome: BuildOutcome, build: Build, work: Work) -> Iterator[Export]:
    """Each artifact, opened, with all that its images are read from it.

    In the modes in which the build has not done so, it is filled and finished first. Raises what
    copying and verification raise, and VerificationError for one that could not be opened and was not
    proven in the build either.
    """
    for path in find_exports(outcome):
        packed = what_it_packs(path)
        if packed and (outcome.mode != Mode.STAGE or outcome.content_later):
            raise VerificationError.of(
                str(path),
                f"is {packed}, which is not opened: its bound images are not proven",
                hint="build a raw or qcow2 disk, or use --when=stage --verify-again",
            )
        if packed:
            said = f"{packed} is not opened: its images were proven while it was built"
            work.events.warn(STAGE, f"{path}: {said}")
            yield Export(path=path, not_opened=packed)
        else:
            with _renamed_on_failure(path, work.events):
                if outcome.mode != Mode.STAGE:
                    _fill(path, build, work)
                export = _proven(path, build, work)
            yield export


@contextmanager
def _renamed_on_failure(path: Path, events: Events) -> Iterator[None]:
    """Have a disk that lacks images, or has others, not stand where somebody would take it for good."""
    try:
        yield
    except (CopyError, VerificationError) as error:
        aside = path.with_name(path.name + UNPROVEN_ENDING)
        with after_failure(events, STAGE, f"renaming {path}"):
            path.rename(aside)
            events.warn(STAGE, f"{path} was renamed to {aside.name}: do not use it")
        raise error.retold(_in_a_build) from error


def _in_a_build(problem: Problem) -> Problem:
    return replace(problem, hint=HINT) if problem.hint == VERIFY_HINT else problem


def _fill(path: Path, build: Build, work: Work) -> None:
    """Put the images on a disk, or finish those that are there."""
    named = f"{IMAGE_PREFIX}{build.image}"
    asked = replace(work.request, source=named, target=path, receipt_source=named)
    # Two builds of one image are to be equal.
    env = {"SOURCE_DATE_EPOCH": str(build.content.created), **work.context.env}
    context = replace(work.context, env=env)
    doing = DOING if build.verify_again else WITHOUT_CONTENT
    copy_images(replace(work, request=asked, context=context), doing)


def _proven(path: Path, build: Build, work: Work) -> Export:
    """Read all from the finished disk, as whoever opens it next does, and have its receipt beside it."""
    asked = work.asking(replace(work.request, source=TARGET_ITSELF, target=path)).read_only()
    receipt = path.with_name(path.name + RECEIPT_ENDING)
    with on_target(asked) as (inner, disk):
        images = verify_target(inner, expected_of_resolved(build.content.images))
        text = _receipt_text(require_target(inner.request).receipt, images)
    replace_file(receipt, text.encode(), mode=0o644)
    shown = disk.shown if disk else str
    return Export(
        path=path,
        images=tuple(replace(each, where=shown(each.where)) for each in images),
        receipt=receipt,
    )


def _receipt_text(file: Path, images: Sequence[VerifiedImage]) -> str:
    """The receipt of a disk, with what was proven of the disk; raises VerificationError."""
    hint = "build the disk again"
    try:
        return with_checks(file.read_bytes(), str(file), images)
    except DataError as error:
        raise VerificationError(error.problem(hint=hint)) from error
    except OSError as error:
        message = f"cannot be read: {error.strerror}, expected the receipt of its bound images"
        raise VerificationError.of(str(file), message, hint=hint) from error
