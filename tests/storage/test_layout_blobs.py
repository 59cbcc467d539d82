"""A layout whose layers are not those of its config is known before anything is copied."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damaged", [False, True], ids=["wrong-config", "other-content"])
def test_layer_that_is_not_the_configs_is_known_before_copying(
    packed: bool, damaged: bool, lab: Lab
) -> None:
    layout = lab.directory / "layout"
    blob = _layout(layout, packed=packed, diff_id=RIGHT if damaged else WRONG)
    if damaged:
        content = blob.read_bytes()
        blob.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    done = lab.run("copy", lab.root(NAME), lab.target, "--store", f"oci:{layout}", ok=4)
    assert f"error: {blob}" in done.stderr
    assert list(lab.target.iterdir()) == []


@pytest.mark.parametrize("packed", [False, True])
def test_layout_that_is_right_passes(packed: bool, lab: Lab) -> None:
    layout = lab.directory / "layout"
    _layout(layout, packed=packed, diff_id=RIGHT)
    lab.run("check", lab.root(NAME), "--store", f"oci:{layout}")
