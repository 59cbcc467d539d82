"""Stores that one podman version has written, copied, and read back by all others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.crafted import LOWER, UPPER, layer_tar, write_layout
from tests.support.debian import DebianRoot, Suite
from tests.support.images import ImageSources
from tests.support.product import Lab, document, listing, records
from tests.support.stores import make_store

Debian = Callable[[Suite], DebianRoot]
SUITES = ["bookworm", "trixie", pytest.param("sid", marks=pytest.mark.moving)]

# Everything comes from layouts or the registry, and is written by this podman and skopeo alone.
_WRITE = """
set -e
cat > /run/storage.conf <<END
[storage]
driver = "overlay"
graphroot = "/store/root"
runroot = "/run/containers/storage"
[storage.options]
pull_options = {enable_partial_images = "$PARTIAL", use_hard_links = "false", ostree_repos = ""}
END
mkdir -p /etc/containers/registries.conf.d
printf '[[registry]]\\nlocation = "%s"\\ninsecure = true\\n' "$REGISTRY" \
    > /etc/containers/registries.conf.d/loopback.conf
export CONTAINERS_STORAGE_CONF=/run/storage.conf
podman() { command podman --cgroup-manager=cgroupfs --events-backend=none "$@"; }
skopeo copy --quiet oci:/layouts/chunked:1 containers-storage:localhost/chunked:1
podman push --quiet --compression-format zstd:chunked localhost/chunked:1 "docker://$CHUNKED"
podman rmi --force localhost/chunked:1
# First, so that its base layer is pulled; the other images on that base share it then.
for name in "$CHUNKED" $PULL; do
    podman pull --quiet "$name"
done
skopeo copy --quiet oci:/layouts/app:1 containers-storage:localhost/app:1
skopeo copy --quiet oci:/layouts/crafted:1 containers-storage:localhost/crafted:1
mkdir /tmp/context
echo own > /tmp/context/own
printf 'FROM localhost/app:1\nCOPY own /own\n' > /tmp/context/Containerfile
podman build --quiet --pull=never --isolation=chroot --tag localhost/built:1 /tmp/context
"""

_READ = """
podman() {
    command podman --root /run/read/root --runroot /run/read/run --cgroup-manager=cgroupfs \
        --events-backend=none --storage-opt additionalimagestore=/store "$@"
}
for name; do
    podman image exists "$name" || echo "missing: $name"
    podman create --pull=never --network=none "$name" sh > /dev/null || echo "unusable: $name"
    podman image inspect --format "{{.Id}} $name" "$name"
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A store that a Debian release's podman has written."""

    graph_root: Path
    names: tuple[str, ...]
    """Of all its images, digests among them."""
    chunked: str
    """Name of the one that was pulled in parts."""


def _write(base: Path, sources: ImageSources, suite: Suite, debian: DebianRoot) -> Written:
    layouts = base / "layouts"
    (base / "store").mkdir()
    write_layout(layouts / "crafted", "1", [layer_tar(LOWER), layer_tar(UPPER)])
    sources.store.skopeo("copy", "--quiet", sources.oci, f"oci:{layouts}/app:1")
    # podman cannot push names that are not UTF-8 this way: not app_a.
    sources.store.skopeo("copy", "--quiet", sources.oci_archive, f"oci:{layouts}/chunked:1")
    repository = f"{sources.registry}/team"
    by_list = f"{repository}/multi@{sources.multi_list_digest}"
    pulled = (sources.web.name, sources.web_by_digest, sources.pinned.name, by_list)
    chunked = f"{repository}/chunked-{suite}:1"
    env = {
        "REGISTRY": sources.registry,
        "PULL": " ".join(pulled),
        "CHUNKED": chunked,
        "PARTIAL": "false" if suite == "bookworm" else "true",  # an experiment in podman 4
    }
    debian.run(
        ("sh", "-c", _WRITE), rw={"/store": base / "store"}, ro={"/layouts": layouts}, env=env
    )
    local = ("localhost/app:1", "localhost/crafted:1", "localhost/built:1")
    return Written(
        graph_root=base / "store/root", names=(*local, *pulled, chunked), chunked=chunked
    )


@pytest.fixture(scope="module")
def written(
    image_sources: ImageSources, debian: Debian, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Suite], Written]:
    """A release's store, written on first use and never to be changed."""
    stores: dict[Suite, Written] = {}

    def write(suite: Suite) -> Written:
        if suite not in stores:
            base = tmp_path_factory.mktemp(suite)
            stores[suite] = _write(base, image_sources, suite, debian(suite))
        return stores[suite]

    return write


@pytest.fixture
def copier(lab: Lab) -> Lab:
    """A lab whose default store is empty."""
    return replace(lab, source=make_store(lab.directory / "default"))


def _copy(lab: Lab, store: Written, engine: str) -> Mapping[str, str]:
    """Copy all images, and return their IDs by name."""
    root = lab.root(*store.names)
    argv = ("copy", "--format=json", f"--engine={engine}", f"--store={store.graph_root}")
    done = document(lab.run(*argv, root, lab.target))
    assert {image["engine"] for image in done["images"]} == {engine}
    lab.run("verify", "--source", root, lab.target)
    return {image["reference"]: image["image_id"] for image in done["images"]}


@pytest.mark.parametrize("reader", SUITES)
@pytest.mark.parametrize("writer", SUITES)
def test_store_of_every_podman_is_copied_and_read_by_every_other(
    writer: Suite,
    reader: Suite,
    written: Callable[[Suite], Written],
    debian: Debian,
    copier: Lab,
) -> None:
    store = written(writer)
    ids = _copy(copier, store, "direct")
    before = listing(copier.store)
    seen = debian(reader).run(("sh", "-c", _READ, "sh", *store.names), ro={"/store": copier.store})
    assert sorted(seen.stdout.splitlines()) == sorted(f"{id_} {name}" for name, id_ in ids.items())
    assert listing(copier.store) == before


@pytest.mark.parametrize("writer", SUITES)
def test_this_machine_s_podman_reads_the_copy_too(
    writer: Suite, written: Callable[[Suite], Written], copier: Lab
) -> None:
    store = written(writer)
    _copy(copier, store, "direct")
    assert copier.unknown(*store.names, "localhost/absent:1") == ["localhost/absent:1"]


@pytest.mark.parametrize("writer", SUITES)
def test_layers_of_every_podman_are_copied_exactly(
    writer: Suite, written: Callable[[Suite], Written], copier: Lab
) -> None:
    store = written(writer)
    _copy(copier, store, "direct")
    originals = records(store.graph_root, "layers")
    for layer, record in records(copier.store, "layers").items():
        assert record == {k: v for k, v in originals[layer].items() if k != "names"}
        diff = f"overlay/{layer}/diff"
        assert listing(copier.store / diff) == listing(store.graph_root / diff)
        # Written by new podmans, and then preferred to `lower`: IDs, so the same in both.
        ids = f"overlay/{layer}/lower-layers"
        assert (copier.store / ids).exists() == (store.graph_root / ids).exists()
        if (copier.store / ids).exists():
            assert (copier.store / ids).read_text() == (store.graph_root / ids).read_text()


@pytest.mark.parametrize("engine", ["direct", "skopeo"])
@pytest.mark.parametrize("writer", SUITES[1:])
def test_image_that_was_pulled_in_parts_is_copied_without_false_alarm(
    writer: Suite, engine: str, written: Callable[[Suite], Written], copier: Lab
) -> None:
    store = written(writer)
    images = records(store.graph_root, "images").values()
    (image,) = (each for each in images if store.chunked in each.get("names", ()))
    top = records(store.graph_root, "layers")[image["layer"]]
    assert top["toc-digest"].startswith("sha256:")
    ids = _copy(copier, replace(store, names=(store.chunked,)), engine)
    assert ids == {store.chunked: image["id"]}
    copied = records(copier.store, "layers")[image["layer"]]
    assert ("toc-digest" in copied) == (engine == "direct")
    big_data = copied.get("big-data-names", [])
    folder = copier.store / "overlay-layers" / image["layer"]
    assert len(list(folder.iterdir()) if folder.exists() else []) == len(big_data)


def test_releases_have_the_podmans_that_they_are_here_for(debian: Debian) -> None:
    versions = {
        suite: debian(suite).run(("podman", "--version")).stdout.split()[-1]
        for suite in ("bookworm", "trixie")
    }
    assert {suite: version[:2] for suite, version in versions.items()} == {
        "bookworm": "4.", "trixie": "5.",
    }  # fmt: skip
