"""A layout whose layers are not those of its config is known before anything is copied."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run
from tests.support.crafted import Entry, layer_tar, write_layout
from tests.support.product import Lab

NAME = "localhost/crafted:1"
LAYER = layer_tar([Entry(name="f", content=b"x")])


def _layout(folder: Path, *, packed: bool, diff_id: str) -> Path:
    """Write a layout of one layer; return the layer's file."""
    write_layout(folder, NAME, [LAYER])
    blobs = folder / "blobs/sha256"

    def load(entry: dict[str, Any]) -> dict[str, Any]:
        value = json.loads((blobs / entry["digest"][7:]).read_text())
        assert isinstance(value, dict)
        return value

    def store(entry: dict[str, Any], content: bytes) -> None:
        name = hashlib.sha256(content).hexdigest()
        (blobs / name).write_bytes(content)
        entry.update(digest=f"sha256:{name}", size=len(content))

    index = json.loads((folder / "index.json").read_text())
    manifest = load(index["manifests"][0])
    config = load(manifest["config"])
    config["rootfs"]["diff_ids"] = [diff_id]
    store(manifest["config"], json.dumps(config).encode())
    if packed:
        store(manifest["layers"][0], gzip.compress(LAYER))
        manifest["layers"][0]["mediaType"] += "+gzip"
    store(index["manifests"][0], json.dumps(manifest).encode())
    (folder / "index.json").write_text(json.dumps(index))
    return blobs / str(manifest["layers"][0]["digest"][7:])


RIGHT = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
WRONG = f"sha256:{'ab' * 32}"


def _flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@dataclass(frozen=True, slots=True)
class Packed:
    """A source of another kind, made of a layout."""

    store: str
    named: str
    """How messages name its layer."""


def _as_layout(layout: Path, blob: Path) -> Packed:
    return Packed(f"oci:{layout}", str(blob))


def _as_archive(layout: Path, blob: Path) -> Packed:
    archive = layout.with_name("archive.tar")
    run(("tar", "-C", layout, "-cf", archive, "."))
    return Packed(f"oci-archive:{archive}", f"{blob.relative_to(layout)} in {archive}")


def _as_directory(layout: Path, blob: Path) -> Packed:
    folder = layout.with_name("directory")
    folder.mkdir()
    index = json.loads((layout / "index.json").read_text())
    blobs = blob.parent
    manifest = blobs / index["manifests"][0]["digest"][7:]
    for file in blobs.iterdir():
        shutil.copy(file, folder / ("manifest.json" if file == manifest else file.name))
    return Packed(f"{NAME}=dir:{folder}", f"{folder}/{blob.name}")


def _as_docker_archive(layout: Path, blob: Path) -> Packed:
    """As `docker save` writes it: config and layer, and a list of them."""
    folder = layout.with_name("docker")
    folder.mkdir()
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads((blob.parent / index["manifests"][0]["digest"][7:]).read_text())
    shutil.copy(blob.parent / manifest["config"]["digest"][7:], folder / "config.json")
    shutil.copy(blob, folder / "layer.tar")
    entry = {"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}
    (folder / "manifest.json").write_text(json.dumps([entry]))
    archive = layout.with_name("docker.tar")
    run(("tar", "-C", folder, "-cf", archive, "config.json", "layer.tar", "manifest.json"))
    return Packed(f"docker-archive:{archive}", str(archive))


KINDS = pytest.mark.parametrize(
    "kind", [_as_layout, _as_archive, _as_directory, _as_docker_archive]
)
Kind = Callable[[Path, Path], Packed]


@KINDS
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damaged", [False, True], ids=["wrong-config", "other-content"])
def test_layer_that_is_not_the_configs_is_known_before_copying(
    kind: Kind, packed: bool, damaged: bool, lab: Lab
) -> None:
    layout = lab.directory / "layout"
    blob = _layout(layout, packed=packed, diff_id=RIGHT if damaged else WRONG)
    if damaged:
        _flip(blob, -5)
    source = kind(layout, blob)
    done = lab.run("copy", lab.root(NAME), lab.target, "--store", source.store, ok=4)
    assert source.named in done.stderr
    assert list(lab.target.iterdir()) == []


@KINDS
@pytest.mark.parametrize("packed", [False, True])
def test_layout_that_is_right_passes(kind: Kind, packed: bool, lab: Lab) -> None:
    layout = lab.directory / "layout"
    source = kind(layout, _layout(layout, packed=packed, diff_id=RIGHT))
    lab.run("check", lab.root(NAME), "--store", source.store)


def test_damage_that_changes_no_content_is_known_before_copying(lab: Lab) -> None:
    """The time in the head of a gzip file: every tool refuses the blob for its digest."""
    layout = lab.directory / "layout"
    blob = _layout(layout, packed=True, diff_id=RIGHT)
    _flip(blob, 4)
    done = lab.run("copy", lab.root(NAME), lab.target, "--store", f"oci:{layout}", ok=4)
    assert f"error: {blob}" in done.stderr
    assert f"the image's manifest has sha256:{blob.name}" in done.stderr
    assert list(lab.target.iterdir()) == []


def test_layer_that_only_tools_unpack_is_held_to_its_digest(lab: Lab) -> None:
    layout, zstd = lab.directory / "layout", lab.directory / "zstd"
    _layout(layout, packed=False, diff_id=RIGHT)
    run(
        ("skopeo", "copy", "--quiet", "--dest-compress-format=zstd", "--dest-compress",
         f"oci:{layout}:{NAME}", f"oci:{zstd}:{NAME}")
    )  # fmt: skip
    lab.run("copy", lab.root(NAME), lab.target, "--store", f"oci:{zstd}")
    blobs = (zstd / "blobs/sha256").iterdir()
    (blob,) = (file for file in blobs if file.read_bytes().startswith(b"\x28\xb5\x2f\xfd"))
    _flip(blob, -1)
    done = lab.run("check", lab.root(NAME), "--store", f"oci:{zstd}", ok=4)
    assert f"error: {blob}" in done.stderr
