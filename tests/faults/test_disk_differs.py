"""What is on the disk counts, and not what the page cache still has of the copy."""

from pathlib import Path

import pytest

from tests.faults.conftest import Jobs
from tests.faults.scene import APP
from tests.support.disks import FsKind, LoopFs, LoopFsFactory

FILES = {"large": "base/large", "small": "base/3/3"}


def _flip_on_disk(disk: LoopFs, content: bytes) -> None:
    """Change the first byte of a file that the disk has, below its file system."""
    place = disk.image.read_bytes().index(content[:64])
    with disk.image.open("r+b") as backing:
        backing.seek(place)
        backing.write(bytes([content[0] ^ 1]))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("size", FILES)
def test_byte_that_only_the_disk_has_wrong_is_found(
    jobs: Jobs, loop_fs: LoopFsFactory, kind: FsKind, size: str
) -> None:
    disk = loop_fs(kind)
    job = jobs(APP, at=disk.mount)
    job.run()
    (path,) = Path(job.store, "overlay").glob(f"*/diff/{FILES[size]}")
    content = path.read_bytes()
    _flip_on_disk(disk, content)
    assert path.read_bytes() == content, "the page cache has it as it was"
    assert f"/{FILES[size]}" in job.verify(ok=(6,)).stderr
