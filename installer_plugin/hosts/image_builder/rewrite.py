"""Rewrites an osbuild manifest so that the disks it makes carry their bound images (pure).

bootc reads the declarations of ``/``, which is the tree of the build pipeline, and can copy nothing
there: osbuild shows the store read-only (osbuild/image-builder#2681). So bootc must find none, and a
stage behind its own brings them. One without the other makes disks that lack images, or no disks.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from installer_plugin.hosts.image_builder.json_text import (
    Edit,
    Node,
    replaced,
    spliced,
    with_items,
    with_members,
)
from installer_plugin.hosts.image_builder.manifest import (
    CONTENT,
    DECLARATIONS,
    LATER,
    SKOPEO,
    STAGE,
    STORAGE,
    TARGET_STORE,
    Install,
    Manifest,
    require_installs,
)
from installer_plugin.model import ImageId, ManifestDigest, ResolvedImage

SOURCE = "org.osbuild.source"
PROGRAM_INPUT = "program"
COMPOSEFS_STORE = "/composefs/bootc/storage"


class Mode(StrEnum):
    """How the bound images come onto the disk."""

    STAGE = "stage"
    """A stage of ours copies them while osbuild builds the disk."""
    STOCK = "stock"
    """osbuild's own stage copies them; proven on the finished disk."""
    AFTER = "after"
    """osbuild's disk has none; they are copied into it when it is finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A bound image as a manifest has to name it."""

    reference: str
    """The literal ``Image=`` string."""
    id: ImageId
    digest: ManifestDigest

    @classmethod
    def of(cls, image: ResolvedImage) -> Wanted:
        """The image as a manifest names it."""
        return cls(reference=image.bound.reference, id=image.image_id, digest=image.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What an OS image brings with it."""

    images: tuple[Wanted, ...]
    """None where it declares none."""
    created: int
    """When the OS image was made, seconds since 1970: the time in receipts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineProgram:
    """Our program in one file, to be carried by the manifest itself."""

    checksum: str
    """``sha256:`` and hex digits."""
    encoding: str
    """As the source org.osbuild.inline calls it."""
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a manifest is to be rewritten."""

    payloads: Mapping[ImageId, Payload]
    """By the ID of the OS image."""
    mode: Mode = Mode.STAGE
    program: InlineProgram | None = None
    """None where osbuild's library directory has it."""
    content_later: bool = False
    """Whether somebody reads the content of all images from the finished disk: our stage need not."""
    program_version: str = ""
    """Which program the stage is to run: another one is another result for osbuild's cache."""


def rewrite(manifest: Manifest, plan: Plan) -> str:
    """The manifest's new text; every other byte stays as it was.

    An OS image that declares none changes nothing, but for the declarations of another build
    container, which bootc would take for its own. Raises ConfigError for one without an install stage,
    and KeyError for an OS image that is not in the plan.
    """
    require_installs(manifest)
    return spliced(manifest.text, tuple(_edits(manifest, plan)))


def difference(before: Manifest, after: str) -> str:
    """What changes, as a unified diff; "" for nothing.

    Of a manifest that is one line, such as those that are kept beside disks, both are laid out first.
    """
    text, subject = before.text, before.subject
    if len(text.splitlines()) == 1:
        text, after, subject = _laid_out(text), _laid_out(after), f"{subject} (laid out)"
    lines = difflib.unified_diff(
        text.splitlines(keepends=True),
        after.splitlines(keepends=True),
        subject,
        f"{subject} (rewritten)",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _laid_out(text: str) -> str:
    return json.dumps(json.loads(text), indent=4) + "\n"


def _edits(manifest: Manifest, plan: Plan) -> Iterator[Edit]:
    text = manifest.text
    sources: dict[str, Wanted] = {}
    excluded: set[int] = set()
    for install in manifest.installs:
        payload = plan.payloads[install.image.id]
        if payload.images or install.build_image.id != install.image.id:
            for deploy in install.deploys:
                if deploy.start not in excluded:
                    excluded.add(deploy.start)
                    yield _excluding(text, deploy)
        if payload.images and plan.mode is not Mode.AFTER:
            sources |= {f"sha256:{image.id}": image for image in payload.images}
            array = install.pipeline.node.get("stages")
            stages = tuple(_stages(install, payload, plan))
            yield with_items(text, _present(array), stages, after=install.index)
    if sources:
        yield from _source_edits(manifest, sources, plan)


def _excluding(text: str, deploy: Node) -> Edit:
    """Leave the declarations out of what a stage puts into the build root."""
    options, exclude = deploy.get("options"), deploy.get("options", "exclude")
    if options is None:
        return with_members(text, deploy, {"options": {"exclude": [DECLARATIONS]}})
    if exclude is None:
        return with_members(text, options, {"exclude": [DECLARATIONS]})
    return with_items(text, exclude, [DECLARATIONS])


def _stages(install: Install, payload: Payload, plan: Plan) -> Iterator[Mapping[str, object]]:
    place = {
        "devices": _plain(_present(install.stage.get("devices"))),
        "mounts": [_plain(install.root)],
    }
    if plan.mode is Mode.STOCK:
        for batch in _batches(payload.images):
            yield _stock_stage(install, batch, place)
        return
    yield _own_stage(install, payload, plan) | place


def _own_stage(install: Install, payload: Payload, plan: Plan) -> dict[str, object]:
    inputs: dict[str, object] = {"images": _images_input(payload.images)}
    if plan.program is not None:
        inputs[PROGRAM_INPUT] = {
            "type": "org.osbuild.files",
            "origin": SOURCE,
            "references": [{"id": plan.program.checksum}],
        }
    images = [
        {"reference": each.reference, "id": f"sha256:{each.id}", "digest": each.digest}
        for each in payload.images
    ]
    options: dict[str, object] = {
        "source": {"reference": install.image.name, "id": f"sha256:{install.image.id}"},
        "images": images,
        "created": payload.created,
        "program": plan.program_version,
    }
    if plan.content_later:
        options[CONTENT] = LATER
    return {"type": STAGE, "inputs": inputs, "options": options}


def _batches(images: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    """Images in as few groups as there are names of one image: a stage takes an image under one name."""
    left = list(images)
    while left:
        batch = list({image.id: image for image in reversed(left)}.values())[::-1]
        yield batch
        left = [image for image in left if image not in batch]


def _stock_stage(
    install: Install, images: Sequence[Wanted], place: Mapping[str, object]
) -> Mapping[str, object]:
    store = COMPOSEFS_STORE if install.composefs else TARGET_STORE
    # The stage writes below its tree, which is the target's root by this mount.
    bind = {
        "name": "bound-images-to-tree",
        "type": "org.osbuild.bind",
        "target": "tree://",
        "options": {"source": "mount://"},
    }
    return {
        "type": SKOPEO,
        "inputs": {"images": _images_input(images)},
        "options": {
            "destination": {"type": "containers-storage", "storage-path": store},
            "remove-signatures": True,
        },
        "devices": place["devices"],
        "mounts": [_plain(install.root), bind],
    }


def _images_input(images: Sequence[Wanted]) -> Mapping[str, object]:
    references: dict[str, object] = {}
    for image in images:
        references.setdefault(f"sha256:{image.id}", {"name": image.reference})
    return {"type": STORAGE, "origin": SOURCE, "references": references}


def _source_edits(manifest: Manifest, images: Mapping[str, Wanted], plan: Plan) -> Iterator[Edit]:
    text, sources = manifest.text, manifest.node.get("sources")
    wanted: dict[str, dict[str, object]] = {STORAGE: {image: {} for image in images}}
    if plan.program is not None and plan.mode is Mode.STAGE:
        content = {"encoding": plan.program.encoding, "data": plan.program.data}
        wanted["org.osbuild.inline"] = {plan.program.checksum: content}
    if sources is None:
        whole = {name: {"items": items} for name, items in wanted.items()}
        yield with_members(text, manifest.node, {"sources": whole})
        return
    absent = {}
    for name, items in wanted.items():
        there = sources.get(name, "items")
        if there is None:
            absent[name] = {"items": items}
        elif new := {key: value for key, value in items.items() if there.get(key) is None}:
            yield with_members(text, there, new)
    if absent:
        yield with_members(text, sources, absent)


def _plain(node: Node) -> object:
    """A node as the values it is made of."""
    if node.members is not None:
        return {key: _plain(value) for key, value in node.members.items()}
    if node.items is not None:
        return [_plain(item) for item in node.items]
    return node.scalar


def _present(node: Node | None) -> Node:
    if node is None:
        raise RuntimeError("read_manifest has seen it")
    return node


def grown(node: Node, value: int) -> Edit:
    """A size that is raised, in the form it had: osbuild takes some as strings."""
    return replaced(node, str(value) if isinstance(node.scalar, str) else value)
