"""What the partitions are called that the kernel knows; no device is opened for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SYSFS = Path("/sys/class/block")


def partition_names(sysfs: Path = SYSFS) -> tuple[str, ...]:
    """Return the names (PARTLABEL) and devices of all partitions, each once.

    They come from the `uevent` files of sysfs, where the kernel itself has read the partition table.
    """
    found: list[str] = []
    for uevent in sorted(sysfs.glob("*/uevent")):
        fields = _fields(uevent)
        if fields.get("DEVTYPE") == "partition":
            found += [fields.get("PARTNAME", ""), f"/dev/{fields['DEVNAME']}"]
    return tuple(dict.fromkeys(name for name in found if name))


def _fields(uevent: Path) -> Mapping[str, str]:
    try:
        lines = uevent.read_text().splitlines()
    except OSError:
        return {}  # it is gone by now, as partitions of loop devices come and go
    return dict(line.split("=", 1) for line in lines if "=" in line)
