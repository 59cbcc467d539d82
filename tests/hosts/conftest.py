"""The scene of an installation, and images for it."""

from pathlib import Path

import osroot
import pytest

from tests.faults.scene import Images, build_images, little_images
from tests.hosts.scene import Scene, make_disk
from tests.support.hooked import Hooked


@pytest.fixture(scope="session")
def little(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Images that are copied in no time; never to be changed by a test."""
    return build_images(tmp_path_factory.mktemp("little"), little_images())


@pytest.fixture
def scene(tmp_path: Path, little: Images) -> Scene:
    """A container without bound images, an empty disk, no hooks."""
    (tmp_path / "hooks/etc").mkdir(parents=True)
    return Scene(
        directory=tmp_path,
        container=osroot.small_root(tmp_path / "container"),
        store=little.store,
        hooks=Hooked(tmp_path / "hooks"),
        disk=make_disk(tmp_path / "disk.img"),
    )
