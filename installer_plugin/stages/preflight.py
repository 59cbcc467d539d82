"""Stage preflight: everything that can be known before the target is touched, all at once.

Each check is a generator of problems; none of them stops another, and an empty result means go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from installer_plugin.declarations.reference import parse_reference
from installer_plugin.errors import DataError, Problem
from installer_plugin.events import iec
from installer_plugin.lockfile import LockedImage
from installer_plugin.model import (
    LAYOUTS,
    Finding,
    Platform,
    ResolvedImage,
    Severity,
    SourceKind,
)
from installer_plugin.process.pool import Crew
from installer_plugin.process.runner import Command, CommandError, Runner, find_tool
from installer_plugin.storage.engine.select import Selected, required_tools
from installer_plugin.storage.engine.source_layers import SourceCheck, Whole, check_stored
from installer_plugin.storage.engine.space import (
    MissingLayers,
    choose_scratch,
    free_room,
    layers_to_copy,
    need_of,
    scratch_need,
    scratch_room,
)
from installer_plugin.storage.selinux import SETFILES, SETFILES_HINT, Policy
from installer_plugin.storage.source.platforms import runs
from installer_plugin.storage.store.consistency import store_problems
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.target_store import TargetStore

MINIMUM_VERSIONS = {"skopeo": (1, 9), "podman": (4, 3)}
"""Oldest versions that were tried."""
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is about to be done, as far as preflight needs to know it."""

    images: tuple[ResolvedImage, ...]
    selected: tuple[Selected, ...] = ()
    """The same images with their engines."""
    stores: tuple[Path, ...] = ()
    """The local stores that images are copied from, primary first."""
    direct_only: bool = False
    """Whether a fallback engine is not wanted (``--engine direct``)."""
    target: TargetStore | None = None
    any_room: bool = False
    """Whether the target may seem too small (``--no-space-check``)."""
    scratch: tuple[Path, ...] = ()
    """Directories that may hold temporary files, the preferred one first."""
    lock: Mapping[str, LockedImage] | None = None
    closed_for_now: bool = False
    """Whether the target is read-only because we have mounted it so until everything is checked."""
    policy: Policy | None = None
    """The SELinux policy that the target store is to be labelled by."""
    machine: Platform | None = None
    """What the OS image runs on; None to take images for anything."""
    whole: Whole = field(default_factory=dict)
    """Stored layers that an earlier look has found whole."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found."""

    problems: tuple[Problem, ...]
    whole: Whole
    """Stored layers that need not be looked at again."""


def preflight(plan: Plan, crew: Crew, runner: Runner) -> Preflight:
    """All problems of *plan*; nothing is changed anywhere. Raises CommandError."""
    sources, whole = check_sources(plan, crew)
    problems = (
        *check_tools(required_tools(plan.selected), runner),
        *(check_labelling(plan.policy) if plan.policy and plan.images else ()),
        *(check_direct(plan.selected) if plan.direct_only else ()),
        *check_lock(plan.images, plan.lock),
        *(check_architecture(plan.images, plan.machine) if plan.machine else ()),
        *sources,
        *(check_target(plan.target, closed=plan.closed_for_now) if plan.target else ()),
        *(check_space(plan, plan.target) if plan.target and not plan.any_room else ()),
    )
    return Preflight(problems, whole)


def check_tools(tools: Sequence[str], runner: Runner) -> Iterator[Problem]:
    """Programs that are missing, do not run, or are older than any version that was tried."""
    for tool in tools:
        hint = f"install {tool} (apt-get install {tool}, dnf install {tool})"
        if find_tool(tool) is None:
            yield Problem(subject=tool, message="not found in PATH, expected it there", hint=hint)
            continue
        if tool not in MINIMUM_VERSIONS:
            continue
        try:
            version = tool_version(tool, runner)
        except CommandError as error:
            yield error.problem(tool, hint=hint)
            continue
        found = _VERSION.search(version)
        minimum = MINIMUM_VERSIONS[tool]
        if not found or (int(found[1]), int(found[2])) < minimum:
            expected = ".".join(map(str, minimum))
            message = f"is version {version!r}, expected {expected} or later"
            yield Problem(subject=tool, message=message, hint=f"update {tool}")


def tool_version(tool: str, runner: Runner) -> str:
    """The version *tool* gives of itself, without its name; raises CommandError."""
    command = Command(argv=(tool, "--version"), purpose=f"ask {tool} for its version")
    output = runner.run(command).stdout.decode(errors="replace").strip()
    found = _VERSION.search(output)
    return found[0] if found else output


def check_labelling(policy: Policy) -> Iterator[Problem]:
    """A policy to apply and nothing to apply it with."""
    if find_tool(SETFILES) is None:
        yield Problem(
            subject=SETFILES,
            message=f"not found in PATH; the SELinux policy {policy.name} has to be applied",
            where=policy.where,
            hint=SETFILES_HINT,
        )


def check_direct(selected: Sequence[Selected]) -> Iterator[Problem]:
    """Images that a guard of the direct engine refuses."""
    for each in selected:
        if each.refusal:
            yield Problem(
                subject=each.image.bound.reference,
                where=str(each.image.bound.location),
                message=f"cannot be copied directly ({each.refusal})",
                hint="use --engine auto, which takes skopeo for it",
            )


def check_sources(plan: Plan, crew: Crew) -> tuple[tuple[Problem, ...], Whole]:
    """Stored layers that are not whole, or that no engine can carry, and which layers are whole.

    Those that are on the target already are left. Raises CommandError.
    """
    try:
        missing = layers_to_copy(plan.images, plan.target) if plan.target else None
    except DataError:
        missing = None  # the target's store is damaged: check_target says so
    wanted = plan.images if missing is None else [image for image, _ in missing.values()]
    images = {image.image_id: image for image in wanted}.values()
    blobs = tuple(_blob_problems([image for image in images if image.source.kind in LAYOUTS]))
    stored, whole = check_stored(
        SourceCheck(
            images=[
                (each.image, not each.engine.stages_on_target)
                for each in plan.selected
                if each.image.source.kind is SourceKind.CONTAINERS_STORAGE
            ],
            stores=plan.stores,
            missing=missing,
            target=plan.target.physical_root if plan.target else None,
            whole=plan.whole,
        ),
        crew,
    )
    return (*blobs, *stored), whole


def _blob_problems(images: Sequence[ResolvedImage]) -> Iterator[Problem]:
    if images:
        # Reads layouts and archives, which most sources are not.
        from installer_plugin.storage.source.layout_blobs import blob_problems  # noqa: PLC0415

        for image in images:
            yield from blob_problems(image)


def check_lock(
    images: Sequence[ResolvedImage], lock: Mapping[str, LockedImage] | None
) -> Iterator[Problem]:
    """Images that are not what the lock file demands, or not in it."""
    if lock is None:
        return
    for image in images:
        reference = image.bound.reference
        locked = lock.get(reference)
        wrong = locked.mismatch(image) if locked else "the lock file does not have it"
        if wrong:
            yield Problem(
                subject=reference,
                where=str(image.bound.location),
                message=wrong,
                hint="pull the locked image, or approve the new one with 'bootc-bound-images lock'",
            )


def check_architecture(images: Sequence[ResolvedImage], machine: Platform) -> Iterator[Problem]:
    """Images that the OS image's machine does not run."""
    for image in images:
        if image.platform is not None and not runs(machine, image.platform):
            reference = image.bound.reference
            # Lists name a variant for few architectures: podman finds none that is asked for in vain.
            pull = f"podman pull --platform {machine.os}/{machine.architecture} {reference}"
            yield Problem(
                subject=reference,
                where=str(image.bound.location),
                message=f"is for {image.platform}, the OS image is for {machine}",
                hint=f"get the image for that ({pull}), or say --allow-other-architecture",
            )


def check_target(target: TargetStore, *, closed: bool = False) -> Iterator[Problem]:
    """A target that cannot be written, unless we keep it *closed*, or whose store is damaged already."""
    if not closed and not os.access(target.physical_root, os.W_OK):
        yield Problem(
            subject=str(target.physical_root),
            message="is read-only, expected a target that can be written",
            hint="mount it read-write",
        )
    if not target.graph_root.exists():
        return
    try:
        with GraphRoot.open(target.graph_root) as root:
            yield from store_problems(root)
    except DataError as error:
        yield error.problem(
            hint=f"remove {target.graph_root} and let it be written again",
        )


def check_space(plan: Plan, target: TargetStore) -> Iterator[Problem]:
    """Too little room on the target's file system, or no roomy place for temporary files."""
    try:
        missing = layers_to_copy(plan.images, target)
    except DataError:
        return  # the store is damaged: check_target has said so, and what is missing is unknown
    need = need_of(tuple(missing.values()))
    room = free_room(target.graph_root)
    where = str(target.physical_root)
    if need.bytes > room.bytes:
        yield Problem(
            subject=where,
            message=f"has {iec(room.bytes)} free, the bound images need {iec(need.bytes)}",
            hint="use a larger file system or bind fewer images",
        )
    if room.inodes is not None and need.inodes > room.inodes:
        yield Problem(
            subject=where,
            message=f"has {room.inodes} free inodes, the bound images need {need.inodes}",
            hint="make the file system with more inodes (mkfs.ext4 -i)",
        )
    staged = {each.image.image_id for each in plan.selected if each.engine.stages_on_target}
    piped = {
        chain: (image, layer)
        for chain, (image, layer) in missing.items()
        if image.image_id not in staged
    }
    # A target that is closed for now will be a place for temporary files too.
    spare = room.bytes - need.bytes if plan.closed_for_now else 0
    lacks = bool(piped) and spare < scratch_need(piped)
    if lacks and choose_scratch(plan.scratch, scratch_need(piped)) is None:
        yield _no_scratch(plan.scratch, piped)


def _no_scratch(places: Sequence[Path], missing: MissingLayers) -> Problem:
    seen = ", ".join(f"{path} has {iec(scratch_room(path))}" for path in places)
    return Problem(
        subject="scratch directory",
        message=f"{seen} free, the largest image needs {iec(scratch_need(missing))} for a while",
        hint="name a roomy directory with --scratch",
    )


def bootc_findings(images: Sequence[ResolvedImage]) -> Iterator[tuple[str, Finding]]:
    """Images that ``bootc install`` would fail to copy by itself, or whose digest it would lose.

    c/storage offers its layers uncompressed only, so a manifest that lists compressed ones has to
    be rewritten, which a destination pinned by digest forbids (container-libs#197).
    """
    for image in images:
        if image.source.kind is not SourceKind.CONTAINERS_STORAGE:
            continue
        if image.compressed and parse_reference(image.bound.reference).is_pinned:
            finding = Finding(
                code="bootc-cannot-copy-pinned",
                severity=Severity.WARNING,
                message="is pinned by digest, and its manifest lists compressed layers",
                consequence="'bootc install' on its own would fail to copy it, after the disk is wiped",
                location=image.bound.location,
            )
            yield image.bound.reference, finding
        elif len(image.manifest_digests) > 1:
            finding = Finding(
                code="bootc-loses-digest",
                severity=Severity.NOTE,
                message=f"is known by {len(image.manifest_digests)} manifest digests",
                consequence="'bootc install' on its own would keep only one of them",
                location=image.bound.location,
            )
            yield image.bound.reference, finding
