"""Disk images for the tests: partitions, file systems and what they hold."""

import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from installer_plugin.block.base import ROOT_TYPES, OpenedTarget, OpenOptions
from installer_plugin.block.target import open_target
from installer_plugin.events import Event, Events, Step, Warned
from installer_plugin.process.runner import Runner
from tests.support.commands import run

MIB = 1 << 20
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
LVM_TYPE = "e6d6d379-f507-44c2-a23c-238f2a3df928"
ROOT = ROOT_TYPES[os.uname().machine]
SYSTEM = ("ostree/repo",)
"""What a disk with an installed system has."""
MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-L"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-L"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-L"),
    "vfat": ("mkfs.vfat", "-n"),
    "swap": ("mkswap", "-q", "-L"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A partition to make; without a kind it stays empty."""

    kind: str = ""
    size: int = 64
    """MiB."""
    type: str = LINUX
    name: str = ""
    label: str = ""
    holds: Sequence[str] = ()
    """Directories to make."""
    subvolume: str = ""
    """btrfs: make them in this subvolume."""


def boot() -> Part:
    """The partition for firmware that disks begin with."""
    return Part(kind="vfat", size=34, type=ESP, name="EFI-SYSTEM", label="ESP")


def make_disk(image: Path, *parts: Part, table: str = "gpt", sector: int = 512) -> Path:
    """Make a disk image with these partitions."""
    size = sum(part.size for part in parts) + 4
    _sparse(image, size)
    script = [f"label: {table}", f"sector-size: {sector}"]
    start = 1
    for number, part in enumerate(parts):
        name = f', name="{part.name}"' if part.name else ""
        script.append(f"start={start}MiB, size={part.size}MiB, type={part.type}{name}")
        if part.kind:
            content = image.with_name(f"{image.name}.{number}")
            make_file_system(content, part)
            place(content, image, start)
            content.unlink()
        start += part.size
    _sfdisk(image, script, sector)
    return image


def _sfdisk(image: Path, script: Sequence[str], sector: int) -> None:
    text = "\n".join(line for line in script if "sector-size" not in line)
    argv: tuple[str | Path, ...] = ("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", image)
    if sector == 512:
        subprocess.run(argv, input=text.encode(), check=True)
        return
    loop = run(("losetup", "--find", "--show", "--sector-size", str(sector), image)).stdout.strip()
    try:
        subprocess.run((*argv[:-1], loop), input=text.encode(), check=True)
    finally:
        run(("losetup", "--detach", loop))


def make_file_system(file: Path, part: Part) -> Path:
    """Make a file that holds a file system."""
    _sparse(file, part.size)
    run((*MKFS[part.kind], part.label, file))
    if part.holds:
        with mounted(file) as root:
            if part.subvolume:
                (root / part.subvolume).parent.mkdir(parents=True, exist_ok=True)
                run(("btrfs", "--quiet", "subvolume", "create", root / part.subvolume))
            for folder in part.holds:
                (root / part.subvolume / folder).mkdir(parents=True)
    return file


def place(content: Path, image: Path, start: int) -> None:
    """Write a file into an image, at so many MiB from its start."""
    run(("dd", f"if={content}", f"of={image}", "bs=1M", f"seek={start}", "conv=notrunc,sparse",
         "status=none"))  # fmt: skip


def _sparse(file: Path, size: int) -> None:
    with file.open("wb") as new:
        new.truncate(size * MIB)


@contextmanager
def mounted(device: Path, *options: str) -> Iterator[Path]:
    """What is on a file or device, mounted beside it."""
    loop = () if device.is_block_device() else ("loop",)
    point = Path("/run") / f"bound-images-test-{uuid.uuid4().hex[:8]}"
    point.mkdir()
    try:
        run(("mount", "-o", ",".join((*loop, "rw", *options)), device, point))
        try:
            yield point
        finally:
            run(("umount", point))
    finally:
        point.rmdir()


@contextmanager
def attached(image: Path, *, partitions: bool = True) -> Iterator[Path]:
    """An image as a disk of the machine."""
    loop = Path(run(("losetup", "--find", "--show", "--partscan", image)).stdout.strip())
    try:
        if partitions and not list(loop.parent.glob(f"{loop.name}p*")):
            run(("partx", "--add", loop))  # not every kernel reads every table
        yield loop
    finally:
        run(("losetup", "--detach", loop))


@dataclass(slots=True)
class Told:
    """What the log was told."""

    events: list[Event] = field(default_factory=list)

    def send(self, event: Event) -> None:
        self.events.append(event)

    @property
    def text(self) -> str:
        return "\n".join(e.message for e in self.events if isinstance(e, Step | Warned))


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens targets with a state directory of the test's own."""

    state: Path
    told: Told = field(default_factory=Told)

    @contextmanager
    def __call__(self, path: Path, **options: object) -> Iterator[OpenedTarget]:
        """Open a target; options are those of OpenOptions."""
        asked = OpenOptions(state=self.state, **options)  # type: ignore[arg-type]
        with open_target(path, asked, Runner(), Events([self.told])) as target:
            yield target
        assert self.left() == [], self.told.text

    def left(self) -> list[str]:
        """Private directories that are there."""
        return sorted(path.name for path in self.state.glob("target-*"))
