"""Docker archives as sources, and stores that are none of ours: what to do is said."""

import json
import re
import tarfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.images import ImageSources
from tests.support.layouts import Descriptor, Layout, image_id, named
from tests.support.product import Lab, records
from tests.support.stores import make_store

NAME, OTHER = "localhost/app:1", "localhost/other:1"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def images(layout: Layout) -> tuple[Descriptor, Descriptor]:
    """Two images, of one layer each."""
    one, two = layout.image("one"), layout.image("two")
    layout.index((one, named(NAME)), (two, named(OTHER)))
    return one, two


def _by_skopeo(layout: Layout, archive: Path) -> None:
    name = f"docker-archive:{archive}:{NAME}"
    run(("skopeo", "copy", "--quiet", f"oci:{layout.path}:{NAME}", name))


def _by_podman(layout: Layout, archive: Path) -> None:
    """With two images and the layers of both."""
    store = make_store(archive.parent / "podman")
    for name in (NAME, OTHER):
        store.skopeo("copy", "--quiet", f"oci:{layout.path}:{name}", store.ref(name))
    store.podman("save", "--quiet", "--multi-image-archive", "--output", str(archive), NAME, OTHER)


def _content(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]


def _packed(archive: Path, files: dict[str, bytes], links: Sequence[tuple[str, str]] = ()) -> None:
    with tarfile.open(archive, "w") as tar:
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))


def _by_old_docker(layout: Layout, archive: Path) -> None:
    """A layer is a link to another image's, and comes before it."""
    _by_skopeo(layout, archive)
    files = _content(archive)
    manifest = json.loads(files.pop("manifest.json"))
    layer = manifest[0]["Layers"][0]
    manifest[0]["Layers"] = ["abc/layer.tar"]
    files["def/layer.tar"] = files.pop(layer)
    files["manifest.json"] = json.dumps(manifest).encode()
    _packed(archive, files, [("abc/layer.tar", "../def/layer.tar")])


def _compressed(layout: Layout, archive: Path) -> None:
    _by_skopeo(layout, archive)
    run(("gzip", archive))
    Path(f"{archive}.gz").rename(archive)


@pytest.mark.parametrize("make", [_by_skopeo, _by_podman, _by_old_docker, _compressed])
def test_image_of_a_docker_archive_is_installed(
    make: Callable[[Layout, Path], None],
    lab: Lab,
    layout: Layout,
    images: tuple[Descriptor, Descriptor],
) -> None:
    made, archive = lab.directory / "a.tar", lab.directory / "with: colon@.tar"
    make(layout, made)
    made.rename(archive)
    root, source = lab.root(NAME), f"docker-archive:{archive}"
    lab.run("check", root, "--store", source)
    lock = lab.directory / "lock"
    lab.run("lock", root, "--store", source, "-o", lock)
    lab.run("copy", root, lab.target, "--store", source, "--lock", lock)
    lab.run("verify", lab.target, "--source", root, "--lock", lock)
    assert set(records(lab.store, "images")) == {image_id(layout, images[0])}
    assert lab.unknown(NAME) == []
    if make in (_by_old_docker, _compressed):
        return  # which skopeo 1.9 can not read whole
    # The digest is the one that other tools find.
    link = lab.directory / "link"
    link.symlink_to(archive)
    raw = run(("skopeo", "inspect", "--format={{.Digest}}", f"docker-archive:{link}:{NAME}"))
    (image,) = records(lab.store, "images").values()
    assert raw.stdout.strip() in image["big-data-digests"].values()


@pytest.mark.parametrize(
    ("tag", "reference"),
    [
        ("app:1", "docker.io/library/app:1"), ("app:1", "docker.io/app:1"), ("app:1", "app:1"),
        ("team/app:latest", "docker.io/team/app"), (NAME, NAME), ("localhost/app:latest", "localhost/app"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("images")
def test_tags_are_read_as_docker_writes_them(
    tag: str, reference: str, lab: Lab, layout: Layout
) -> None:
    archive = lab.directory / "a.tar"
    _by_skopeo(layout, archive)
    files = _content(archive)
    manifest = json.loads(files["manifest.json"])
    manifest[0]["RepoTags"] = [tag]
    files["manifest.json"] = json.dumps(manifest).encode()
    _packed(archive, files)
    lab.run("check", lab.root(reference), "--store", f"docker-archive:{archive}")
    done = lab.run(
        "check", lab.root("localhost/no:1"), "--store", f"docker-archive:{archive}", ok=4
    )
    assert f"--store localhost/no:1=docker-archive:{archive}" in done.stderr
    said = f"localhost/no:1=docker-archive:{archive}"
    lab.run("check", lab.root("localhost/no:1"), "--store", said)


@pytest.mark.usefixtures("images")
def test_pinned_image_is_not_taken_from_an_archive_that_keeps_no_digest(
    lab: Lab, layout: Layout
) -> None:
    archive = lab.directory / "a.tar"
    _by_skopeo(layout, archive)
    reference = f"localhost/app@sha256:{'0' * 64}"
    done = lab.run("check", lab.root(reference), "--store", f"docker-archive:{archive}", ok=4)
    assert "is pinned by digest, which docker-archive:" in done.stderr
    assert "skopeo copy docker://" in done.stderr


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"[", "is not JSON"),
    "deep": (b"[" * 100_000, "is not JSON"),
    "no array": (b"{}", "is not an array"),
    "no image": (b"[1]", "has no Config"),
    "layers": (b'[{"Config":"c","Layers":"x","RepoTags":["localhost/app:1"]}]', "Layers is 'x'"),
    "absent": (b'[{"Config":"c","RepoTags":["localhost/app:1"]}]', "c in .* is missing"),
}


@pytest.mark.parametrize("damage", MANIFESTS)
def test_damaged_docker_archive_is_refused(damage: str, lab: Lab) -> None:
    content, message = MANIFESTS[damage]
    archive = lab.directory / "a.tar"
    _packed(archive, {"manifest.json": content})
    done = lab.run("check", lab.root(NAME), "--store", f"docker-archive:{archive}", ok=4)
    assert re.search(message, done.stderr)


# --- other drivers ---------------------------------------------------------------------------


def _other_store(path: Path, driver: str) -> Path:
    file = (
        "image/overlay2/repositories.json" if driver == "docker" else f"{driver}-images/images.json"
    )
    (path / file).parent.mkdir(parents=True)
    (path / file).write_text("[]")
    return path


@pytest.mark.parametrize("driver", ["vfs", "btrfs", "zfs", "docker"])
def test_store_of_another_driver_is_named_with_the_way_out(driver: str, lab: Lab) -> None:
    store = _other_store(lab.directory / "store", driver)
    done = lab.run("check", lab.root(NAME), "--store", store, ok=2)
    assert f"is a store of the driver {driver}, expected one of overlay" in done.stderr
    command = "docker save" if driver == "docker" else f"skopeo copy 'containers-storage:[{driver}@"
    assert command in done.stderr


@pytest.mark.parametrize("driver", ["vfs", "btrfs", "docker"])
def test_image_missing_from_a_store_that_another_driver_used_too_is_told_with_that(
    driver: str, lab: Lab, image_sources: ImageSources
) -> None:
    store = lab.directory / "store"
    run(("cp", "--archive", image_sources.extra_store.root, store))
    _other_store(store, driver)
    done = lab.run("check", lab.root(NAME), "--store", store, ok=4)
    assert "has images of that driver" in done.stderr


def test_command_of_the_hint_works_for_a_vfs_store(lab: Lab, layout: Layout) -> None:
    layout.index((layout.image("one"), {}))
    store = make_store(lab.directory / "s")
    target = f"containers-storage:[vfs@{store.root}+{store.runroot}]{NAME}"
    store.skopeo("copy", "--quiet", f"oci:{layout.path}", target)
    root = lab.root(NAME)
    done = lab.run("check", root, "--store", store.root, ok=2)
    hint = done.stderr.partition("hint: ")[2].partition(", and name")[0]
    command = hint.replace("REFERENCE", NAME).replace("oci:DIR", f"oci:{lab.directory}/layout")
    store.run(("sh", "-c", command))
    lab.run("copy", root, lab.target, "--store", f"oci:{lab.directory}/layout")
    lab.run("verify", lab.target, "--source", root)
