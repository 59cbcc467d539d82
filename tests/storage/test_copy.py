"""`copy` into real file systems: every way to declare, every engine, read back by two podmans."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from installer_plugin.storage.store.records import big_data_file_name
from tests.support.commands import CommandError, run, unshared
from tests.support.debian import DebianRoot
from tests.support.declared import Declared, build_image, unit
from tests.support.disks import FsKind, LoopFsFactory
from tests.support.images import ImageSources
from tests.support.product import Lab, Listing, document, listing, records
from tests.support.stores import StoredImage, make_store

ENGINES = ("direct", "skopeo", "podman")
FILE_SYSTEMS: tuple[FsKind, ...] = ("ext4", "xfs", "btrfs")
ABSENT = "localhost/absent:1"
LIBPOD = ("db.sql", "libpod", "defaultNetworkBackend")
LOCKS = ("overlay-layers/layers.lock", "overlay-images/images.lock")


@pytest.fixture
def everything(declared: Declared, lab: Lab) -> Lab:
    """A lab whose default stores have all that is declared."""
    return replace(lab, source=declared.store)


# --- every way to declare ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_declared_name_is_there_for_every_podman_also_read_only(
    engine: str,
    kind: FsKind,
    declared: Declared,
    request: pytest.FixtureRequest,
    loop_fs: LoopFsFactory,
) -> None:
    disk = loop_fs(kind)
    lab: Lab = replace(request.getfixturevalue("everything"), target=disk.mount)
    debian: DebianRoot = request.getfixturevalue("debian_root")
    root = lab.bind(declared.units)
    done = document(lab.run("copy", "--format=json", f"--engine={engine}", root, lab.target))
    assert [image["engine"] for image in done["images"]] == [engine] * len(declared.units)
    assert [lock for lock in LOCKS if not (lab.store / lock).is_file()] == []
    assert [name for name in LIBPOD if (lab.store / name).exists()] == []
    assert _scratch_left(lab) == []
    names = (*declared.names, ABSENT)
    assert lab.unknown(*names) == [ABSENT]
    disk.remount(read_only=True)
    before = listing(lab.target)
    assert lab.unknown(*names) == [ABSENT]
    assert lab.unknown(*names, debian=debian) == [ABSENT]
    lab.run("verify", "--source", root, lab.target)
    assert listing(lab.target) == before


def _scratch_left(lab: Lab) -> list[Path]:
    places = (lab.target, lab.target / "ostree/bootc", lab.source.settings)
    return [path for place in places for path in place.glob("bound-images-scratch-*")]


def test_auto_takes_the_direct_engine(declared: Declared, everything: Lab) -> None:
    root = declared.units
    done = everything.run("copy", "--format=json", everything.bind(root), everything.target)
    taken = {(image["engine"], image["refusal"]) for image in document(done)["images"]}
    assert taken == {("direct", "")}


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_second_copy_copies_nothing_and_still_verifies(
    engine: str, declared: Declared, everything: Lab
) -> None:
    argv = ("copy", "--format=json", f"--engine={engine}")
    root = everything.bind(declared.units)
    first = document(everything.run(*argv, root, everything.target))
    before = _without_locks(listing(everything.store))
    again = everything.run(*argv, root, everything.target)
    second = document(again)
    assert all(image["already_there"] for image in second["images"])
    assert again.stderr.count("already there") == len(declared.units)
    assert [i["verified"] for i in second["images"]] == [i["verified"] for i in first["images"]]
    assert _without_locks(listing(everything.store)) == before


def _without_locks(found: Listing) -> Listing:
    """Without what taking a lock writes."""
    return {name: entry for name, entry in found.items() if not name.endswith(b".lock")}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("lost", ["config", "manifest", "everything"])
def test_image_whose_writer_was_killed_before_its_config_is_copied_again(
    engine: str, lost: str, declared: Declared, everything: Lab
) -> None:
    root = everything.bind(declared.units)
    everything.run("copy", f"--engine={engine}", root, everything.target)
    file = everything.store / "overlay-images/images.json"
    records = json.loads(file.read_text())
    for record in records:
        # As containers-storage has it in between: a record without a name, files one by one.
        record["names"] = []
        keys = {"config": [f"sha256:{record['id']}"], "manifest": ["manifest"]}
        for key in keys.get(lost, record["big-data-names"]):
            (file.parent / record["id"] / big_data_file_name(key)).unlink()
    file.write_text(json.dumps(records))
    done = everything.run("copy", f"--engine={engine}", root, everything.target)
    assert done.stderr.count(": copying ") == len({record["id"] for record in records})


@pytest.mark.parametrize("engine", ENGINES)
def test_shared_base_layer_is_stored_once(engine: str, declared: Declared, everything: Lab) -> None:
    root = everything.bind(declared.units)
    everything.run("copy", f"--engine={engine}", root, everything.target)
    layers = records(everything.store, "layers")
    chains = {
        image.diff_ids[: end + 1]
        for image in (*declared.sources.images(), declared.sources.extra)
        for end in range(len(image.diff_ids))
    }
    assert len(layers) == len(chains) + 1  # PLAIN has one layer
    (base,) = declared.sources.base.diff_ids
    assert [layer["diff-digest"] for layer in layers.values()].count(base) == 1
    folders = {path.name for path in (everything.store / "overlay").iterdir() if path.is_dir()}
    assert folders - {"l"} == set(layers)


# --- the direct engine is exact ----------------------------------------------------------------


@pytest.fixture
def direct(declared: Declared, everything: Lab) -> Lab:
    """All that is declared, copied by the direct engine."""
    root = everything.bind(declared.units)
    everything.run("copy", "--engine=direct", root, everything.target)
    return everything


def _holders(declared: Declared, kind: str) -> Mapping[str, tuple[Path, dict[str, Any]]]:
    """Store and record of every layer or image that the source stores have."""
    return {
        id_: (store, record)
        for store in reversed(declared.stores)
        for id_, record in records(store, kind).items()
    }


def test_direct_copy_has_the_source_s_image_records_and_manifests(
    declared: Declared, direct: Lab
) -> None:
    sources = _holders(declared, "images")
    copied = records(direct.store, "images")
    assert len(copied) == len(declared.units) - 2  # two images have two units
    for image, record in copied.items():
        store, original = sources[image]
        changed = {key for key in record.keys() | original if record.get(key) != original.get(key)}
        assert changed <= {"names", "names-history"}
        data = f"overlay-images/{image}"
        assert listing(direct.store / data, times=False) == listing(store / data, times=False)


def test_direct_copy_has_the_source_s_layers_to_the_nanosecond(
    declared: Declared, direct: Lab
) -> None:
    sources = _holders(declared, "layers")
    for layer, record in records(direct.store, "layers").items():
        store, original = sources[layer]
        assert record == original
        tar_split = f"overlay-layers/{layer}.tar-split.gz"
        assert (direct.store / tar_split).read_bytes() == (store / tar_split).read_bytes()
        diff = f"overlay/{layer}/diff"
        assert listing(direct.store / diff) == listing(store / diff)


def test_direct_copy_keeps_holes_and_hard_links(direct: Lab) -> None:
    (sparse,) = direct.store.glob("overlay/*/diff/opt/sparse")
    assert sparse.stat().st_blocks * 512 < sparse.stat().st_size / 2
    names = ("hard-1", "hard-2", "links/hard-3")
    assert len({(sparse.parent / name).stat().st_ino for name in names}) == 1


def test_links_are_fresh_and_lower_names_those_of_all_parents(
    declared: Declared, direct: Lab
) -> None:
    overlay, layers = direct.store / "overlay", records(direct.store, "layers")
    links = {layer: (overlay / layer / "link").read_text() for layer in layers}
    for layer, (store, _) in _holders(declared, "layers").items():
        if layer in layers:
            assert links[layer] != (store / "overlay" / layer / "link").read_text()
            assert (overlay / "l" / links[layer]).readlink() == Path(f"../{layer}/diff")
    assert len(list((overlay / "l").iterdir())) == len(layers)
    for layer in layers:
        parents = [f"l/{links[parent]}" for parent in _parents(layer, layers)]
        lower = overlay / layer / "lower"
        assert (lower.read_text().split(":") if lower.exists() else []) == parents


def _parents(layer: str, layers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    parent = layers[layer].get("parent")
    return [parent, *_parents(parent, layers)] if parent else []


def test_list_manifest_and_signature_are_copied(declared: Declared, direct: Lab) -> None:
    sources = declared.sources
    kept = records(direct.store, "images")[sources.multi.id]["big-data-names"]
    assert f"manifest-{sources.multi_list_digest}" in kept
    # podman 4 keeps a signature's place for every image, even if there is none in it.
    assert set(kept) >= set(
        records(sources.store.root, "images")[sources.multi.id]["big-data-names"]
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_read_only_source_store_is_enough(
    engine: str, image_sources: ImageSources, lab: Lab, loop_fs: LoopFsFactory
) -> None:
    disk = loop_fs("ext4")
    run(("cp", "-a", image_sources.store.root, disk.mount / "store"))
    disk.remount(read_only=True)
    before = listing(disk.mount)
    root = lab.root(image_sources.app_a.name, image_sources.web_by_digest)
    argv = ("copy", f"--engine={engine}", f"--store={disk.mount}/store")
    replace(lab, source=make_store(lab.directory / "other")).run(*argv, root, lab.target)
    assert listing(disk.mount) == before


# --- other sources -----------------------------------------------------------------------------


def _layouts(sources: ImageSources) -> Mapping[str, tuple[str, str, StoredImage]]:
    """By kind: a reference, what to write for --store, and the image that it must be."""
    named = "localhost/named:2"
    by_digest = sources.web_by_digest
    return {
        "oci": (named, f"{named}={sources.oci.removesuffix(':1')}", sources.app_a),
        "oci-archive": (named, f"{named}={sources.oci_archive}", sources.app_b),
        "dir": (named, f"{named}={sources.dir}", sources.web),
        "dir-by-digest": (by_digest, sources.dir, sources.web),
    }


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "dir", "dir-by-digest"])
def test_image_of_a_layout_is_copied(kind: str, image_sources: ImageSources, lab: Lab) -> None:
    reference, spec, image = _layouts(image_sources)[kind]
    root = lab.root(reference)
    done = lab.run("copy", "--format=json", f"--store={spec}", root, lab.target)
    (copied,) = document(done)["images"]
    assert copied["engine"] == "skopeo"
    assert copied["image_id"] == image.id
    assert [layer["diff_id"] for layer in copied["layers"]] == list(image.diff_ids)
    assert lab.unknown(reference, ABSENT) == [ABSENT]
    lab.run("verify", "--source", root, lab.target)


def test_image_of_an_oci_layout_is_known_by_its_name_there(
    image_sources: ImageSources, lab: Lab
) -> None:
    name, layout = "localhost/named:1", f"oci:{lab.directory}/layout"
    image_sources.store.skopeo("copy", "-q", image_sources.oci, f"{layout}:{name}")
    lab.run("copy", f"--store={layout}", lab.root(name), lab.target)
    assert lab.unknown(name) == []


def test_nameless_layout_stands_for_nothing_by_itself(
    image_sources: ImageSources, lab: Lab
) -> None:
    root = lab.root("localhost/app-b:1")
    done = lab.run("copy", f"--store={image_sources.oci_archive}", root, lab.target, ok=4)
    assert "localhost/app-b:1" in done.stderr
    assert list(lab.target.iterdir()) == []


# --- composefs layout --------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["option", "found"])
def test_composefs_target_gets_its_own_place_and_the_compat_link(
    told: str, image_sources: ImageSources, lab: Lab
) -> None:
    if told == "found":
        (lab.target / "composefs").mkdir(mode=0o755)
    options = ("--backend=composefs",) if told == "option" else ()
    lab.run("copy", *options, lab.root(image_sources.web_by_digest), lab.target)
    assert (lab.target / "composefs").stat().st_mode & 0o7777 == 0o700
    assert (lab.target / "ostree/bootc").readlink() == Path("../composefs/bootc")
    assert (lab.target / "composefs/bootc/bound-images.json").is_file()
    store = lab.target / "composefs/bootc/storage"
    assert lab.unknown(image_sources.web_by_digest, ABSENT, store=store) == [ABSENT]
    lab.run("verify", lab.target)
    lab.run("verify", "--backend=ostree", lab.target)


# --- why this exists ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pin", "complaint"),
    [
        ("manifest", "would require changing layer representation"),
        ("list", "Digest of source image's manifest would not match destination reference"),
    ],
    ids=["manifest", "list"],
)
def test_bootc_s_own_push_of_a_pinned_image_fails_where_copy_succeeds(
    pin: str, complaint: str, image_sources: ImageSources, lab: Lab
) -> None:
    by_list = f"{image_sources.registry}/team/multi@{image_sources.multi_list_digest}"
    reference = by_list if pin == "list" else image_sources.web_by_digest
    target = f"containers-storage:[overlay@{lab.directory}/bootc+{lab.directory}/run]{reference}"
    push = ("podman", "image", "push", "--remove-signatures", reference, target)
    with pytest.raises(CommandError, match=complaint):
        run(unshared(push), env=lab.source.env)
    lab.run("copy", lab.root(reference), lab.target)
    assert lab.unknown(reference, ABSENT) == [ABSENT]


# --- nothing is touched before everything is known ---------------------------------------------


COMMANDS: Mapping[str, tuple[str, ...]] = {"check": ("check", "--target"), "copy": ("copy",)}


@pytest.fixture
def finished(image_sources: ImageSources, lab: Lab) -> Lab:
    """A lab whose target holds an image already."""
    store = f"--store={image_sources.extra_store.root}"
    lab.run("copy", store, lab.root(image_sources.extra.name), lab.target)
    return lab


def _refused(lab: Lab, command: str, *options: str, code: int = 4, root: Path) -> str:
    """Run a command that must fail and leave the target as it is; return what it says."""
    before = listing(lab.target)
    name, *where = COMMANDS[command]
    done = lab.run(name, *options, root, *where, lab.target, ok=code)
    assert listing(lab.target) == before
    return done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_one_missing_image_stops_everything(
    command: str, image_sources: ImageSources, finished: Lab
) -> None:
    missing = "quay.io/team/missing:7"
    root = finished.root(image_sources.app_a.name, missing, image_sources.web_by_digest)
    said = _refused(finished, command, root=root)
    assert f"podman pull {missing}" in said
    assert f"error: {missing} (usr/lib/bootc/bound-images.d/1.image" in said
    assert "1.image:2" in said
    assert said.count("error:") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_small_target_is_left_alone(command: str, lab: Lab, loop_fs: LoopFsFactory) -> None:
    store = make_store(lab.directory / "large")
    build_image(store, "localhost/large:1", {"blob": bytes(24 << 20)})
    disk = loop_fs("ext4", size=24 << 20)
    small = replace(lab, source=store, target=disk.mount)
    said = _refused(small, command, root=lab.root("localhost/large:1"))
    assert f"error: {disk.mount}: has " in said
    assert "free, the bound images need" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_other_image_than_the_locked_one_stops_everything(
    command: str, image_sources: ImageSources, finished: Lab
) -> None:
    locked, other = image_sources.app_a, image_sources.app_b
    root = finished.root(locked.name, image_sources.web.name)
    lock = finished.directory / "lock.json"
    finished.run("lock", root, "-o", lock)
    content = json.loads(lock.read_text())
    (entry,) = (each for each in content["images"] if each["reference"] == locked.name)
    entry["image_id"] = other.id
    lock.write_text(json.dumps(content))
    said = _refused(finished, command, f"--lock={lock}", root=root)
    assert f"its image ID is {locked.id}" in said
    assert f"demands {other.id}" in said
    assert said.count("error:") == 1


def test_locked_images_are_copied_and_verified(declared: Declared, everything: Lab) -> None:
    lock = everything.directory / "lock.json"
    root = everything.bind(declared.units)
    everything.run("lock", root, "-o", lock)
    everything.run("copy", "--lock", lock, root, everything.target)
    everything.run("verify", "--lock", lock, everything.target)


def _cut_layers(store: Path) -> None:
    path = store / "overlay-layers/layers.json"
    path.write_text(path.read_text()[:-20])


def _drop_layer_records(store: Path) -> None:
    (store / "overlay-layers/layers.json").write_text("[]")


def _remove_a_layer(store: Path) -> None:
    (layer,) = records(store, "layers")
    shutil.rmtree(store / "overlay" / layer)


def _name_twice(store: Path) -> None:
    path = store / "overlay-images/images.json"
    images = json.loads(path.read_text())
    path.write_text(json.dumps([*images, {**images[0], "id": "0" * 64}]))


DAMAGES: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "cut-layers-json": (_cut_layers, "layers.json"),
    "no-layer-records": (_drop_layer_records, "layer"),
    "layer-directory-gone": (_remove_a_layer, "layer"),
    "name-of-two-images": (_name_twice, "images.json"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_target_store_is_left_alone(
    damage: str, command: str, image_sources: ImageSources, finished: Lab
) -> None:
    change, named = DAMAGES[damage]
    change(finished.store)
    said = _refused(finished, command, root=finished.root(image_sources.app_a.name))
    assert named in said
    assert str(finished.store) in said


# --- wrong declarations ------------------------------------------------------------------------


UNITS = "/usr/share/containers/systemd"
WRONG_UNITS = {
    "no-image.container": "[Container]\nExec=/bin/true\n",
    "specifier.image": unit("quay.io/team/%i:1"),
    "auth-file.image": f"{unit('quay.io/team/a:1')}AuthFile=/etc/auth.json\n",
    "text.txt": unit("quay.io/team/b:1"),
}


@pytest.mark.parametrize("command", ["list", "check", "copy"])
def test_all_wrong_declarations_are_reported_at_once(
    command: str, image_sources: ImageSources, lab: Lab
) -> None:
    links = {
        **{name: f"{UNITS}/{name}" for name in (*WRONG_UNITS, "good.image")},
        "dangling.image": f"{UNITS}/nowhere.image",
        "escaping.image": "../../../../../../../../etc/hostname",
    }
    good = {"good.image": unit(image_sources.app_a.name)}
    root = lab.bind({**WRONG_UNITS, **good}, links=links)
    (root / "usr/lib/bootc/bound-images.d/plain.image").write_text(good["good.image"])
    argv = (command, root, lab.target) if command == "copy" else (command, root)
    done = lab.run(*argv, ok=3)
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    wrong = {*links, "plain.image"} - {"good.image"}
    assert {name for name in wrong if any(name in line for line in told)} == wrong
    assert len(told) == len(wrong)
    assert list(lab.target.iterdir()) == []


def test_wrong_declarations_and_missing_images_are_reported_together(lab: Lab) -> None:
    absent = "quay.io/team/absent:1"
    root = lab.bind({**WRONG_UNITS, "absent.image": unit(absent)})
    done = lab.run("copy", root, lab.target, ok=3)
    assert f"podman pull {absent}" in done.stderr
    assert "no-image.container" in done.stderr
    assert list(lab.target.iterdir()) == []


# --- no bound images ---------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["", "--require-bound-images"], ids=["allowed", "required"])
@pytest.mark.parametrize("command", ["list", "check", "copy", "verify"])
@pytest.mark.parametrize("directory", ["empty", "absent"])
def test_no_bound_images_is_an_outcome_of_its_own(
    directory: str, command: str, option: str, lab: Lab
) -> None:
    root = lab.root()
    if directory == "absent":
        (root / "usr/lib/bootc/bound-images.d").rmdir()
    places: Mapping[str, tuple[str | Path, ...]] = {
        "list": (root,),
        "check": (root,),
        "copy": (root, lab.target),
        "verify": ("--source", root, lab.target),
    }
    options = (option,) if option else ()
    done = lab.run(command, *places[command], *options, ok=3 if option else 0)
    assert "no bound images declared" in (done.stderr if option else done.stdout)
    assert "0 images" not in done.stdout
    assert list(lab.target.iterdir()) == []
