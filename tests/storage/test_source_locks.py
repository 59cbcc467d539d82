"""A store that is copied from stays locked until the last image is there: nobody removes what is read."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer_plugin.model import ResolvedImage
from installer_plugin.process.pool import Crew
from installer_plugin.process.runner import Runner
from installer_plugin.storage.engine.base import Place
from installer_plugin.storage.engine.direct import DirectEngine
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.local import open_local_stores, stored_manifests
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.locks import LOCK_FILES
from tests.support.commands import unshared
from tests.support.images import ImageSources
from tests.support.product import Lab, records
from tests.support.stores import Store
from tests.unit.test_locks import Other


def _tried(store: Path) -> list[str]:
    """Whether a writer that uses the locks of podman gets them."""
    found = []
    for name in LOCK_FILES:
        with Other(store / name, "fcntl", "write") as other:
            found.append(other.got)
    return found


def _all_ways_of_reading(images: tuple[ResolvedImage, ...], root: Path) -> None:
    """What a run does between two images, and what any other part of it may do."""
    stored_manifests(images[0].source)
    with GraphRoot.open(root) as store:
        store.load()
    with open_local_stores([root], RegistriesConf(aliases={})):
        pass


def _copied(images: tuple[ResolvedImage, ...], source: Store, place: Place) -> Iterator[object]:
    return DirectEngine([source.root], Crew(Runner()), Runner()).copy_all(
        images, place, lambda _, __: None
    )


def test_writer_waits_between_two_images(
    images: tuple[ResolvedImage, ...], source: Store, place: Place
) -> None:
    copied = _copied(images, source, place)
    next(copied)
    _all_ways_of_reading(images, source.root)
    assert _tried(source.root) == ["busy", "busy"]
    assert len(list(copied)) == 1
    assert _tried(source.root) == ["free", "free"]


def test_podman_itself_waits_and_then_goes_on(
    images: tuple[ResolvedImage, ...], source: Store, place: Place
) -> None:
    copied = _copied(images, source, place)
    next(copied)
    _all_ways_of_reading(images, source.root)
    argv = unshared(("podman", "rmi", "--force", images[1].bound.reference))
    with subprocess.Popen(argv, env={**os.environ, **source.env}) as removal:
        with pytest.raises(subprocess.TimeoutExpired):
            removal.wait(timeout=4)
        list(copied)
        assert removal.wait(timeout=60) == 0
    assert images[1].image_id not in records(source.root, "images")
    assert images[1].image_id in records(place.graph_root, "images")


def test_locks_are_given_back_when_copying_fails(
    images: tuple[ResolvedImage, ...], source: Store, place: Place
) -> None:
    copied = DirectEngine([source.root], Crew(Runner()), Runner()).copy_all(
        images, place, lambda _, __: None
    )
    next(copied)
    copied.close()
    assert _tried(source.root) == ["free", "free"]


def test_target_that_is_a_source_too_is_no_reason_to_wait(
    lab: Lab, image_sources: ImageSources
) -> None:
    """As on a running system, whose podman has bootc's store as an additional one."""
    lab.run("copy", lab.root(image_sources.app_a.name), lab.target)
    both = lab.root(image_sources.app_a.name, image_sources.app_b.name)
    stores = ("--store", lab.store, "--store", lab.source.root)
    lab.run("copy", both, lab.target, *stores)
    lab.run("verify", lab.target, "--source", both)
