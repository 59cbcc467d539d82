"""Fixtures of the tests that copy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from installer_plugin.model import ResolvedImage
from installer_plugin.stages.resolve import resolve
from installer_plugin.storage.base import Backend
from installer_plugin.storage.engine.base import Place
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.local import open_local_stores
from installer_plugin.storage.store.target_store import TargetStore, prepare
from tests.support.debian import DebianRoot, Suite, cached_root
from tests.support.declared import Declared, declare
from tests.support.images import ImageSources
from tests.support.product import Lab
from tests.support.sources import SourceRootBuilder
from tests.support.stores import Store, copy_store
from tests.support.values import bound


@pytest.fixture(scope="session")
def declared(image_sources: ImageSources, tmp_path_factory: pytest.TempPathFactory) -> Declared:
    """Images bound in every way there is; never to be changed by a test."""
    return declare(tmp_path_factory.mktemp("declared"), image_sources)


@pytest.fixture
def lab(image_sources: ImageSources, source_root: SourceRootBuilder, tmp_path: Path) -> Lab:
    """A target, a source and the command."""
    target = tmp_path / "target"
    target.mkdir()
    return Lab(source=image_sources.store, bind=source_root, target=target, directory=tmp_path)


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Suite], DebianRoot]:
    """The root of a Debian release, made on first use."""
    roots: dict[Suite, DebianRoot] = {}

    def root(suite: Suite) -> DebianRoot:
        if suite not in roots:
            scratch = tmp_path_factory.mktemp(f"debian-{suite}")
            roots[suite] = DebianRoot(root=cached_root(suite), scratch=scratch)
        return roots[suite]

    return root


@pytest.fixture
def source(image_sources: ImageSources, tmp_path: Path) -> Store:
    """A store of our own, for others to write to."""
    return copy_store(image_sources.store.root, tmp_path / "source")


@pytest.fixture
def images(source: Store, image_sources: ImageSources) -> tuple[ResolvedImage, ...]:
    """Two of its images, on a common base."""
    names = [bound(image_sources.app_a.name), bound(image_sources.app_b.name)]
    with open_local_stores([source.root], RegistriesConf(aliases={})) as stores:
        return resolve(names, [stores]).images


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty target store."""
    target = tmp_path / "target"
    target.mkdir()
    store = TargetStore(
        physical_root=target, backend=Backend.OSTREE, bootc_dir=target / "ostree/bootc"
    )
    prepare(store)
    scratch = store.bootc_dir / "scratch"
    scratch.mkdir()
    return Place(graph_root=store.graph_root, scratch=scratch)
