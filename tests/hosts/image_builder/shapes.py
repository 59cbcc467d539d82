"""Manifests: those that image-builder made, other shapes made of them, and osbuild's rules for them."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

MANIFESTS = Path(__file__).with_name("manifests")
"""Made by image-builder (November 2026) for an image localhost/ob-real:2."""
INSTALL = "org.osbuild.bootc.install-to-filesystem"
DEPLOY = "org.osbuild.container-deploy"

Json = dict[str, Any]


def made(name: str) -> Json:
    """One of image-builder's own."""
    value = json.loads((MANIFESTS / f"{name}.json").read_bytes())
    assert isinstance(value, dict)
    return value


def content(manifest: Json, indent: int | None = 4) -> bytes:
    """A manifest as a file."""
    return json.dumps(manifest, indent=indent).encode()


def pipeline(manifest: Json, name: str) -> Json:
    (found,) = [each for each in manifest["pipelines"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def stage(manifest: Json, kind: str, name: str = "image") -> Json:
    (found,) = [each for each in pipeline(manifest, name)["stages"] if each["type"] == kind]
    assert isinstance(found, dict)
    return found


def types(manifest: Json, name: str = "image") -> list[str]:
    return [each["type"] for each in pipeline(manifest, name)["stages"]]


def lvm() -> Json:
    """The root on a logical volume, as image-builder has it with a blueprint of LVM."""
    manifest = made("raw")
    install = stage(manifest, INSTALL)
    install["devices"]["rootlv"] = {
        "type": "org.osbuild.lvm2.lv",
        "parent": "disk",
        "options": {"volume": "rootlv", "vg_partnum": 4},
    }
    install["mounts"][0] |= {"source": "rootlv"}
    del install["mounts"][0]["partition"]
    return manifest


def btrfs() -> Json:
    """The root in a subvolume, another one beside it."""
    manifest = made("raw")
    install = stage(manifest, INSTALL)
    root = {"type": "org.osbuild.btrfs", "source": "disk", "partition": 4}
    install["mounts"][:1] = [
        {"name": "-", **root, "target": "/", "options": {"subvol": "root"}},
        {"name": "var", **root, "target": "/var", "options": {"subvol": "var"}},
    ]
    return manifest


def several_disks() -> Json:
    """Two pipelines that install, one build root."""
    manifest = made("raw")
    second = deepcopy(pipeline(manifest, "image"))
    second["name"] = "image-two"
    manifest["pipelines"].insert(2, second)
    return manifest


def two_builds() -> Json:
    """Two pipelines that install, each with a build root of its own."""
    manifest = several_disks()
    second = deepcopy(pipeline(manifest, "build"))
    second["name"] = "build-two"
    manifest["pipelines"].insert(1, second)
    pipeline(manifest, "image-two")["build"] = "name:build-two"
    return manifest


def composefs() -> Json:
    manifest = made("raw")
    stage(manifest, INSTALL)["options"]["composefs"] = True
    return manifest


def pulled() -> Json:
    """With --bootc-pull-container: from osbuild's own cache."""
    manifest = made("raw")
    images = manifest["sources"].pop("org.osbuild.containers-storage")["items"]
    item = {"image": {"name": "localhost/ob-real", "digest": "sha256:" + "d" * 64}}
    manifest["sources"]["org.osbuild.skopeo"] = {"items": dict.fromkeys(images, item)}
    for each in (stage(manifest, INSTALL), stage(manifest, DEPLOY, "build")):
        each["inputs"]["images"]["type"] = "org.osbuild.containers"
    return manifest


def unknown_stage() -> Json:
    """A stage of somebody else's right behind bootc's."""
    manifest = made("raw")
    stages = pipeline(manifest, "image")["stages"]
    stages.insert(stages.index(stage(manifest, INSTALL)) + 1, {"type": "org.example.touch"})
    return manifest


SHAPES = {
    "raw": made("raw"),
    "raw-build-ref": made("raw-build-ref"),
    "lvm": lvm(),
    "btrfs": btrfs(),
    "several-disks": several_disks(),
    "two-builds": two_builds(),
    "composefs": composefs(),
    "pulled": pulled(),
    "unknown-stage": unknown_stage(),
}

# The rules of osbuild's schema for manifests of version 2, as its documentation describes them.
_KEYS = {
    "manifest": {"version", "pipelines", "sources", "metadata"},
    "pipeline": {"name", "build", "runner", "source-epoch", "stages"},
    "stage": {"type", "devices", "inputs", "mounts", "options"},
    "input": {"type", "origin", "references", "options"},
    "device": {"type", "parent", "options"},
    "mount": {"name", "type", "source", "target", "partition", "options"},
    "source": {"items", "options"},
}


def broken_rules(manifest: Json) -> Iterator[str]:
    """Every rule that the manifest breaks."""
    yield from _foreign("manifest", manifest)
    for each in manifest["sources"].values():
        yield from _foreign("source", each)
    for place in manifest["pipelines"]:
        yield from _foreign("pipeline", place)
        for each in place.get("stages", ()):
            yield from _foreign("stage", each)
            yield from _of_stage(each, manifest)


def _of_stage(each: Json, manifest: Json) -> Iterator[str]:
    for device in each.get("devices", {}).values():
        yield from _foreign("device", device)
        if (parent := device.get("parent")) and parent not in each["devices"]:
            yield f"{each['type']}: no device {parent}"
    names = [mount["name"] for mount in each.get("mounts", ())]
    if len(set(names)) != len(names):
        yield f"{each['type']}: two mounts of one name"
    for mount in each.get("mounts", ()):
        yield from _foreign("mount", mount)
        if (source := mount.get("source")) and source not in each["devices"]:
            yield f"{each['type']}: no device {source}"
    for each_input in each.get("inputs", {}).values():
        yield from _foreign("input", each_input)
        if each_input["origin"] == "org.osbuild.source":
            yield from _unknown_items(each_input, manifest)


def _unknown_items(each: Json, manifest: Json) -> Iterator[str]:
    """Each reference of an input is an item of a source that makes such content."""
    kinds = {
        "org.osbuild.containers-storage": ("org.osbuild.containers-storage",),
        "org.osbuild.containers": ("org.osbuild.skopeo",),
        "org.osbuild.files": ("org.osbuild.inline", "org.osbuild.curl"),
    }[each["type"]]
    items = {key for kind in kinds for key in manifest["sources"].get(kind, {"items": ()})["items"]}
    for reference in each["references"]:
        key = reference["id"] if isinstance(reference, dict) else reference
        if key not in items:
            yield f"{each['type']}: {key} is in no source"


def _foreign(kind: str, value: Json) -> Iterator[str]:
    yield from (f"{kind}: key {key}" for key in value.keys() - _KEYS[kind])
