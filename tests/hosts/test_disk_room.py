"""How large the OS image is that bootc is going to install."""

import json
import os
from pathlib import Path

import pytest

from installer_plugin.events import Events
from installer_plugin.hosts.bootc.disk_room import system_bytes
from installer_plugin.process.runner import Runner
from installer_plugin.request import Context, Request, Work
from tests.support.images import ImageSources

pytestmark = pytest.mark.real

MEBIBYTE = 1 << 20
UNKNOWN = 'engine="podman"\nimage="localhost/never-seen:1"\n'


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A root of three MiB, which plays `/`."""
    root = tmp_path / "container"
    (root / "run").mkdir(parents=True)
    (root / "usr").mkdir()
    (root / "usr/large").write_bytes(bytes(3 * MEBIBYTE))
    return root


def measured(container: Path, store: Path) -> int | None:
    context = Context(Runner(), Events(), os.environ, system=container)
    return system_bytes(Work(Request(stores=(str(store),)), context))


@pytest.mark.parametrize(
    "note",
    ["", 'engine="podman"\nimageid="0123456789ab"\n', UNKNOWN, 'image="0123456789ab"\n'],
    ids=["empty", "only an ID", "image that is in no store", "ID for a name"],
)
def test_root_of_a_container_is_measured_where_no_store_has_its_image(
    container: Path, image_sources: ImageSources, note: str
) -> None:
    (container / "run/.containerenv").write_text(note)
    size = measured(container, image_sources.store.root)
    assert size is not None
    assert 3 * MEBIBYTE <= size < 4 * MEBIBYTE


def test_stored_image_of_a_container_counts(container: Path, image_sources: ImageSources) -> None:
    app = image_sources.app_b
    (container / "run/.containerenv").write_text(f'image="{app.name}"\n')
    layers = image_sources.store.root / "overlay-layers/layers.json"
    sizes = {each["diff-digest"]: each["diff-size"] for each in json.loads(layers.read_text())}
    expected = sum(sizes[diff_id] for diff_id in app.diff_ids)
    assert measured(container, image_sources.store.root) == expected


def test_root_of_a_machine_is_no_image(container: Path, image_sources: ImageSources) -> None:
    assert measured(container, image_sources.store.root) is None
