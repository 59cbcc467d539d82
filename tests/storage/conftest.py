"""Fixtures of the tests that copy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.debian import DebianRoot, Suite, cached_root
from tests.support.declared import Declared, declare
from tests.support.images import ImageSources
from tests.support.product import Lab
from tests.support.sources import SourceRootBuilder


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
