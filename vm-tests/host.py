"""Where the cases install: next to the stand-in, or in a container of the OS image with bootc itself."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from command import REPOSITORY, STANDIN, Command
from container import Container, container_of

from tests.support.commands import CommandError, run, unshared
from tests.support.stores import Store

PRODUCT = ("-m", "installer_plugin")
BOOTC = Path("usr/bin/bootc")


class BootcError(Exception):
    """This bootc cannot run in this OS; the message says what to do."""


class Host(Protocol):
    """What bootc and the product find when they install the OS of a root directory."""

    @property
    def reads_gpt(self) -> bool:
        """Whether the kernel finds the partitions of a disk, as far as bootc needs it."""

    @property
    def options(self) -> tuple[str, ...]:
        """What bootc has to be told to install a system that the cases can boot."""

    def product(self, store: Store, root: Path, folder: Path, words: Sequence[str]) -> Command:
        """A command of ours that may run bootc; it sees `store` as the default one, and `folder`."""

    def bootc(self, store: Store, root: Path, folder: Path, words: Sequence[str]) -> Command:
        """A command line of bootc."""


@dataclass(frozen=True, slots=True)
class NextToStandin:
    """The machine itself, and the stand-in in bootc's place, which is told where the OS is."""

    options: tuple[str, ...] = ()
    reads_gpt: bool = True  # the stand-in does without

    def product(self, store: Store, root: Path, folder: Path, words: Sequence[str]) -> Command:
        """See Host."""
        return self.bootc(store, root, folder, (sys.executable, *PRODUCT, *words))

    def bootc(self, store: Store, root: Path, folder: Path, words: Sequence[str]) -> Command:
        """See Host."""
        del folder  # all of the machine is seen
        env = {
            **store.env,
            "PYTHONPATH": str(REPOSITORY),
            "STANDIN_CONTAINER_ROOT": str(root),
            "PATH": f"{STANDIN}:{os.environ['PATH']}",
        }
        return Command(unshared(words), env)


@dataclass(frozen=True, slots=True)
class InContainer:
    """A container of the OS, which has bootc; each OS is imported once into each store."""

    reads_gpt: bool
    """Whether the kernel finds partitions; see Container."""
    # A boot loader is not what the cases start: they read its entry.
    options: tuple[str, ...] = ("--bootloader=none", "--generic-image")
    _containers: dict[tuple[Path, Path], Container] = field(default_factory=dict)

    def product(self, store: Store, root: Path, folder: Path, words: Sequence[str]) -> Command:
        """See Host."""
        return self.bootc(store, root, folder, ("python3", *PRODUCT, *words))

    def bootc(self, store: Store, root: Path, folder: Path, words: Sequence[str]) -> Command:
        """See Host."""
        key = (store.root, root)
        if key not in self._containers:
            # bootc looks for the image by its name, which therefore no other OS may get.
            name = f"localhost/os-{len(self._containers)}:1"
            made = container_of(root, store, name=name, reads_gpt=self.reads_gpt)
            self._containers[key] = made
        return self._containers[key].command(folder, words)


def add_bootc(root: Path, bootc: Path) -> str:
    """Put bootc into an OS root; returns what it says about its version, raises BootcError."""
    shutil.copy(bootc, root / BOOTC)
    (root / BOOTC).chmod(0o755)
    script = 'mount -t proc proc "$1/proc"; exec chroot "$1" /usr/bin/bootc --version'
    try:
        return run(("unshare", "--mount", "sh", "-e", "-c", script, "sh", root)).stdout.strip()
    except CommandError as error:
        said = str(error).strip().splitlines()[-1]
        raise BootcError(
            f"{bootc} does not run in this OS: name a Debian suite with the libraries that it needs "
            f"by --suite ({said})"
        ) from error


def kernel_reads_gpt(folder: Path) -> bool:
    """Try whether this kernel finds the partitions of a disk, which those of some machines cannot."""
    disk = folder / "gpt.img"
    script = (
        'truncate --size=8M "$1"\n'
        "printf 'label: gpt\\nsize=1MiB\\n' | sfdisk --quiet \"$1\"\n"
        'device=$(losetup --find --show --partscan --read-only "$1")\n'
        "name=${device##*/}\n"
        'found=no; [ ! -e "/sys/class/block/$name/${name}p1" ] || found=yes\n'
        'losetup --detach "$device"; echo $found\n'
    )
    try:
        return run(("sh", "-e", "-c", script, "sh", disk)).stdout.strip() == "yes"
    finally:
        disk.unlink(missing_ok=True)
