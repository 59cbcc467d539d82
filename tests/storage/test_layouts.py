"""Layouts as sources: which image a reference means in them, and that all its manifests are kept."""

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from installer_plugin.declarations.os_platform import PROGRAMS
from installer_plugin.model import ResolvedImage
from installer_plugin.process.runner import Runner
from installer_plugin.stages.resolve import Resolution, resolve
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.searching import Searching
from installer_plugin.storage.source.store_option import open_sources, parse_source_spec
from tests.support.layouts import CONTAINERD_NAME, REF_NAME, Descriptor, Layout, image_id, named
from tests.support.product import Lab, listing, records
from tests.support.stores import make_store
from tests.support.values import AMD64, bound
from tests.unit.test_platforms import elf

NAME = "localhost/app:1"
SEARCHING = Searching(RegistriesConf(search=("registry.example",), aliases={}), AMD64)


def _resolve(reference: str, *stores: str) -> Resolution:
    specs = tuple(map(parse_source_spec, stores))
    with open_sources(specs, (), SEARCHING, Runner()) as sources:
        return resolve([bound(reference)], sources.all)


def _one(reference: str, *stores: str) -> ResolvedImage:
    resolution = _resolve(reference, *stores)
    assert resolution.problems == ()
    return resolution.images[0]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


# --- by name ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "stored", "other"),
    [
        ("localhost/x", "localhost/x:None", "localhost/x:2"),
        ("localhost/x:2", "localhost/x", "localhost/x:3"),
        ("localhost/x:2", "localhost/x:latest", "other"),
        ("x", "x:None", "registry.example/x:None"),
        ("localhost/x", "localhost/x@sha256:" + "0" * 64, "latest"),
        ("localhost/x:1", "1", "x:1"),
    ],
)
def test_image_of_another_name_is_not_taken(
    reference: str, stored: str, other: str, layout: Layout
) -> None:
    layout.index((layout.image("one"), named(stored)), (layout.image("two"), named(other)))
    (problem,) = _resolve(reference, f"oci:{layout.path}").problems
    assert problem.message.startswith("not found in oci:")


@pytest.mark.parametrize(
    ("reference", "annotations"),
    [
        ("localhost/x", named("localhost/x")),
        ("localhost/x", named("localhost/x:latest")),
        ("localhost/x:latest", named("localhost/x")),
        (NAME, {REF_NAME: "1", CONTAINERD_NAME: NAME}),
        (NAME, {CONTAINERD_NAME: NAME}),
        ("docker.io/app:1", {REF_NAME: "1", CONTAINERD_NAME: "docker.io/library/app:1"}),
        ("app:1", {REF_NAME: "1", CONTAINERD_NAME: "docker.io/library/app:1"}),
        ("app:1", named("registry.example/app:1")),
        ("app:1", named("localhost/app:1")),
        ("app:1", named("app:1")),
    ],
)
@pytest.mark.parametrize("archived", [False, True], ids=["oci", "oci-archive"])
def test_image_is_found_by_every_annotation_that_names_it(
    reference: str,
    annotations: Mapping[str, str],
    layout: Layout,
    tmp_path: Path,
    *,
    archived: bool,
) -> None:
    wanted = layout.image("wanted")
    layout.index((layout.image("other"), named("localhost/other:1")), (wanted, annotations))
    place = f"oci-archive:{layout.archived(tmp_path / 'a')}" if archived else f"oci:{layout.path}"
    found = _one(reference, place)
    assert found.image_id == image_id(layout, wanted)
    assert reference in found.names


def test_complete_name_of_a_short_one_is_kept_beside_it(layout: Layout) -> None:
    layout.index((layout.image("a"), {CONTAINERD_NAME: "docker.io/library/app:1"}))
    assert _one("app:1", f"oci:{layout.path}").names == ("app:1", "docker.io/library/app:1")


@pytest.mark.parametrize("reference", ["localhost/app", "localhost/app:latest"])
@pytest.mark.parametrize("spelled", ["localhost/app", "localhost/app:latest"])
def test_layout_has_what_the_user_says_however_it_is_spelled(
    reference: str, spelled: str, layout: Layout
) -> None:
    image = layout.image("a")
    layout.index((image, {}))
    assert _one(reference, f"{spelled}=oci:{layout.path}").image_id == image_id(layout, image)


def test_of_several_images_the_user_means_the_one_with_the_tag(layout: Layout) -> None:
    image = layout.image("a")
    layout.index((layout.image("b"), named("2")), (image, named("1")))
    assert _one(NAME, f"{NAME}=oci:{layout.path}").image_id == image_id(layout, image)
    assert _resolve("localhost/app:3", f"localhost/app:3=oci:{layout.path}").problems


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_archive_is_read(
    compress: Callable[[bytes], bytes], layout: Layout, tmp_path: Path
) -> None:
    image = layout.image("a")
    layout.index((image, named(NAME)))
    archive = layout.archived(tmp_path / "a.tar")
    archive.write_bytes(compress(archive.read_bytes()))
    assert _one(NAME, f"oci-archive:{archive}").image_id == image_id(layout, image)


def test_archive_compressed_with_zstd_is_named_with_the_way_out(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(b"\x28\xb5\x2f\xfd rest")
    (problem,) = _resolve(NAME, f"oci-archive:{archive}").problems
    assert "is compressed with zstd" in problem.message
    assert problem.hint.startswith("zstd --decompress")


# --- by digest -------------------------------------------------------------------------------


@pytest.fixture
def nested(layout: Layout) -> Mapping[str, Descriptor]:
    """An image beside a list, and a list in a list."""
    images = {word: layout.image(word) for word in ("plain", "amd", "deep")}
    other = layout.image("s390x", platform="linux/s390x")
    inner = layout.list_of({"linux/s390x": other, "linux/amd64": images["deep"]})
    outer = layout.list_of({"": inner})
    one = layout.list_of({"linux/s390x": other, "linux/amd64": images["amd"]})
    layout.index(
        (images["plain"], {}), (one, named("localhost/list:1")), (outer, named("localhost/outer:1"))
    )
    return {**images, "list": one, "inner": inner, "outer": outer, "s390x": other}


MEANT = {
    "plain": "plain", "amd": "amd", "deep": "deep", "s390x": "s390x",
    "list": "amd", "inner": "deep", "outer": "deep",
}  # fmt: skip


@pytest.mark.parametrize("pinned", MEANT)
@pytest.mark.parametrize("archived", [False, True], ids=["oci", "oci-archive"])
def test_pinned_image_is_found_wherever_in_the_index_it_is(
    pinned: str,
    layout: Layout,
    nested: Mapping[str, Descriptor],
    tmp_path: Path,
    *,
    archived: bool,
) -> None:
    place = f"oci-archive:{layout.archived(tmp_path / 'a')}" if archived else f"oci:{layout.path}"
    reference = f"localhost/any@{nested[pinned]['digest']}"
    image = _one(reference, place)
    assert image.image_id == image_id(layout, nested[MEANT[pinned]])
    assert {nested[pinned]["digest"], nested[MEANT[pinned]]["digest"]} <= set(
        image.manifest_digests
    )
    (problem,) = _resolve(f"localhost/any@sha256:{'0' * 64}", place).problems
    assert problem.message.startswith("not found in")


def test_every_list_on_the_way_is_kept(
    lab: Lab, nested: Mapping[str, Descriptor], layout: Layout
) -> None:
    root = lab.root("localhost/outer:1", f"localhost/any@{nested['amd']['digest']}")
    lab.run("copy", root, lab.target, "--store", f"oci:{layout.path}")
    lab.run("verify", lab.target, "--source", root)
    kept = records(lab.store, "images")
    stored = {
        word: set(kept[image_id(layout, nested[word])]["big-data-digests"].values())
        for word in ("deep", "amd")
    }
    assert {str(nested[word]["digest"]) for word in ("outer", "inner", "deep")} <= stored["deep"]
    assert str(nested["amd"]["digest"]) in stored["amd"]
    assert lab.unknown("localhost/outer:1", f"localhost/any@{nested['amd']['digest']}") == []


def test_pin_that_is_not_what_the_user_says_is_there_is_told(layout: Layout) -> None:
    image = layout.image("a")
    layout.index((image, {}))
    reference = f"localhost/app@sha256:{'0' * 64}"
    (problem,) = _resolve(reference, f"{reference}=oci:{layout.path}").problems
    assert f"has the digest {image['digest']}" in problem.message


def test_list_without_an_image_for_the_target_is_told_with_what_it_has(layout: Layout) -> None:
    listed = layout.list_of({"linux/s390x": layout.image("a", platform="linux/s390x")})
    layout.index((listed, named(NAME)))
    (problem,) = _resolve(NAME, f"oci:{layout.path}").problems
    assert "has no image for linux/amd64" in problem.message
    assert "it has linux/s390x" in problem.message


# --- blobs -----------------------------------------------------------------------------------


def _gone(file: Path) -> None:
    file.unlink()


def _short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _changed(file: Path) -> None:
    file.write_bytes(b"x" + file.read_bytes()[1:])


def _led_out(file: Path) -> None:
    outside = file.parents[3] / "outside"
    file.rename(outside)
    file.symlink_to(outside)


def _long(file: Path) -> None:
    with file.open("ab") as grown:
        grown.truncate(1 << 40)


def _fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("damage", [_gone, _short, _changed, _led_out, _long, _fifo])
@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_damaged_layout_is_seen_before_anything_is_copied(
    which: str, damage: Callable[[Path], None], lab: Lab, layout: Layout
) -> None:
    image = layout.image("a")
    layout.index((image, named(NAME)))
    manifest = json.loads(layout.blob_file(image).read_bytes())
    blob = {"manifest": image, "config": manifest["config"], "layer": manifest["layers"][0]}[which]
    damage(layout.blob_file(blob))
    root = lab.root(NAME)
    before = listing(lab.target)
    done = lab.run("copy", root, lab.target, "--store", f"oci:{layout.path}", ok=4)
    assert str(layout.path) in done.stderr
    assert listing(lab.target) == before


# --- one image, several manifests ------------------------------------------------------------


def _as(kind: str, layout: Layout, tmp_path: Path) -> str:
    """The layout, as a source of that kind; `dir:` takes its only image."""
    if kind == "oci-archive":
        return f"oci-archive:{layout.archived(tmp_path / f'{layout.path.name}.tar')}"
    if kind == "dir":
        folder = tmp_path / f"{layout.path.name}.dir"
        folder.mkdir()
        (folder / "version").write_text("Directory Transport Version: 1.1\n")
        index = json.loads((layout.path / "index.json").read_bytes())
        for blob in (layout.path / "blobs/sha256").iterdir():
            (folder / blob.name).write_bytes(blob.read_bytes())
        top = layout.blob_file(index["manifests"][0])
        (folder / "manifest.json").write_bytes(top.read_bytes())
        return f"{NAME}=dir:{folder}"
    return f"oci:{layout.path}"


def _stored_digests(lab: Lab) -> set[str]:
    (image,) = records(lab.store, "images").values()
    return {
        digest for key, digest in image["big-data-digests"].items() if key.startswith("manifest")
    }


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "dir"])
def test_finished_target_gets_the_other_manifest_of_the_same_image(
    kind: str, lab: Lab, tmp_path: Path
) -> None:
    digests = []
    for word in ("plain", "compressed", "listed"):
        layout = Layout(tmp_path / word)
        image = layout.image("same", compressed=word != "plain")
        top = layout.list_of({"linux/amd64": image}) if word == "listed" else image
        layout.index((top, named(NAME)))
        digests += [str(top["digest"]), str(image["digest"])]
        root = lab.root(NAME)
        lab.run("copy", root, lab.target, "--store", _as(kind, layout, tmp_path))
        lab.run("verify", lab.target)
        assert set(digests) <= _stored_digests(lab)


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_one_image_bound_by_two_manifests_is_copied_with_both(
    kind: str, lab: Lab, layout: Layout, tmp_path: Path
) -> None:
    plain, compressed = layout.image("same"), layout.image("same", compressed=True)
    layout.index((plain, named("localhost/plain:1")), (compressed, named("localhost/gzip:1")))
    root = lab.root("localhost/plain:1", f"localhost/gzip@{compressed['digest']}")
    source = _as(kind, layout, tmp_path)
    lab.run("check", root, "--store", source)
    lab.run("copy", root, lab.target, "--store", source)
    lab.run("verify", lab.target, "--source", root)
    assert {str(plain["digest"]), str(compressed["digest"])} <= _stored_digests(lab)
    assert lab.unknown("localhost/plain:1", f"localhost/gzip@{compressed['digest']}") == []


# --- hints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "dir"])
@pytest.mark.parametrize("reference", ["localhost/absent:1", f"localhost/absent@sha256:{'0' * 64}"])
def test_hint_never_writes_a_second_image_over_the_first(
    reference: str, kind: str, lab: Lab, layout: Layout, tmp_path: Path
) -> None:
    layout.index((layout.image("a"), named("localhost/other:1")))
    source = _as(kind, layout, tmp_path).rpartition("=")[2]
    root = lab.root(reference)
    done = lab.run("check", root, "--store", source, ok=4)
    hint = next(line for line in done.stderr.splitlines() if "hint:" in line)
    command = hint.partition("; ")[0].partition(" and ")[0]
    written = command.split()[-1]
    assert written.startswith("oci:")
    assert (
        written.startswith(f"{source}:" if "@" not in reference else source) or "oci:NEW" in written
    )
    assert kind == "oci" or source not in command
    if "@" not in reference:
        assert f"--store {reference}={source}" in hint


# --- platforms -------------------------------------------------------------------------------

S390X = elf(22, order=">")


def _for_s390x(root: Path) -> Path:
    program = root / PROGRAMS[0]
    program.parent.mkdir(parents=True)
    program.write_bytes(S390X)
    return root


@pytest.mark.parametrize("platform", ["linux/s390x", "linux/arm64/v8", "linux/amd64/v9"])
@pytest.mark.parametrize("kind", ["oci", "dir", "containers-storage"])
def test_image_for_another_platform_is_refused_unless_that_is_wanted(
    kind: str, platform: str, lab: Lab, layout: Layout, tmp_path: Path
) -> None:
    layout.index((layout.image("a", platform=platform), named(NAME)))
    source = _as(kind, layout, tmp_path)
    if kind == "containers-storage":
        store = make_store(tmp_path / "store")
        store.skopeo("copy", "--quiet", f"oci:{layout.path}", store.ref(NAME))
        source = str(store.root)
    root = lab.root(NAME)
    before = listing(lab.target)
    done = lab.run("copy", root, lab.target, "--store", source, ok=4)
    assert f"is for {platform}, the OS image is for linux/amd64" in done.stderr
    assert "--allow-other-architecture" in done.stderr
    assert f"podman pull --platform linux/amd64 {NAME}" in done.stderr
    assert listing(lab.target) == before
    allowed = {"BOUND_IMAGES_CHECK_ALLOW_OTHER_ARCHITECTURE": "1"}
    lab.run("check", root, "--store", source, env=allowed)
    lab.run("copy", root, lab.target, "--store", source, "--allow-other-architecture")
    lab.run("verify", lab.target)


def test_architecture_of_the_os_image_counts(lab: Lab, layout: Layout) -> None:
    mine, other = layout.image("mine"), layout.image("other", platform="linux/s390x")
    both = layout.list_of({"linux/amd64": mine, "linux/s390x": other})
    layout.index((other, named("localhost/other:1")), (both, named("localhost/both:1")))
    root = _for_s390x(lab.root("localhost/other:1", "localhost/both:1"))
    lab.run("copy", root, lab.target, "--store", f"oci:{layout.path}")
    lab.run("verify", lab.target, "--source", root)
    assert set(records(lab.store, "images")) == {image_id(layout, other)}
    layout.index((mine, named(NAME)))
    root = _for_s390x(lab.root(NAME))
    done = lab.run("check", root, "--store", f"oci:{layout.path}", ok=4)
    assert "is for linux/amd64, the OS image is for linux/s390x" in done.stderr
