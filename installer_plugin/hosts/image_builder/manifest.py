"""What an osbuild manifest (version 2) installs, read strictly: unknown shapes are errors (pure).

Sources: osbuild ``schemas/osbuild2.json`` and the ``.meta.json`` of the stages named here; what
image-builder makes, ``pkg/manifest/raw_bootc.go``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from installer_plugin.errors import ConfigError, Problem
from installer_plugin.hosts.image_builder.json_text import Node, parse_json
from installer_plugin.model import ImageId, parse_image_id

INSTALL = "org.osbuild.bootc.install-to-filesystem"
DEPLOY = "org.osbuild.container-deploy"
SKOPEO = "org.osbuild.skopeo"
STAGE = "org.bootc-bound-images.install"
CONTENT, LATER = "content", "later"
"""Option of our stage, and its value where the content is read from the finished disk, not by the stage."""
STORAGE = "org.osbuild.containers-storage"
CONTAINERS = "org.osbuild.containers"
"""Inputs of images: from this machine's store, and from osbuild's own cache."""
DECLARATIONS = "/usr/lib/bootc/bound-images.d"
TARGET_STORE = "/ostree/bootc/storage"
SIZE_LIMIT = 32 << 20
"""Bytes of a manifest; image-builder's have tens to hundreds of kilobytes."""


@dataclass(frozen=True, slots=True)
class OsImage:
    """A container image that a manifest names."""

    id: ImageId
    name: str
    """What the manifest calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A pipeline in the manifest."""

    name: str
    node: Node
    stages: Sequence[Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """One stage that installs an OS image to a disk."""

    pipeline: Place
    index: int
    """Number of the stage in its pipeline."""
    image: OsImage
    build: Place
    """The pipeline in whose tree bootc runs: it is ``/`` for bootc, where it reads the declarations."""
    deploys: Sequence[Node]
    """Stages of *build* that put a container into it."""
    build_image: OsImage
    """What the last of them puts there."""
    root: Node
    """The mount of the target's root."""
    composefs: bool

    @property
    def stage(self) -> Node:
        """The install stage itself."""
        return self.pipeline.stages[self.index]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest with what it installs."""

    text: str
    node: Node
    subject: str
    """What it is called in errors."""
    installs: tuple[Install, ...]
    """None where it makes no disk of a bootc image."""
    places: tuple[Place, ...]

    @property
    def images(self) -> tuple[OsImage, ...]:
        """The OS images that are installed, each once."""
        return tuple(dict.fromkeys(install.image for install in self.installs))


def read_manifest(content: bytes, subject: str) -> Manifest:
    """Take a manifest apart; raises ConfigError that says what was looked for, and where."""
    if len(content) > SIZE_LIMIT:
        message = f"has more than {SIZE_LIMIT} bytes, expected an osbuild manifest"
        raise _wrong(subject, message)
    try:
        text = content.decode()
        node = parse_json(text)
    except ValueError as error:
        raise _wrong(subject, f"is not JSON ({error}), expected an osbuild manifest") from error
    version = node.get("version")
    if version is None or version.text != "2":
        raise _wrong(subject, 'has no "version": "2", expected an osbuild manifest of that version')
    places = _places(node, subject)
    _require_untouched(places, subject)
    installs = tuple(_installs(places, subject))
    return Manifest(text, node, subject, installs, tuple(places.values()))


def require_installs(manifest: Manifest) -> None:
    """Raise ConfigError where the manifest makes no disk of a bootc image."""
    if not manifest.installs:
        raise _wrong(
            manifest.subject,
            f"has no stage {INSTALL}: it makes no disk of a bootc image",
            hint="for types that make no disk (such as installer ISOs) use image-builder itself",
        )


def _wrong(subject: str, message: str, where: str = "", hint: str = "") -> ConfigError:
    hint = hint or "see 'image-builder manifest --help' for how manifests are made"
    return ConfigError(Problem(subject=subject, message=message, where=where, hint=hint))


def _places(node: Node, subject: str) -> dict[str, Place]:
    pipelines = node.get("pipelines")
    if pipelines is None or pipelines.items is None:
        raise _wrong(subject, "has no array 'pipelines', expected one")
    found: dict[str, Place] = {}
    for number, each in enumerate(pipelines.items):
        name, stages = each.get("name"), each.get("stages")
        if each.members is None or (stages is not None and stages.items is None):
            raise _wrong(subject, f"pipelines[{number}] is not a pipeline with an array 'stages'")
        shown = (name.text if name else None) or f"pipelines[{number}]"
        if shown in found:
            message = f"has two pipelines {shown!r}: which of them a build refers to is unknown"
            raise _wrong(subject, message, hint="give each pipeline a name of its own")
        items = (stages.items or []) if stages else []
        for index, stage in enumerate(items):
            if stage.get_text("type") is None:
                raise _wrong(subject, f"stage {index} has no type", where=f"pipeline {shown}")
        found[shown] = Place(name=shown, node=each, stages=tuple(items))
    return found


def _require_untouched(places: dict[str, Place], subject: str) -> None:
    """Raise ConfigError for a manifest that was rewritten before."""
    for place in places.values():
        for stage in place.stages:
            if stage.get_text("type") == STAGE or DECLARATIONS in _excluded(stage):
                message = "was rewritten already, expected it as image-builder has made it"
                hint = "use it as it is, or make it again with 'image-builder manifest'"
                raise _wrong(subject, message, where=f"pipeline {place.name}", hint=hint)


def _excluded(stage: Node) -> tuple[str, ...]:
    exclude = stage.get("options", "exclude") if stage.get_text("type") == DEPLOY else None
    items = (exclude.items or []) if exclude else []
    return tuple(f"/{(item.text or '').strip('/')}" for item in items)


def _installs(places: dict[str, Place], subject: str) -> Iterator[Install]:
    for place in places.values():
        for index, stage in enumerate(place.stages):
            if stage.get_text("type") == INSTALL:
                yield _install(places, place, index, subject)


def _install(places: dict[str, Place], place: Place, index: int, subject: str) -> Install:
    where = f"pipeline {place.name}, stage {INSTALL}"
    stage = place.stages[index]
    for other in place.stages:
        path = other.get("options", "destination", "storage-path")
        if path and (path.text or "").rstrip("/") == TARGET_STORE:
            message = f"a stage {other.get_text('type')} copies images to {TARGET_STORE} already"
            hint = "take that stage out of the manifest: ours brings what the image declares"
            raise _wrong(subject, message, where=where, hint=hint)
    build = _build(places, place, subject)
    deploys = tuple(each for each in build.stages if each.get_text("type") == DEPLOY)
    if not deploys:
        message = f"its build pipeline {build.name!r} has no stage {DEPLOY}, expected one"
        raise _wrong(subject, message, where=where)
    composefs = stage.get("options", "composefs")
    return Install(
        pipeline=place,
        index=index,
        image=_image(stage, subject, where),
        build=build,
        deploys=deploys,
        build_image=_image(deploys[-1], subject, f"pipeline {build.name}, stage {DEPLOY}"),
        root=_root(stage, subject, where),
        composefs=composefs is not None and composefs.scalar is True,
    )


def _build(places: dict[str, Place], place: Place, subject: str) -> Place:
    build = place.node.get("build")
    name = (build.text or "").removeprefix("name:") if build else ""
    if not build or not (build.text or "").startswith("name:") or name not in places:
        message = f"its build is {build.text if build else None!r}, expected 'name:' and a pipeline"
        raise _wrong(subject, message, where=f"pipeline {place.name}")
    return places[name]


def _image(stage: Node, subject: str, where: str) -> OsImage:
    """The one image of a stage's input ``images``."""
    kind, references = (
        stage.get("inputs", "images", "type"),
        stage.get("inputs", "images", "references"),
    )
    if kind is None or kind.text not in (STORAGE, CONTAINERS):
        message = f"its input 'images' is not of type {STORAGE} or {CONTAINERS}"
        raise _wrong(subject, message, where=where)
    found = tuple(_references(references))
    if len(found) != 1 or found[0][0] is None:
        raise _wrong(subject, f"its input has {len(found)} images, expected one", where=where)
    ((reference, name),) = found
    try:
        return OsImage(
            parse_image_id((reference or "").removeprefix("sha256:")), name or str(reference)
        )
    except ValueError as error:
        raise _wrong(subject, str(error), where=where) from error


def _references(node: Node | None) -> Iterator[tuple[str | None, str | None]]:
    """ID and name of each reference, in all forms that osbuild takes."""
    if node is None:
        return
    for key, value in (node.members or {}).items():
        name = value.get("name")
        yield key, name.text if name else None
    for item in node.items or ():
        reference, name = item.get("id"), item.get("options", "name")
        yield reference.text if reference else item.text, name.text if name else None


def _root(stage: Node, subject: str, where: str) -> Node:
    mounts, devices = stage.get("mounts"), stage.get("devices")
    items = (mounts.items or []) if mounts else []
    roots = [each for each in items if (target := each.get("target")) and target.text == "/"]
    if len(roots) != 1:
        message = f"{len(roots)} of its {len(items)} mounts have the target '/', expected one"
        raise _wrong(subject, message, where=where)
    source = roots[0].get("source")
    if devices is None or source is None or devices.get(source.text or "") is None:
        message = "the mount of '/' names none of the stage's devices as its source"
        raise _wrong(subject, message, where=where)
    return roots[0]
