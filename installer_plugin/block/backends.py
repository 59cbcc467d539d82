"""Which libraries and programs look at disks and open their layers, and why these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from installer_plugin.block.base import (
    BackendChoice,
    DiskReader,
    Key,
    LayerOpener,
    OpenOptions,
    TargetDisk,
)
from installer_plugin.block.blivet import BlivetOpener, blivet_missing
from installer_plugin.block.luks import Cryptsetup
from installer_plugin.block.lvm import activate
from installer_plugin.block.probe import ProbeReader
from installer_plugin.block.udev import UdevReader, pyudev_missing, udevd_runs
from installer_plugin.errors import DataError, HostError
from installer_plugin.events import Events
from installer_plugin.process.runner import Runner

STAGE = "disk"


@dataclass(frozen=True, slots=True)
class UtilLinuxOpener:
    """Opens layers with cryptsetup and lvm."""

    runner: Runner
    read_only: bool
    name: str = "cryptsetup and lvm"

    def open_luks(self, device: Path, mapping: str, key: Key) -> None:
        """See :class:`base.LayerOpener`."""
        Cryptsetup(self.runner, self.read_only).open(device, mapping, key)

    def activate(self, group: str, members: tuple[Path, ...]) -> None:
        """See :class:`base.LayerOpener`."""
        activate(group, members, self.runner)


@dataclass(slots=True)
class FallbackReader:
    """Asks udevd, and looks for itself when udevd does not get ready."""

    first: DiskReader
    second: DiskReader
    events: Events

    failed: bool = False

    @property
    def name(self) -> str:
        """Who has read, or would."""
        return self.second.name if self.failed else self.first.name

    def read(self, device: Path) -> TargetDisk:
        """See :class:`base.DiskReader`."""
        try:
            return self.first.read(device)
        except DataError as error:
            self.failed = True
            self.events.step(STAGE, f"looking with {self.second.name}: {error}")
            return self.second.read(device)


def choose_reader(options: OpenOptions, runner: Runner, events: Events) -> DiskReader:
    """The reader for *options*, told to *events*; raises HostError for one that cannot be had."""
    probe = ProbeReader(runner)
    if options.backend is BackendChoice.UTIL_LINUX:
        events.step(STAGE, "looking with util-linux, as asked for")
        return probe
    missing = pyudev_missing() if udevd_runs() else "udevd is not running"
    if not missing:
        events.step(STAGE, "looking with udev: udevd is running")
        return FallbackReader(UdevReader(runner), probe, events)
    if options.backend is BackendChoice.UDEV:
        hint = "use util-linux instead"
        raise HostError.of("udev", missing, hint=hint)
    events.step(STAGE, f"looking with util-linux: {missing}")
    return probe


def choose_opener(options: OpenOptions, runner: Runner, events: Events) -> LayerOpener:
    """The opener of layers for *options*, told to *events*; raises HostError, see above."""
    plain = UtilLinuxOpener(runner, options.read_only)
    wish = options.backend
    if wish in (BackendChoice.UTIL_LINUX, BackendChoice.UDEV):
        events.step(STAGE, f"opening layers with {plain.name}, as asked for")
        return plain
    missing = _blivet_unsuited(options)
    if not missing:
        events.step(STAGE, "opening layers with blivet: libblockdev is there")
        return BlivetOpener(Cryptsetup(runner, options.read_only))
    if wish is BackendChoice.BLIVET:
        hint = "leave the choice to us, which takes cryptsetup and lvm"
        raise HostError.of("blivet", missing, hint=hint)
    events.step(STAGE, f"opening layers with {plain.name}: {missing}")
    return plain


def _blivet_unsuited(options: OpenOptions) -> str:
    if options.read_only:
        # libblockdev's luks_open has a read_only argument that blivet's LUKS format never sets.
        return "blivet opens volumes for writing only"
    return blivet_missing()
