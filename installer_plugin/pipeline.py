"""The recipe: which stages run in which order, for each thing that a user can ask for.

Nothing is written while a problem is known: all of them are raised together first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from installer_plugin.block.target import forget_memory, make_writable
from installer_plugin.errors import ConfigError
from installer_plugin.files.atomic import replace_file
from installer_plugin.lockfile import dump_lock, lock_images
from installer_plugin.model import CopiedImage, Finding, ResolvedImage, VerifiedImage
from installer_plugin.opening import Opened, on_target, require_target
from installer_plugin.request import Work
from installer_plugin.stages.record import pair
from installer_plugin.steps import (
    Known,
    checked,
    compared,
    copied,
    copied_and_read_back,
    discovered,
    labelled,
    recorded,
    resolved,
    verified,
)


class Stage(StrEnum):
    """Our stages, in their order."""

    DISCOVER = "discover"
    RESOLVE = "resolve"
    PREFLIGHT = "preflight"
    COPY = "copy"
    LABEL = "label"
    VERIFY = "verify"
    RECORD = "record"

    @property
    def before(self) -> Stage | None:
        """The stage that has to run before this one."""
        order = tuple(Stage)
        index = order.index(self)
        return order[index - 1] if index else None


Step = Callable[[Work, Opened, Known], Known]

LOOKING: dict[Stage, Step] = {
    Stage.DISCOVER: discovered,
    Stage.RESOLVE: resolved,
    Stage.PREFLIGHT: checked,
}
"""What is done while the target is untouched."""
DOING: dict[Stage, Step] = {
    Stage.COPY: copied,
    Stage.LABEL: labelled,
    Stage.VERIFY: verified,
    Stage.RECORD: recorded,
}
"""What is done to the target."""
RECIPE = LOOKING | DOING
AT_ONCE = DOING | {Stage.COPY: copied_and_read_back}
"""The same for who does all of it in one process, with nothing in between."""
WITHOUT_CONTENT = DOING | {Stage.VERIFY: compared}
"""The same for who reads all content afterwards, from the finished disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A source that passed every check; empty when it declares no bound images."""

    images: tuple[ResolvedImage, ...]
    findings: tuple[tuple[str, Finding], ...]
    """Each with the reference it is about."""


@dataclass(frozen=True, slots=True)
class Locked:
    """A lock file."""

    text: str
    count: int
    """Bound images in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A target that holds every bound image, proven."""

    target: str
    """The physical root: a directory, or a disk as the user named it."""
    store: str
    """Where in it the images are."""
    images: Sequence[tuple[CopiedImage, VerifiedImage]] = ()
    planned: tuple[ResolvedImage, ...] = ()
    """What a dry run would have copied."""
    findings: tuple[tuple[str, Finding], ...] = ()
    """Each with the reference it is about."""


def check(work: Work) -> Checked:
    """Find out everything that can be known before a target is touched."""
    with on_target(work.read_only()) as (inner, disk), Opened(inner, disk) as opened:
        known = looked_at(inner, opened)
    return Checked(images=known.images, findings=known.findings)


def looked_at(work: Work, opened: Opened) -> Known:
    """Discover, resolve and check; raises every problem of all three at once."""
    known = Known()
    for step in LOOKING.values():
        known = step(work, opened, known)
    known.require_clear()
    return known


def copy_images(work: Work, doing: Mapping[Stage, Step] = AT_ONCE) -> Finished:
    """Check, copy, label, verify and record, into a directory, a disk or a disk image.

    A disk is closed again, and everything on it, when this returns.
    """
    work = work.read_only() if work.request.dry_run else work
    with on_target(work) as (inner, disk), Opened(inner, disk) as opened:
        target = require_target(inner.request)
        shown = disk.shown if disk else str
        known = looked_at(inner, opened)
        if known.images and not work.request.dry_run:
            if disk:
                make_writable(disk, inner.runner)
                # An image of another format is read through pages that only the last stage drops.
                doing = {**doing, Stage.COPY: copied} if disk.export else doing
            for stage, step in doing.items():
                if disk and stage is Stage.VERIFY:
                    forget_memory(disk)
                known = step(inner, opened, known)
        return Finished(
            target=shown(str(target.physical_root)),
            store=shown(str(target.graph_root)),
            images=pair(known.copied or (), known.verified or ()),
            planned=known.images if work.request.dry_run else (),
            findings=known.findings,
        )


def write_lock(work: Work, file: Path | None) -> Locked:
    """Pin the bound images to the digests they have now; *file* None writes nothing."""
    images = lock_images(check(work).images)
    text = dump_lock(images)
    if file is not None:
        try:
            replace_file(file, text.encode(), mode=0o644)
        except OSError as error:
            message = f"cannot be written: {error.strerror}"
            raise ConfigError.of(str(file), message, hint="choose another file with -o") from error
    return Locked(text, len(images))
