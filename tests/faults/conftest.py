"""Fixtures of the fault tests."""

from pathlib import Path

import pytest

from tests.faults.scene import (
    Images,
    Job,
    build_images,
    large_images,
    little_images,
    target_store,
    units,
)
from tests.support.disks import LoopFs, LoopFsFactory
from tests.support.sources import SourceRootBuilder
from tests.support.stores import make_store


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """A store with images of some size; never to be changed by a test."""
    return build_images(tmp_path_factory.mktemp("fault-images"), large_images())


@pytest.fixture(scope="session")
def little(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """A store with images of a few files; never to be changed by a test."""
    return build_images(tmp_path_factory.mktemp("little-images"), little_images())


class Jobs:
    """Makes copies from the images to fresh targets."""

    def __init__(self, images: Images, build: SourceRootBuilder, directory: Path) -> None:
        self.images = images
        self.directory = directory
        self._build = build
        self._count = 0

    def __call__(
        self,
        *names: str,
        at: Path,
        engine: str = "direct",
        images: Images | None = None,
    ) -> Job:
        """A copy of images to a directory, which is made if it is not there."""
        self._count += 1
        scratch = self.directory / f"scratch-{self._count}"
        scratch.mkdir()
        at.mkdir(exist_ok=True)
        return Job(
            images=images or self.images,
            source=self._build(units(*names)),
            physical=at,
            engine=engine,
            scratch=scratch,
            reader=make_store(
                self.directory / f"reader-{self._count}", additional=(target_store(at),)
            ),
        )


@pytest.fixture
def jobs(images: Images, source_root: SourceRootBuilder, tmp_path: Path) -> Jobs:
    """Factory of copies."""
    directory = tmp_path / "jobs"
    directory.mkdir()
    return Jobs(images, source_root, directory)


@pytest.fixture
def disk(loop_fs: LoopFsFactory) -> LoopFs:
    """A file system to copy to."""
    return loop_fs("ext4")
