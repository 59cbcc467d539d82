"""What the kernel under the tests can do."""

from pathlib import Path

MISC = Path("/proc/misc")
MISSING = (
    "this kernel has no device mapper (none in /proc/misc, and no module to load);\n"
    "tests/block/with-device-mapper runs them in a virtual machine that has one"
)


def has_device_mapper(misc: str) -> bool:
    """Whether ``/proc/misc`` lists the device mapper."""
    return any(line.split()[1:] == ["device-mapper"] for line in misc.splitlines())


def device_mapper() -> bool:
    """Whether this kernel has the device mapper, or can load it."""
    modules = Path("/lib/modules") / Path("/proc/sys/kernel/osrelease").read_text().strip()
    loadable = any(modules.glob("kernel/drivers/md/dm-crypt.ko*"))
    return loadable or has_device_mapper(MISC.read_text())
