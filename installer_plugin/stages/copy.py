"""Stage copy: resolved images -> copied images, in a target store that is whole when it returns."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import CopyError, DataError, Problem
from installer_plugin.events import Events, iec
from installer_plugin.model import CopiedImage, ImageId, ResolvedImage, SourceKind
from installer_plugin.process import CommandError, Runner
from installer_plugin.storage.base import Engine, Manifests
from installer_plugin.storage.engines import Selected
from installer_plugin.storage.graphroot import GraphRoot
from installer_plugin.storage.local import stored_manifests
from installer_plugin.storage.naming import Completion, complete_image
from installer_plugin.storage.repair import remove_unfinished
from installer_plugin.storage.scratch import remove_stale, scratch_directory
from installer_plugin.storage.space import (
    MissingLayers,
    choose_scratch,
    free_room,
    is_full,
    layers_to_copy,
    room_hint,
    scratch_need,
)
from installer_plugin.storage.target import TargetStore, finish, prepare

STAGE = "copy"
POLL_SECONDS = 0.5
"""How often progress is read off the target's free space; the tools report none themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """How to copy."""

    selected: tuple[Selected, ...]
    """The images, each with its engine."""
    scratch: tuple[Path, ...]
    """Places for temporary files, the preferred one first."""


def copy(
    target: TargetStore, options: CopyOptions, events: Events, runner: Runner
) -> tuple[CopiedImage, ...]:
    """Copy every selected image into the target store and flush it to the disk.

    An image that is there already is only given its names. Raises CopyError; what was complete by
    then stays, so that a second run goes on from there.
    """
    try:
        prepare(target)
        remove_unfinished(target.graph_root)
        missing = layers_to_copy([each.image for each in options.selected], target)
        copied = _copy_all(target, options, _Session(missing, events))
        finish(target, runner)
    except OSError as error:
        raise _disk_error(error, (target.physical_root,)) from error
    except DataError as error:
        raise CopyError(error.problem()) from error
    except CommandError as error:
        raise CopyError(error.problem(str(target.graph_root))) from error
    return copied


@dataclass(frozen=True, slots=True)
class _Session:
    """What one run of the stage shares between its images."""

    missing: MissingLayers
    events: Events


def _copy_all(
    target: TargetStore, options: CopyOptions, session: _Session
) -> tuple[CopiedImage, ...]:
    there = set(_images_present(target))
    copied = []
    for each in options.selected:
        image, engine = each.image, each.engine
        already_there = image.image_id in there
        note = "already there" if already_there else f"copying {iec(image.size)} with {engine.name}"
        session.events.step(STAGE, f"{image.bound.reference}: {note}")
        if not already_there:
            _copy_one(image, engine, target, (options.scratch, session))
        _complete(image, target)
        there.add(image.image_id)
        copied.append(
            CopiedImage(
                resolved=image,
                engine=engine.name,
                already_there=already_there,
                refusal=str(each.refusal or ""),
            )
        )
    return tuple(copied)


def _images_present(target: TargetStore) -> frozenset[ImageId]:
    """IDs of the images whose records and layers are all there, none of them half-written."""
    with GraphRoot.open(target.graph_root) as root:
        records = root.load()
        return frozenset(
            ImageId(image.id)
            for image in records.images
            if not any(layer.incomplete for layer in records.chain(image.layer))
        )


def _copy_one(
    image: ResolvedImage,
    engine: Engine,
    target: TargetStore,
    surroundings: tuple[Sequence[Path], _Session],
) -> None:
    places, session = surroundings
    if engine.stages_on_target:
        places = (target.bootc_dir,)
    for parent in places:
        remove_stale(parent)
    need = 0 if engine.stages_on_target else scratch_need(session.missing)
    place = choose_scratch(places, need)
    if place is None:
        raise DataError(
            "scratch directory",
            f"no room left in {', '.join(map(str, places))}",
            hint="name a roomy directory with --scratch",
        )
    size = sum(layer.size for owner, layer in session.missing.values() if owner is image)
    written = (target.physical_root, place)
    try:
        with scratch_directory(place) as scratch, _watched(image, size, target, session.events):
            engine.copy(image, target.graph_root, scratch)
    except CommandError as error:
        raise CopyError(_failed(image, error, written)) from error
    except OSError as error:
        raise _disk_error(error, written) from error


def _complete(image: ResolvedImage, target: TargetStore) -> None:
    """Give the image its names; manifests that the tool dropped come from the source's records."""
    manifests: Manifests = {}
    if image.source.kind is SourceKind.CONTAINERS_STORAGE:
        manifests = stored_manifests(image.source)
    completion = Completion(
        image_id=image.image_id,
        names=image.names,
        digest=image.digest if image.manifest_digests else None,
        manifests=manifests,
    )
    complete_image(target.graph_root, completion)


@contextmanager
def _watched(
    image: ResolvedImage, size: int, target: TargetStore, events: Events
) -> Iterator[None]:
    """Report progress while the image is copied: what the target's file system has grown by.

    The target is being installed and has no other writer; the figure is for eyes only.
    """
    before = free_room(target.graph_root).bytes
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            grown = max(before - free_room(target.graph_root).bytes, 0)
            events.progress(STAGE, image.bound.reference, min(grown, size - 1), size)

    watcher = threading.Thread(target=watch, name="copy-progress", daemon=True)
    if size > 0:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if size > 0:
            watcher.join()
    if size > 0:
        events.progress(STAGE, image.bound.reference, size, size)


def _failed(image: ResolvedImage, error: CommandError, written: Sequence[Path]) -> Problem:
    full = os.strerror(errno.ENOSPC).lower() in error.stderr.lower()
    hint = room_hint(*written) if full else "run the copy again"
    return error.problem(image.bound.reference, hint=hint)


def _disk_error(error: OSError, written: Sequence[Path]) -> CopyError:
    look = "look at the target's file system (df, dmesg) and run the copy again"
    return CopyError(
        Problem(
            subject=str(error.filename or written[0]),
            message=f"cannot be written: {error.strerror}",
            hint=room_hint(*written) if is_full(error) else look,
        )
    )
