"""A second run that fails leaves the proven target as it was, byte for byte."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from installer_plugin.storage.store.rollback import NOTE
from tests.support.commands import run
from tests.support.layouts import Layout, image_id, named
from tests.support.product import Lab, listing, records
from tests.support.stores import make_store

NAME, NEW, KEPT = "localhost/app:1", "localhost/new:1", "localhost/kept:1"
WORD = "a word that is in the second image alone"
CASES = [
    ("direct", "containers-storage"),
    ("skopeo", "containers-storage"),
    ("podman", "containers-storage"),
    ("auto", "oci"),
    ("auto", "oci-archive"),
    ("auto", "dir"),
    ("auto", "docker-archive"),
]


def _layout(path: Path, images: Mapping[str, str]) -> Layout:
    """A layout of images by name, each with a word of its own."""
    layout = Layout(path)
    layout.index(*((layout.image(word), named(name)) for name, word in images.items()))
    return layout


@dataclass(frozen=True, slots=True)
class Source:
    """Images that a target is copied from, of one kind."""

    kind: str
    stores: tuple[str, ...]
    """For `--store`."""
    damage: Callable[[], object]
    """Change a byte of the content of NEW, and back again."""


def _flip(file: Path, offset: int = -1) -> None:
    """Change one bit; once more, and it is as it was."""
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _stored(base: Path, images: Mapping[str, str]) -> Source:
    store = make_store(base / "store")
    layout = _layout(base / "layout", images)
    for name in images:
        store.skopeo("copy", "--quiet", f"oci:{layout.path}:{name}", store.ref(name))

    def damage() -> None:
        for file in store.root.glob("overlay/*/diff/word"):
            if file.read_text()[:-1] == images[NEW][:-1]:
                _flip(file)

    return Source("containers-storage", (str(store.root),), damage)


def _blob(layout: Layout, name: str) -> Path:
    index = json.loads((layout.path / "index.json").read_bytes())
    (entry,) = (e for e in index["manifests"] if name in e["annotations"].values())
    manifest = json.loads(layout.blob_file(entry).read_bytes())
    return layout.blob_file(manifest["layers"][0])


def _laid_out(base: Path, images: Mapping[str, str]) -> Source:
    layout = _layout(base / "layout", images)
    blob = _blob(layout, NEW)
    return Source("oci", (f"oci:{layout.path}",), lambda: _flip(blob))


def _archived(base: Path, images: Mapping[str, str]) -> Source:
    archive = _layout(base / "layout", images).archived(base / "a.tar")
    at = archive.read_bytes().index(images[NEW].encode())
    return Source("oci-archive", (f"oci-archive:{archive}",), lambda: _flip(archive, at))


def _in_directories(base: Path, images: Mapping[str, str]) -> Source:
    layout = _layout(base / "layout", images)
    folders = {name: base / f"dir-{number}" for number, name in enumerate(images)}
    for name, folder in folders.items():
        run(("skopeo", "copy", "--quiet", f"oci:{layout.path}:{name}", f"dir:{folder}"))
    blob = folders[NEW] / _blob(layout, NEW).name
    stores = tuple(f"{name}=dir:{folder}" for name, folder in folders.items())
    return Source("dir", stores, lambda: _flip(blob))


def _archived_by_docker(base: Path, images: Mapping[str, str]) -> Source:
    layout = _layout(base / "layout", images)
    files = {name: base / f"{number}.tar" for number, name in enumerate(images)}
    for name, file in files.items():
        run(
            (
                "skopeo",
                "copy",
                "--quiet",
                f"oci:{layout.path}:{name}",
                f"docker-archive:{file}:{name}",
            )
        )
    at = files[NEW].read_bytes().index(images[NEW].encode())
    stores = tuple(f"docker-archive:{file}" for file in files.values())
    return Source("docker-archive", stores, lambda: _flip(files[NEW], at))


MAKERS: Mapping[str, Callable[[Path, Mapping[str, str]], Source]] = {
    "containers-storage": _stored,
    "oci": _laid_out,
    "oci-archive": _archived,
    "dir": _in_directories,
    "docker-archive": _archived_by_docker,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A finished target, and a second run that changes what a name means and adds an image."""

    lab: Lab
    engine: str
    root: Path
    second: Source
    old: str
    """Image ID of NAME on the finished target."""

    @property
    def argv(self) -> tuple[str | Path, ...]:
        stores = [word for store in self.second.stores for word in ("--store", store)]
        return ("copy", self.root, self.lab.target, "--engine", self.engine, *stores)

    def listed(self) -> object:
        return listing(self.lab.target, times=False)

    def owner(self, name: str) -> str | None:
        images = records(self.lab.store, "images").values()
        return next((str(i["id"]) for i in images if name in i.get("names", [])), None)


@pytest.fixture(params=CASES, ids="-".join)
def scene(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Scene:
    engine, kind = request.param
    first = _stored(tmp_path / "first", {NAME: "old", NEW: "unused", KEPT: "kept"})
    root = lab.root(NAME, KEPT)
    lab.run("copy", root, lab.target, "--store", first.stores[0], "--engine", "direct")
    images = {NAME: "another", KEPT: "kept", NEW: WORD}
    second = MAKERS[kind](tmp_path / "second", images)
    layout = _layout(tmp_path / "layout-of-old", {NAME: "old"})
    old = image_id(layout, json.loads((layout.path / "index.json").read_bytes())["manifests"][0])
    return Scene(lab, engine, lab.root(NAME, KEPT, NEW), second, old)


def _assert_unharmed(scene: Scene, before: object) -> None:
    assert scene.listed() == before
    assert scene.owner(NAME) == scene.old
    scene.lab.run("verify", scene.lab.target)
    assert scene.lab.unknown(NAME, KEPT, NEW) == [NEW]


def _assert_second_run_succeeds(scene: Scene) -> None:
    scene.lab.run(*scene.argv)
    scene.lab.run("verify", scene.lab.target, "--source", scene.root)
    assert scene.owner(NAME) not in {scene.old, None}
    assert not (scene.lab.store.parent / NOTE).exists()


def test_failed_second_run_leaves_the_proven_target_as_it_was(scene: Scene) -> None:
    before = scene.listed()
    scene.second.damage()
    # Layers in files of their own are read before anything is copied.
    stored = scene.second.kind == "containers-storage"
    expected = (6 if scene.engine == "direct" else 5) if stored else 4
    failed = scene.lab.run(*scene.argv, ok=expected)
    assert ("is again as it was before" in failed.stderr) is (expected != 4)
    _assert_unharmed(scene, before)
    scene.second.damage()
    _assert_second_run_succeeds(scene)


def _lying_tool(scene: Scene, directory: Path) -> Mapping[str, str]:
    """A skopeo and podman that report success for what they have not written as it should be."""
    directory.mkdir()
    for tool in ("skopeo", "podman"):
        real = shutil.which(tool)
        script = (
            f'#!/bin/sh\n{real} "$@" || exit\n'
            f"grep --recursive --files-with-matches '{WORD}' {scene.lab.store}/overlay/*/diff |"
            f" while read -r file; do printf b | dd of=$file bs=1 count=1 conv=notrunc; done\n"
        )
        (directory / tool).write_text(script)
        (directory / tool).chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


@pytest.mark.parametrize("scene", [case for case in CASES if case[0] != "direct"], indirect=True)
def test_refuted_second_run_leaves_the_proven_target_as_it_was(
    scene: Scene, tmp_path: Path
) -> None:
    before = scene.listed()
    scene.lab.run(*scene.argv, ok=6, env=_lying_tool(scene, tmp_path / "bin"))
    _assert_unharmed(scene, before)
    _assert_second_run_succeeds(scene)


@pytest.mark.parametrize("scene", [CASES[0]], indirect=True)
def test_second_run_whose_labels_are_refuted_leaves_the_proven_target_as_it_was(
    scene: Scene, tmp_path: Path
) -> None:
    """No image is wrong, and none of the new ones stays all the same."""
    contexts = scene.root / "etc/selinux/mine/contexts/files"
    contexts.mkdir(parents=True)
    (contexts / "file_contexts").write_text("/.* system_u:object_r:container_ro_file_t:s0\n")
    (scene.root / "etc/selinux/config").write_text("SELINUX=enforcing\nSELINUXTYPE=mine\n")
    before = scene.listed()
    lying = tmp_path / "bin/setfiles"
    lying.parent.mkdir()
    real = shutil.which("setfiles")
    lying.write_text(f'#!/bin/sh\ncase " $* " in *" -n "*) exec {real} "$@" ;; esac\n')
    lying.chmod(0o755)
    path = {"PATH": f"{lying.parent}:{os.environ['PATH']}"}
    failed = scene.lab.run(*scene.argv, ok=6, env=path)
    assert "has the label" in failed.stderr
    assert "is again as it was before" in failed.stderr
    _assert_unharmed(scene, before)
    _assert_second_run_succeeds(scene)
