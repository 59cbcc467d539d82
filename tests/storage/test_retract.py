"""What verification refutes does not stay on the target, and a second copy heals it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.images import ImageSources
from tests.support.product import STORE, product

SourceRoot = Callable[..., Path]


@pytest.fixture
def source(image_sources: ImageSources, tmp_path: Path) -> Path:
    """A source store of our own, to be damaged and repaired."""
    store = tmp_path / "source"
    run(("cp", "--archive", image_sources.store.root, store))
    return store


def own_file(store: Path, images: ImageSources) -> Path:
    """A regular file with content in the top layer of app_b, which no other image has."""
    records = json.loads((store / "overlay-images/images.json").read_text())
    (top,) = (image["layer"] for image in records if image["id"] == images.app_b.id)
    files = (path for path in (store / f"overlay/{top}/diff").rglob("*") if path.is_file())
    return next(path for path in files if not path.is_symlink() and path.stat().st_size)


def flip(file: Path) -> None:
    """Change a bit, and nothing else that a file's status shows."""
    times = file.stat()
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    run(("touch", "--no-dereference", f"--date=@{times.st_mtime_ns / 1e9:.9f}", file))


def names(target: Path) -> set[str]:
    file = target / STORE / "overlay-images/images.json"
    records = json.loads(file.read_text()) if file.exists() else []
    return {name for image in records for name in image.get("names", [])}


WHO_FINDS_DAMAGE = {"direct": 6, "skopeo": 5}
"""Exit codes: what the direct engine copies is refuted by verification, skopeo refuses to copy it."""


@pytest.mark.parametrize("engine", WHO_FINDS_DAMAGE)
def test_a_refuted_image_is_taken_away_and_healed_by_the_next_copy(
    engine: str,
    source: Path,
    image_sources: ImageSources,
    source_root: SourceRoot,
    tmp_path: Path,
) -> None:
    units = {
        "good.image": f"[Image]\nImage={image_sources.app_a.name}\n",
        "bad.image": f"[Image]\nImage={image_sources.app_b.name}\n",
    }
    target = tmp_path / "target"
    target.mkdir()
    argv = ("copy", source_root(units), target, "--store", source, "--engine", engine)
    file = own_file(source, image_sources)
    flip(file)
    failed = product(*argv, env=image_sources.store.env, ok=(WHO_FINDS_DAMAGE[engine],))
    assert image_sources.app_b.name in failed.stderr
    assert image_sources.app_b.name not in names(target)
    flip(file)
    product(*argv, env=image_sources.store.env)
    product("verify", target, env=image_sources.store.env)
    assert {image_sources.app_a.name, image_sources.app_b.name} <= names(target)


def test_layers_of_images_that_stay_are_kept(
    source: Path, image_sources: ImageSources, source_root: SourceRoot, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    good = source_root({"good.image": f"[Image]\nImage={image_sources.app_a.name}\n"})
    env = image_sources.store.env
    product("copy", good, target, "--store", source, env=env)
    flip(own_file(source, image_sources))
    bad = source_root({"bad.image": f"[Image]\nImage={image_sources.app_b.name}\n"})
    product("copy", bad, target, "--store", source, "--engine", "direct", env=env, ok=(6,))
    product("verify", target, "--source", good, env=env)
    layers = json.loads((target / STORE / "overlay-layers/layers.json").read_text())
    assert {f"sha256:{layer['diff-digest'][7:]}" for layer in layers} == set(
        image_sources.app_a.diff_ids
    )
    folders = {path.name for path in (target / STORE / "overlay").iterdir() if path.is_dir()}
    assert folders == {"l", *(layer["id"] for layer in layers)}
