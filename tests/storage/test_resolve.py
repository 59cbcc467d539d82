"""Stage resolve on real stores: what is found, as what, and what is told apart."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.model import ResolvedImage, SourceKind
from installer_plugin.process.runner import Runner
from installer_plugin.stages.resolve import Resolution, resolve
from installer_plugin.storage.source.containers_conf import RegistriesConf, load_registries_conf
from installer_plugin.storage.source.local import open_local_stores, stored_manifests
from installer_plugin.storage.source.searching import Searching
from installer_plugin.storage.source.store_option import open_sources, parse_source_spec
from installer_plugin.storage.store.manifests import digest_of, parse_config
from installer_plugin.storage.store.records import (
    big_data_file_name,
    layer_id,
    parse_images,
    parse_layers,
)
from tests.support.disks import LoopFsFactory
from tests.support.images import ImageSources
from tests.support.stores import Store, StoredImage, make_store
from tests.support.values import AMD64, bound, diff_id

NONE = RegistriesConf(aliases={})


def _resolve(
    references: Sequence[str], stores: Sequence[str | Path], registries: RegistriesConf = NONE
) -> Resolution:
    specs = tuple(parse_source_spec(str(store)) for store in stores)
    with open_sources(specs, (), Searching(registries, AMD64), Runner()) as sources:
        return resolve([bound(reference) for reference in references], sources.all)


def _one(reference: str, *stores: str | Path) -> ResolvedImage:
    resolution = _resolve([reference], stores)
    assert resolution.problems == ()
    (image,) = resolution.images
    return image


def _is(image: ResolvedImage, stored: StoredImage) -> bool:
    layers = tuple(layer.diff_id for layer in image.layers)
    return (image.image_id, image.digest, layers) == (stored.id, stored.digest, stored.diff_ids)


# --- containers-storage ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "app_a", "app_b", "crafted", "web", "pinned", "multi"])
def test_image_is_found_by_the_name_it_has(name: str, image_sources: ImageSources) -> None:
    stored: StoredImage = getattr(image_sources, name)
    image = _one(stored.name, image_sources.store.root)
    assert _is(image, stored)
    assert {f"@{digest}" for digest in image.manifest_digests} == {
        repo_digest[repo_digest.index("@") :] for repo_digest in stored.repo_digests
    }
    assert stored.name in image.names
    assert all(layer.entries > 0 and layer.size > 0 for layer in image.layers)


def test_image_is_found_by_every_digest_that_it_has(image_sources: ImageSources) -> None:
    store, multi = image_sources.store.root, image_sources.multi
    for reference in (
        *multi.repo_digests,
        image_sources.web_by_digest,
        *image_sources.web.repo_digests,
    ):
        image = _one(reference, store)
        assert reference.partition("@")[2] in image.manifest_digests
        assert reference in image.names


def test_list_digest_is_among_the_manifests(image_sources: ImageSources) -> None:
    repository = f"{image_sources.registry}/team/multi"
    listed = image_sources.multi_list_digest
    by_list = _one(f"{repository}@{listed}", image_sources.store.root)
    assert _is(by_list, image_sources.multi)
    assert {listed, by_list.digest} <= set(by_list.manifest_digests)


@pytest.mark.parametrize(
    ("name", "compressed"), [("web", True), ("app_a", False), ("crafted", False)]
)
def test_compressed_manifest_is_told(
    name: str, image_sources: ImageSources, *, compressed: bool
) -> None:
    stored: StoredImage = getattr(image_sources, name)
    assert _one(stored.name, image_sources.store.root).compressed is compressed


def test_layer_ids_follow_the_formula(image_sources: ImageSources) -> None:
    root = image_sources.store.root
    layers = {
        layer.id: layer
        for layer in parse_layers((root / "overlay-layers/layers.json").read_bytes(), "layers")
    }
    assert layers
    for layer in layers.values():
        assert layer.diff_id is not None
        assert layer.id == layer_id(layer.parent, layer.diff_id)
        assert (root / "overlay" / layer.id / "diff").is_dir()


def test_big_data_names_are_the_files_that_are_there(image_sources: ImageSources) -> None:
    root = image_sources.store.root
    images = parse_images((root / "overlay-images/images.json").read_bytes(), "images")
    for image in images:
        files = {path.name for path in (root / "overlay-images" / image.id).iterdir()}
        assert files == {big_data_file_name(key) for key in image.big_data_names}
        if image.config_key in image.big_data_names:
            content = root / f"overlay-images/{image.id}" / big_data_file_name(image.config_key)
            assert digest_of(content.read_bytes()) == image.config_key
            assert parse_config(content.read_bytes(), "config").diff_ids


def test_stores_are_searched_in_order(image_sources: ImageSources) -> None:
    sources = image_sources
    image = _one(sources.extra.name, sources.store.root, sources.extra_store.root)
    assert _is(image, sources.extra)
    assert str(image.source) == f"containers-storage:{sources.extra_store.root}"


def test_image_of_an_additional_store_may_have_its_base_in_another(
    image_sources: ImageSources, tmp_path: Path
) -> None:
    """What podman makes of an image that is built in one store on a base in another."""
    store = make_store(tmp_path, additional=[image_sources.store.root])
    context = tmp_path / "context"
    context.mkdir()
    (context / "Containerfile").write_text(
        f"FROM {image_sources.app_b.name}\nLABEL a=b\nCOPY x /\n"
    )
    (context / "x").write_text("x")
    store.podman("build", "--quiet", "--isolation=chroot", "--tag=localhost/on-top:1", str(context))
    stored = store.image("localhost/on-top:1")
    assert _is(_one("localhost/on-top:1", store.root, image_sources.store.root), stored)
    (problem,) = _resolve(["localhost/on-top:1"], [store.root]).problems
    assert "is missing, expected since" in problem.message


@pytest.fixture
def read_only(image_sources: ImageSources, loop_fs: LoopFsFactory) -> Iterator[Path]:
    """A copy of the extra store on a read-only file system."""
    disk = loop_fs("ext4")
    store = disk.mount / "store"
    shutil.copytree(image_sources.extra_store.root, store, symlinks=True)
    disk.remount(read_only=True)
    yield store
    disk.remount(read_only=False)


def test_read_only_store_is_read(image_sources: ImageSources, read_only: Path) -> None:
    assert _is(_one(image_sources.extra.name, read_only), image_sources.extra)


def test_missing_image_is_told_with_stores_and_the_way_to_get_it(
    image_sources: ImageSources, tmp_path: Path
) -> None:
    store = image_sources.store.root
    references = ["quay.io/team/absent:1", image_sources.web.name, "quay.io/team/web:absent"]
    resolution = _resolve(references, [store, f"dir:{image_sources.dir.removeprefix('dir:')}"])
    assert [image.bound.reference for image in resolution.images] == [image_sources.web.name]
    first, second = resolution.problems
    assert first.subject == "quay.io/team/absent:1"
    assert first.message.startswith(f"not found in {store}, dir:")
    assert first.hint == f"podman --root {store} pull quay.io/team/absent:1"
    assert first.where.startswith("usr/lib/bootc/bound-images.d/app.container -> ")
    assert second.hint == f"podman --root {store} pull quay.io/team/web:absent"


def test_image_missing_from_the_default_stores_is_pulled_without_a_root(
    image_sources: ImageSources,
) -> None:
    with open_sources((), (image_sources.store.root,), Searching(NONE, AMD64), Runner()) as sources:
        (problem,) = resolve([bound("quay.io/absent:1")], sources.all).problems
    assert problem.hint == "podman pull quay.io/absent:1"


def test_no_store_at_all_is_told(tmp_path: Path) -> None:
    with open_sources((), (), Searching(NONE, AMD64), Runner()) as sources:
        (problem,) = resolve([bound("quay.io/x:1")], sources.all).problems
    assert problem.message.startswith("not found in no store at all")


# --- short names -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short_names(image_sources: ImageSources, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four different images, and names for them that compete."""
    store = make_store(tmp_path_factory.mktemp("short-names"))
    names = {
        image_sources.web: ("localhost/one:1", "quay.io/search:latest"),
        image_sources.pinned: ("search.example/one:1", "docker.io/library/two:1"),
        image_sources.multi: ("alias.example/real/alias:3", "other.example/deep/suffix:2"),
        image_sources.base: ("docker.io/team/three:latest", "search.example/team/four:1"),
    }
    for image, (first, *others) in names.items():
        store.skopeo("copy", "--quiet", image_sources.store.ref(f"@{image.id}"), store.ref(first))
        for name in others:
            store.podman("tag", first, name)
    (store.settings / "registries.conf").write_text(
        'unqualified-search-registries = ["search.example", "docker.io"]\n'
        'short-name-mode = "permissive"\n'
        '[aliases]\naliased = "alias.example/real/alias"\n'
    )
    return store


@pytest.mark.parametrize(
    "reference",
    [
        "one:1", "one", "one:2", "two:1", "two", "three", "team/three", "four:1", "team/four:1",
        "search", "search:latest", "search:1", "aliased:3", "aliased", "alias:3", "real/alias:3",
        "suffix:2", "suffix", "deep/suffix:2", "uffix:2", "eep/suffix:2", "localhost/one:1",
        "docker.io/two:1", "docker.io/library/two:1", "docker.io/three", "quay.io/search",
        "search.example/one:1", "other.example/suffix:2",
    ],
)  # fmt: skip
def test_short_name_means_what_it_means_to_podman(reference: str, short_names: Store) -> None:
    seen = short_names.run(
        ("podman", "image", "inspect", "--format={{.Id}}", reference), ok=(0, 125)
    )
    exists = short_names.exists(reference)
    expected = seen.stdout.strip() if seen.returncode == 0 else None
    assert exists is (expected is not None)
    registries = load_registries_conf(short_names.settings, short_names.env)
    images = _resolve([reference], [short_names.root], registries).images
    assert [image.image_id for image in images] == ([expected] if expected else [])


def test_name_that_matched_is_kept_beside_the_declared_one(short_names: Store) -> None:
    registries = load_registries_conf(short_names.settings, short_names.env)
    (image,) = _resolve(["suffix:2"], [short_names.root], registries).images
    assert image.names == ("suffix:2", "other.example/deep/suffix:2")


# --- what is not an image, or a broken one -------------------------------------------------------


@pytest.fixture
def copy_of_extra(image_sources: ImageSources, tmp_path: Path) -> Path:
    """A store with one image of one layer, to be damaged."""
    store, extra = make_store(tmp_path), image_sources.extra_store
    name = image_sources.extra.name
    store.skopeo("copy", "--quiet", extra.ref(name), store.ref(name))
    return store.root


def _edit(store: Path, kind: str, **fields: object) -> None:
    path = store / f"overlay-{kind}/{kind}.json"
    (record,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**record, **fields}]))


def _config_file(store: Path) -> Path:
    (image,) = parse_images((store / "overlay-images/images.json").read_bytes(), "images")
    return store / "overlay-images" / image.id / big_data_file_name(image.config_key)


Damage = Callable[[Path], object]

DAMAGES: dict[str, tuple[Damage, str]] = {
    "images-cut-off": (
        lambda store: (store / "overlay-images/images.json").write_text("[{"), "is not JSON"
    ),
    "layers-garbage": (
        lambda store: (store / "overlay-layers/layers.json").write_text('{"a":1}'), "expected an array"
    ),
    "layer-gone": (
        lambda store: (store / "overlay-layers/layers.json").write_text("[]"), "is missing, expected"
    ),
    "layer-incomplete": (
        lambda store: _edit(store, "layers", flags={"incomplete": True}), "was left incomplete"
    ),
    "layer-without-diff-id": (
        lambda store: _edit(store, "layers", **{"diff-digest": "", "toc-digest": "sha256:1"}),
        "has no diff ID",
    ),
    "layer-of-another": (
        lambda store: _edit(store, "layers", **{"diff-digest": diff_id("other")}),
        "its layers are not those its config lists",
    ),
    "config-changed": (lambda store: _config_file(store).write_text("{}"), "its config hashes to"),
    "config-gone": (lambda store: _config_file(store).unlink(), "cannot be read: No such file"),
    "manifest-gone": (
        lambda store: next(store.glob("overlay-images/*/manifest")).unlink(),
        "cannot be read: No such file",
    ),
    "no-config": (
        lambda store: _edit(store, "images", **{"big-data-names": ["manifest"]}), "has no image config"
    ),
    "nothing-stored": (
        lambda store: _edit(store, "images", **{"big-data-names": []}), "has no image config"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_store_is_told_from_a_missing_image(
    damage: str, copy_of_extra: Path, image_sources: ImageSources
) -> None:
    break_it, message = DAMAGES[damage]
    break_it(copy_of_extra)
    with pytest.raises(DataError) as caught:  # noqa: PT012 - records that cannot be read concern all images
        (problem,) = _resolve([image_sources.extra.name], [copy_of_extra]).problems
        raise DataError(problem.subject, problem.message)
    assert message in str(caught.value)


def test_layer_without_tar_split_is_still_found(
    copy_of_extra: Path, image_sources: ImageSources
) -> None:
    next(copy_of_extra.glob("overlay-layers/*.tar-split.gz")).unlink()
    image = _one(image_sources.extra.name, copy_of_extra)
    assert [layer.entries for layer in image.layers] == [0]


@pytest.mark.parametrize("damage", ["changed", "gone", "image-gone"])
def test_manifests_of_a_damaged_store_are_not_handed_on(
    damage: str, copy_of_extra: Path, image_sources: ImageSources
) -> None:
    location = _one(image_sources.extra.name, copy_of_extra).source
    assert set(stored_manifests(location)) == {image_sources.extra.digest}
    manifest = next(copy_of_extra.glob("overlay-images/*/manifest"))
    if damage == "changed":
        manifest.write_bytes(manifest.read_bytes() + b" ")
    elif damage == "gone":
        manifest.unlink()
    else:
        (copy_of_extra / "overlay-images/images.json").write_text("[]")
    expected = {"changed": "its bytes have the digest", "gone": "cannot be read"}
    with pytest.raises(DataError, match=expected.get(damage, "has gone from")):
        stored_manifests(location)


def test_stored_name_that_is_no_reference_is_no_obstacle(
    copy_of_extra: Path, image_sources: ImageSources
) -> None:
    extra = image_sources.extra
    _edit(copy_of_extra, "images", names=["Not A Name"])
    for reference in (f"localhost/extra@{extra.digest}", f"extra@{extra.digest}"):
        assert _one(reference, copy_of_extra).image_id == extra.id
    (problem,) = _resolve(["extra:1"], [copy_of_extra]).problems
    assert problem.message.startswith("not found in")


def test_manifest_list_made_here_is_told_from_an_image(image_sources: ImageSources) -> None:
    (problem,) = _resolve([image_sources.local_list], [image_sources.store.root]).problems
    assert "is a manifest list made here" in problem.message
    assert "bind one of its images" in problem.hint


def test_pinned_reference_whose_name_has_another_image_is_a_problem(
    copy_of_extra: Path, image_sources: ImageSources
) -> None:
    wrong = f"localhost/extra@{image_sources.web.digest}"
    _edit(copy_of_extra, "images", names=[wrong])
    (problem,) = _resolve([wrong], [copy_of_extra]).problems
    assert f"has no manifest {image_sources.web.digest}" in problem.message


# --- layouts ---------------------------------------------------------------------------------


def test_oci_layout_has_images_by_their_names_there(
    image_sources: ImageSources, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    for stored in (image_sources.app_b, image_sources.base):
        image_sources.store.skopeo(
            "copy", "--quiet", image_sources.store.ref(stored.name), f"oci:{layout}:{stored.name}"
        )
    for stored in (image_sources.app_b, image_sources.base):
        image = _one(stored.name, f"oci:{layout}")
        assert (image.image_id, image.source.kind) == (stored.id, SourceKind.OCI)
        assert tuple(layer.diff_id for layer in image.layers) == stored.diff_ids
        assert image.source.item == image.digest
    (problem,) = _resolve(["localhost/absent:1"], [f"oci:{layout}"]).problems
    assert problem.message.startswith(f"not found in oci:{layout}")


@pytest.mark.parametrize("kind", ["oci-archive", "dir"])
def test_nameless_image_is_what_the_user_says_it_is(kind: str, image_sources: ImageSources) -> None:
    where = image_sources.oci_archive if kind == "oci-archive" else image_sources.dir
    stored = image_sources.app_b if kind == "oci-archive" else image_sources.web
    image = _one(stored.name, f"{stored.name}={where}")
    assert image.image_id == stored.id
    assert image.source.item == image.digest
    (problem,) = _resolve([stored.name], [where]).problems
    assert problem.message.startswith(f"not found in {where}")


def test_layout_is_searched_by_digest(image_sources: ImageSources) -> None:
    image = _one(image_sources.web_by_digest, image_sources.dir)
    assert image.image_id == image_sources.web.id
    assert image.digest == image_sources.web.digest


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "dir"])
def test_absent_layout_is_a_problem_with_a_hint(kind: str, tmp_path: Path) -> None:
    (problem,) = _resolve(["x:1"], [f"{kind}:{tmp_path}/absent"]).problems
    assert problem.message == f"{kind}:{tmp_path}/absent does not exist"
    assert problem.hint == "check the path given to --store"


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "dir"])
def test_damaged_layout_is_told_from_a_missing_image(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "layout"
    if kind == "oci-archive":
        place.write_bytes(b"no archive")
    else:
        place.mkdir()
        for name in ("index.json", "manifest.json"):
            (place / name).write_text("[")
    (problem,) = _resolve(["x:1"], [f"{kind}:{place}"]).problems
    reason = "ends within a header" if kind == "oci-archive" else "is not JSON"
    assert reason in problem.message
    assert str(place) in problem.message


def test_sources_are_asked_in_the_order_given(image_sources: ImageSources) -> None:
    name = image_sources.app_b.name
    archive = f"{name}={image_sources.oci_archive}"
    assert _one(name, archive, image_sources.store.root).source.kind is SourceKind.OCI_ARCHIVE
    assert (
        _one(name, image_sources.store.root, archive).source.kind is SourceKind.CONTAINERS_STORAGE
    )


def test_layers_of_an_image_are_told_with_their_stores(image_sources: ImageSources) -> None:
    with open_local_stores([image_sources.store.root], NONE) as stores:
        layers = stores.image_layers(image_sources.app_b.name)
        assert stores.image_layers("localhost/absent:1") is None
    assert layers is not None
    assert [layer.diff_id for _, layer in layers] == list(image_sources.app_b.diff_ids)
    assert {root for root, _ in layers} == {image_sources.store.root}
