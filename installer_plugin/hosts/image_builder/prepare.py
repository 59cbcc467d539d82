"""From a manifest to the one that is built: everything looked at, all problems at once, then rewritten."""

from __future__ import annotations

import base64
import hashlib
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from installer_plugin import __version__
from installer_plugin.errors import BoundImagesError, PreflightError, joined
from installer_plugin.events import Events
from installer_plugin.hosts.image_builder.disk_room import room_problems
from installer_plugin.hosts.image_builder.manifest import (
    Manifest,
    read_manifest,
    require_installs,
)
from installer_plugin.hosts.image_builder.mode import Choice, When, choose_mode, exports_of
from installer_plugin.hosts.image_builder.os_content import OsImageContent
from installer_plugin.hosts.image_builder.rewrite import InlineProgram, Plan, rewrite
from installer_plugin.model import ImageId, ResolvedImage
from installer_plugin.request import Work

STAGE = "manifest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a manifest is to be rewritten."""

    when: When = When.AUTO
    larger: str = "raise the sizes in the manifest: its disk to {size} bytes, its root to {root}"
    """What makes the root larger, with ``{size}`` for bytes of the disk and ``{root}`` of it."""
    exports: Sequence[str] = ()
    """Pipelines whose results are wanted."""
    reads_exports: bool = False
    """Whether somebody reads the content of all images from the results, as far as they are disks."""
    known: Mapping[ImageId, OsImageContent] = field(default_factory=dict)
    """OS images that were looked at a moment ago."""
    program: bytes = b""
    """Our single file, to be carried by the manifest; empty where osbuild's library has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A manifest that makes disks with their bound images."""

    before: Manifest
    text: str
    choice: Choice
    contents: dict[ImageId, OsImageContent]
    content_later: bool
    """Whether the build leaves the content of all images to who reads the results."""

    @property
    def images(self) -> tuple[ResolvedImage, ...]:
        """Bound images of all OS images in it."""
        return tuple(image for content in self.contents.values() for image in content.images)


def prepare(content: bytes, subject: str, wish: Wish, work: Work) -> Prepared:
    """Read, check and rewrite; raises ConfigError, SourceImageError and PreflightError."""
    manifest = read_manifest(content, subject)
    require_installs(manifest)
    for image in manifest.images:
        work.events.step(STAGE, f"it installs {image.name} ({image.id[:12]})")
    quiet = work.telling(Events())
    contents = _contents(manifest, wish.known, quiet)
    images = tuple(image for each in contents.values() for image in each.images)
    python = all(
        _has_new_python(install.build_image.id, contents, quiet) for install in manifest.installs
    )
    any_room = work.request.no_space_check
    problems = () if any_room else tuple(room_problems(manifest, contents, wish.larger))
    errors: list[BoundImagesError] = [PreflightError(*problems)] if problems else []
    exports = exports_of(manifest, wish.exports)
    try:
        choice = choose_mode(wish.when, images, new_python=python, exports=exports)
    except PreflightError as error:
        raise joined([*errors, error]) from error
    if errors:
        raise joined(errors)
    if images:
        work.events.step(STAGE, f"mode: {choice.mode} ({choice.reason})")
    payloads = {image: each.payload for image, each in contents.items()}
    plan = Plan(
        payloads=payloads,
        mode=choice.mode,
        content_later=wish.reads_exports and exports.all_disks,
        program=inline_program(wish.program) if wish.program else None,
        program_version=__version__,
    )
    return Prepared(
        before=manifest,
        text=rewrite(manifest, plan),
        choice=choice,
        contents=contents,
        content_later=plan.content_later,
    )


def _has_new_python(image: ImageId, known: Mapping[ImageId, OsImageContent], work: Work) -> bool:
    if image in known:
        return known[image].new_python
    from installer_plugin.hosts.image_builder.os_image import has_new_python  # noqa: PLC0415 - see below

    return has_new_python(image, work)


def _contents(
    manifest: Manifest, known: Mapping[ImageId, OsImageContent], work: Work
) -> dict[ImageId, OsImageContent]:
    found: dict[ImageId, OsImageContent] = {}
    errors: list[BoundImagesError] = []
    for image in manifest.images:
        try:
            found[image.id] = known.get(image.id) or _read(image.id, work)
        except BoundImagesError as error:
            errors.append(error)
    if errors:
        raise joined(errors)
    return found


def _read(image: ImageId, work: Work) -> OsImageContent:
    # Most of the program is loaded for it, and most builds have done it before.
    from installer_plugin.hosts.image_builder.os_image import read_os_image  # noqa: PLC0415

    return read_os_image(image, work)


def inline_program(program: bytes) -> InlineProgram:
    """Our program as the source org.osbuild.inline carries it; the same bytes for the same program."""
    packed = lzma.compress(program, preset=9)
    return InlineProgram(
        checksum="sha256:" + hashlib.sha256(program).hexdigest(),
        encoding="lzma+base64",
        data=base64.b64encode(packed).decode(),
    )
