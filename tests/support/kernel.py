"""What the kernel under the tests can do, and does for them."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

MISC = Path("/proc/misc")
FILE_SYSTEMS = Path("/proc/filesystems")
ELSEWHERE = "tests/block/with-device-mapper runs them in a virtual machine that has one"
MISSING = (
    "this kernel has no device mapper (none in /proc/misc, and no module to load);\n" + ELSEWHERE
)
NO_VFAT = "this kernel has no vfat (not in /proc/filesystems, no module to load);\n" + ELSEWHERE
NO_NBD = f"this kernel has no network block devices (modprobe nbd);\n{ELSEWHERE}"
HIDE_DEVICE_MAPPER = f"mount --bind /dev/null {MISC}\n"
"""A shell's command, in mounts of its own, after which the kernel seems to have none."""


@contextmanager
def orphans_come_to_us() -> Iterator[None]:
    """Be to all that is started below us what the first process of a container is."""
    set_subreaper = partial(ctypes.CDLL(None).prctl, 36)  # PR_SET_CHILD_SUBREAPER
    set_subreaper(1)
    try:
        yield
    finally:
        set_subreaper(0)


def has_device_mapper(misc: str) -> bool:
    """Whether ``/proc/misc`` lists the device mapper."""
    return any(line.split()[1:] == ["device-mapper"] for line in misc.splitlines())


def device_mapper() -> bool:
    """Whether this kernel has the device mapper, or can load it."""
    return _can_load("drivers/md/dm-crypt") or has_device_mapper(MISC.read_text())


def vfat() -> bool:
    """Whether this kernel can mount an EFI system partition, or load what can."""
    return _can_load("fs/fat/vfat") or "\tvfat\n" in FILE_SYSTEMS.read_text()


def nbd() -> bool:
    """Whether this kernel has network block devices; it loads what makes them only when it is told."""
    return Path("/sys/class/block/nbd0").exists()


def _can_load(module: str) -> bool:
    modules = Path("/lib/modules") / Path("/proc/sys/kernel/osrelease").read_text().strip()
    return any(modules.glob(f"kernel/{module}.ko*"))
