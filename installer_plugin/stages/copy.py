"""Stage copy: resolved images -> copied images, in a target store that is whole when it returns."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from installer_plugin.errors import BoundImagesError, CopyError, DataError, Problem, is_full
from installer_plugin.events import Events, iec
from installer_plugin.files.scratch import remove_stale, scratch_directory
from installer_plugin.model import LAYOUTS, CopiedImage, ImageId, ResolvedImage, SourceKind
from installer_plugin.process.foreign_texts import says_full
from installer_plugin.process.runner import CommandError, Runner
from installer_plugin.storage.base import Manifests
from installer_plugin.storage.engine.base import Engine, Place
from installer_plugin.storage.engine.select import Selected
from installer_plugin.storage.engine.space import (
    MissingLayers,
    choose_scratch,
    layers_to_copy,
    need_of,
    room_hint,
    scratch_need,
)
from installer_plugin.storage.layer.read_back import ReadBack
from installer_plugin.storage.source.local import stored_manifests
from installer_plugin.storage.store.complete_image import (
    Completion,
    are_complete,
    complete_images,
)
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.repair import remove_unfinished
from installer_plugin.storage.store.rollback import remember, roll_back
from installer_plugin.storage.store.target_store import TargetStore, finish, prepare

STAGE = "copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """How to copy."""

    selected: tuple[Selected, ...]
    """The images, each with its engine."""
    scratch: tuple[Path, ...]
    """Places for temporary files, the preferred one first."""
    read_back: bool = False
    """Whether to prove layers while others are copied; for who verifies next, in the same process."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What is in the target store now."""

    images: tuple[CopiedImage, ...]
    read_back: tuple[ReadBack, ...]
    """The layers that are proven already."""


def copy(target: TargetStore, options: CopyOptions, events: Events, runner: Runner) -> Copied:
    """Copy every selected image into the target store and flush it to the disk.

    An image that is there already is only given its names. Raises CopyError: a store that held images
    before is then as it was; of another, what was complete stays, and a second run goes on from there.
    """
    with rolled_back_on_failure(target, events):
        return _copy(target, options, events, runner)


def _copy(target: TargetStore, options: CopyOptions, events: Events, runner: Runner) -> Copied:
    try:
        prepare(target)
        remove_unfinished(target.graph_root)
        # Whatever is left to be copied: a run may be killed when it has copied everything.
        for place in (target.bootc_dir, *options.scratch):
            remove_stale(place)
        missing = layers_to_copy([each.image for each in options.selected], target)
        copied = _copy_all(target, options, missing, events)
        finish(target, runner)
    except OSError as error:
        raise _disk_error(error, (target.physical_root,)) from error
    except DataError as error:
        raise CopyError(error.problem()) from error
    except CommandError as error:
        raise CopyError(error.problem(str(target.graph_root))) from error
    return copied


def _copy_all(
    target: TargetStore, options: CopyOptions, missing: MissingLayers, events: Events
) -> Copied:
    there = _images_present(target)
    images = [each.image for each in options.selected]
    # Read while the source is known to have them, and given all at once when everything is there: until
    # then, what had the names before keeps them.
    completions = []
    for image in images:
        if image.image_id in there:
            events.step(STAGE, f"{image.bound.reference}: already there")
            completions.append(_completion(image))
    todo = [each for each in options.selected if each.image.image_id not in there]
    read_back: list[ReadBack] = []
    if todo or not are_complete(target.graph_root, completions):
        remember(target, images)
    for engine in dict.fromkeys(each.engine for each in todo):
        own = [each.image for each in todo if each.engine is engine]
        first = {image.image_id: image for image in reversed(own)}
        batch = _Batch(engine, tuple(reversed(first.values())), missing, events)
        with closing(batch.copied(target, options)) as finished:
            for copied in finished:
                if isinstance(copied, ReadBack):
                    read_back.append(copied)
                else:
                    completions += [
                        _completion(image) for image in own if image.image_id == copied.image_id
                    ]
    complete_images(target.graph_root, completions)
    images_there = tuple(
        CopiedImage(
            resolved=each.image,
            engine=each.engine.name,
            already_there=each.image.image_id in there,
            refusal=str(each.refusal or ""),
        )
        for each in options.selected
    )
    return Copied(images_there, tuple(read_back))


def _images_present(target: TargetStore) -> frozenset[ImageId]:
    """IDs of the images whose records and layers are all there, none of them half-written."""
    with GraphRoot.open(target.graph_root) as root:
        records = root.load()
        return frozenset(
            ImageId(image.id)
            for image in records.images
            if not any(layer.incomplete for layer in records.chain(image.layer))
        )


@dataclass(slots=True)
class _Batch:
    """Images that one engine copies, and how far it is."""

    engine: Engine
    images: tuple[ResolvedImage, ...]
    missing: MissingLayers
    events: Events
    done: dict[ImageId, int] = field(default_factory=dict)
    """Bytes, of images that were begun and are not yet complete."""

    def copied(
        self, target: TargetStore, options: CopyOptions
    ) -> Generator[ResolvedImage | ReadBack]:
        """Copy all; gives each image when all of it is in the store. Raises CopyError."""
        if not self.images:
            return
        scratch_place = self._scratch_place(target, options.scratch)
        written = (target.physical_root, scratch_place)
        try:
            with scratch_directory(scratch_place) as scratch:
                place = Place(target.graph_root, scratch, options.read_back)
                with closing(self.engine.copy_all(self.images, place, self._moved)) as copied:
                    for each in copied:
                        if not isinstance(each, ReadBack):
                            self._is_complete(each)
                        yield each
        except CommandError as error:
            raise CopyError(_failed(self._under_way(), error, written, self._need())) from error
        except OSError as error:
            raise _disk_error(error, written, self._need()) from error

    def _need(self) -> int:
        """Bytes of all that is missing: what was written of it may have been removed again."""
        return need_of(tuple(self.missing.values())).bytes

    def _scratch_place(self, target: TargetStore, places: Sequence[Path]) -> Path:
        if self.engine.stages_on_target:
            places = (target.bootc_dir,)
        need = 0 if self.engine.stages_on_target else scratch_need(self.missing)
        place = choose_scratch(places, need)
        if place is None:
            raise DataError(
                "scratch directory",
                f"no room left in {', '.join(map(str, places))}",
                hint="name a roomy directory with --scratch",
            )
        return place

    def _moved(self, image: ResolvedImage, count: int) -> None:
        """Report progress; the end is told when the image is complete."""
        if image.image_id not in self.done:
            note = f"copying {iec(image.size)} with {self.engine.name}"
            self.events.step(STAGE, f"{image.bound.reference}: {note}")
        done = self.done.setdefault(image.image_id, 0) + count
        self.done[image.image_id] = done
        size = self._size(image)
        if count and size:
            self._progress(image, min(done, size - 1))

    def _is_complete(self, image: ResolvedImage) -> None:
        del self.done[image.image_id]
        size = self._size(image)
        if size:
            self._progress(image, size)

    def _progress(self, image: ResolvedImage, done: int) -> None:
        self.events.progress(STAGE, image.bound.reference, done, self._size(image))

    def _size(self, image: ResolvedImage) -> int:
        """Bytes that are copied for it: of layers that no image before it has."""
        return sum(layer.size for owner, layer in self.missing.values() if owner is image)

    def _under_way(self) -> str:
        return ", ".join(i.bound.reference for i in self.images if i.image_id in self.done)


def _completion(image: ResolvedImage) -> Completion:
    """The image's names, and all its manifests, also those that a tool drops."""
    return Completion(
        image_id=image.image_id,
        names=image.names,
        digest=image.digest if image.manifest_digests else None,
        manifests=_manifests(image),
    )


def _manifests(image: ResolvedImage) -> Manifests:
    """Every manifest that the source knows for the image, read again; raises DataError."""
    if image.source.kind is SourceKind.CONTAINERS_STORAGE:
        return stored_manifests(image.source)
    if image.source.kind in LAYOUTS:
        # Reads layouts and archives, which most sources are not.
        from installer_plugin.storage.source.layout_view import layout_manifests  # noqa: PLC0415

        return layout_manifests(image.source, image.manifest_digests)
    return {}


@contextmanager
def rolled_back_on_failure(target: TargetStore, events: Events) -> Iterator[None]:
    """Bring a store that held images before back to that when the body fails; the error goes on."""
    try:
        yield
    except BoundImagesError:
        try:
            if roll_back(target):
                events.warn(STAGE, f"{target.graph_root} is again as it was before")
        except (DataError, OSError) as error:
            events.warn(
                STAGE, f"{target.graph_root} cannot be brought back to what it was: {error}"
            )
        raise


def _failed(subject: str, error: CommandError, written: Sequence[Path], need: int = 0) -> Problem:
    hint = "mend what the program names, then run the copy again"
    if says_full(error.stderr):
        hint = room_hint(error.stderr, written, need)
    return error.problem(subject, hint=hint)


def _disk_error(error: OSError, written: Sequence[Path], need: int = 0) -> CopyError:
    look = "look at the target's file system (df, dmesg) and run the copy again"
    return CopyError.of(
        str(error.filename or written[0]),
        f"cannot be written: {error.strerror}",
        hint=room_hint(error, written, need) if is_full(error) else look,
    )
