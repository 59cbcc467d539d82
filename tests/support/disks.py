"""Freshly made file systems on loop devices."""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.commands import CommandError, run

FsKind = Literal["ext4", "xfs", "btrfs"]

MKFS: dict[FsKind, tuple[str, ...]] = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
DEFAULT_SIZE = 512 << 20  # mkfs.xfs refuses less than 300 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopFs:
    """A mounted file system and the sparse file that holds it."""

    image: Path
    mount: Path

    @property
    def device(self) -> Path:
        """The loop device that is mounted here."""
        return Path(_findmnt("SOURCE", self.mount))

    @property
    def kind(self) -> str:
        """File-system type as the kernel names it."""
        return _findmnt("FSTYPE", self.mount)

    def remount(self, *, read_only: bool) -> None:
        """Make the whole file system read-only, or writable again."""
        run(("mount", "-o", f"remount,{'ro' if read_only else 'rw'}", self.mount))

    def snapshot(self, image: Path) -> Path:
        """Copy the backing file as it is now, as a power failure would leave it."""
        run(("cp", "--sparse=always", "--reflink=auto", self.image, image))
        return image


class LoopFsFactory:
    """Makes and mounts file systems, and takes all of them down again."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._count = 0

    def __call__(self, kind: FsKind = "ext4", size: int = DEFAULT_SIZE) -> LoopFs:
        """Make a file system of this kind in a sparse file of `size` bytes and mount it."""
        image = self._new(f"{kind}.img")
        with image.open("wb") as sparse:
            sparse.truncate(size)
        run((*MKFS[kind], image))
        return self.attach(image)

    def attach(self, image: Path, *, read_only: bool = False) -> LoopFs:
        """Mount an image file that exists, such as a snapshot."""
        mount = self._new("mnt")
        mount.mkdir()
        # Mounted this way the device is released by the kernel with the last mount, also when
        # the test run is killed. nouuid: a snapshot has the identity of its original (xfs).
        options = ["loop", "ro" if read_only else "rw"]
        if run(("blkid", "-p", "-o", "value", "-s", "TYPE", image)).stdout.strip() == "xfs":
            options.append("nouuid")
        run(("mount", "-o", ",".join(options), image, mount))
        self._stack.callback(_unmount, mount)
        return LoopFs(image=image, mount=mount)

    def _new(self, name: str) -> Path:
        self._count += 1
        return self._directory / f"{self._count}-{name}"


def _unmount(mount: Path) -> None:
    if not mount.is_mount():
        return
    try:
        run(("umount", "--recursive", mount))
    except CommandError:
        # Something holds it: the test fails, but the machine gets its device back.
        subprocess.run(("umount", "--recursive", "--lazy", mount), check=False)
        raise


def _findmnt(column: str, mount: Path) -> str:
    return run(
        ("findmnt", "--noheadings", "--output", column, "--mountpoint", mount)
    ).stdout.strip()
