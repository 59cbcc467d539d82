"""What udevd knows about disks, asked through pyudev; waits until it knows it.

pyudev: https://pyudev.readthedocs.io. Nothing of it leaves this module.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from installer_plugin.block.base import Partition, Signature, TargetDisk
from installer_plugin.block.probe import ProbeReader
from installer_plugin.errors import DataError
from installer_plugin.process.runner import Command, Runner

WAIT_SECONDS = 30
CONTROL = Path("/run/udev/control")
DATA = Path("/run/udev/data")
SECTOR = 512
"""Unit of sizes in sysfs and in udev's properties, whatever the disk's own is."""


def udevd_runs() -> bool:
    """Whether an udevd looks after this ``/dev``."""
    return CONTROL.exists() and DATA.is_dir()


def device_mapper_env() -> dict[str, str]:
    """For libdevmapper: without udevd nobody makes the nodes that it would wait for."""
    return {} if udevd_runs() else {"DM_DISABLE_UDEV": "1"}


def ended_with_us(argv: tuple[str, ...]) -> tuple[str, ...]:
    """*argv*, killed with us: what it would set up later than that, nobody would take back."""
    return ("setpriv", "--pdeathsig", "KILL", "--", *argv)


def pyudev_missing() -> str:
    """Why pyudev cannot be used; "" when it can."""
    try:
        import_module("pyudev").Context()
    except (ImportError, OSError) as error:
        return f"pyudev cannot be used ({error})"
    return ""


def settle(runner: Runner) -> None:
    """Wait until udevd has worked off its queue; raises CommandError."""
    argv = ("udevadm", "settle", f"--timeout={WAIT_SECONDS}")
    runner.run(Command(argv=argv, purpose="wait for udevd"))


class _Device(Protocol):
    """A pyudev.Device, as far as we use it."""

    device_node: str | None
    is_initialized: bool
    properties: Mapping[str, str]


class _Context(Protocol):
    """A pyudev.Context, as far as we use it."""

    def list_devices(self, **match: str) -> _Enumerator:
        """Devices that match."""
        ...


class _Enumerator(Protocol):
    """A pyudev.Enumerator, as far as we use it."""

    def match_parent(self, parent: _Device) -> Iterable[_Device]:
        """Those below *parent*."""
        ...


_Listening = tuple[_Context, "_Monitor"]


class _Monitor(Protocol):
    """A pyudev.Monitor, as far as we use it."""

    def poll(self, timeout: float) -> object:
        """Wait for the next event."""
        ...


@dataclass(frozen=True, slots=True)
class UdevReader:
    """Reads disks from udevd's database; the kernel must have seen the partitions."""

    runner: Runner
    name: str = "udev"

    def read(self, device: Path) -> TargetDisk:
        """See :class:`base.DiskReader`; DataError too when udevd does not get ready in time."""
        pyudev: Any = import_module("pyudev")
        context = pyudev.Context()
        # Listen first: what udevd finishes between our question and our waiting must not be lost.
        monitor = pyudev.Monitor.from_netlink(context)
        monitor.filter_by("block")
        monitor.start()
        settle(self.runner)
        listening = (context, monitor)
        disk = self._ready(listening, str(device), wanted=())
        if "ID_PART_TABLE_TYPE" not in disk.properties:
            return TargetDisk(device=device, signature=_signature(disk.properties))
        # The table itself says which partitions to wait for.
        expected = ProbeReader(self.runner).table(device)
        known = _partitions_of(context, disk)
        partitions = []
        for entry in expected:
            node = known.get(entry.number)
            if node is None:
                raise DataError(
                    str(device), f"{entry} is not known to udevd, expected a node of it"
                )
            ready = self._ready(listening, node, wanted=("ID_PART_ENTRY_TYPE",))
            partitions.append(partition_of(ready.properties, entry))
        return TargetDisk(device=device, partitions=tuple(partitions))

    def _ready(self, listening: _Listening, node: str, *, wanted: tuple[str, ...]) -> _Device:
        """The device *node* once udevd has looked at it; raises DataError and CommandError."""
        devices: Any = import_module("pyudev").Devices
        context, monitor = listening
        deadline = time.monotonic() + WAIT_SECONDS
        asked = False
        while True:
            found: _Device = devices.from_device_file(context, node)
            if found.is_initialized and all(name in found.properties for name in wanted):
                return found
            if not asked:
                asked = True
                argv = ("udevadm", "trigger", "--action=change", node)
                self.runner.run(Command(argv=argv, purpose=f"have udevd look at {node}"))
            if time.monotonic() > deadline:
                raise DataError(node, f"udevd has not looked at it within {WAIT_SECONDS} s")
            monitor.poll(timeout=0.5)


def _partitions_of(context: _Context, disk: _Device) -> dict[int, str]:
    """Partition numbers and nodes that the kernel has of *disk*."""
    found = context.list_devices(subsystem="block", DEVTYPE="partition").match_parent(disk)
    return {
        int(each.properties["PARTN"]): each.device_node
        for each in found
        if each.device_node and "PARTN" in each.properties
    }


def _decoded(text: str) -> str:
    r"""Text of udev's ``*_ENC`` values: ``\x20`` for a byte that is not plain."""
    plain = re.sub(
        rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode()
    )
    return plain.decode(errors="replace")


def _signature(properties: Mapping[str, str]) -> Signature | None:
    kind = properties.get("ID_FS_TYPE")
    if not kind:
        return None
    label = properties.get("ID_FS_LABEL_ENC") or properties.get("ID_FS_LABEL") or ""
    return Signature(kind=kind, label=_decoded(label), uuid=properties.get("ID_FS_UUID") or "")


def partition_of(properties: Mapping[str, str], entry: Partition) -> Partition:
    """*entry* of a table with what udevd's properties say about its type, name and content."""
    return Partition(
        number=entry.number,
        start=entry.start,
        size=entry.size,
        type_id=str(properties.get("ID_PART_ENTRY_TYPE", entry.type_id)).lower().removeprefix("0x"),
        name=_decoded(properties.get("ID_PART_ENTRY_NAME", "")),
        signature=_signature(properties),
    )
