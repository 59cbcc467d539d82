"""The disk of `to-disk`: wiped, partitioned, formatted, mounted, and all of that undone."""

import contextlib
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from standin.process import InstallError, run, say

MOUNT_POINT = Path("/run/bootc/mounts/rootfs")
MAPPING = "bootc-standin-root"
ROOT_TYPES = {
    "x86_64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    "aarch64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    "ppc64le": "C31C45E6-3F39-412E-80FB-4809C4980599",
    "s390x": "5EEAD9A9-FE09-4A1E-A1D7-520D00531306",
}
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
XBOOTLDR = "BC13C2FF-59E6-4262-A352-B275FD6F7172"
ESP_MIB, ESP_COMPOSEFS_MIB, BOOT_MIB = 512, 1024, 510
MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-O", "verity", "-L"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-L"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-L"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is wanted of the disk."""

    device: Path
    """Block device, or a regular file with `via_loopback`."""
    via_loopback: bool
    wipe: bool
    filesystem: str
    root_size: str | None
    composefs: bool
    passphrase: str | None
    separate_boot: bool

    def table(self) -> str:
        """The partition table for sfdisk."""
        lines = ["label: gpt"]
        if platform.machine() == "x86_64":
            lines.append(f"size=1MiB, type={BIOS_BOOT}, name=BIOS-BOOT, bootable")
        esp = ESP_COMPOSEFS_MIB if self.composefs else ESP_MIB
        lines.append(f"size={esp}MiB, type={ESP}, name=EFI-SYSTEM")
        if self.separate_boot:
            lines.append(f"size={BOOT_MIB}MiB, type={XBOOTLDR}, name=boot")
        size = f"size={self.root_size}, " if self.root_size else ""
        lines.append(f"{size}type={ROOT_TYPES[platform.machine()]}, name=root")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedDisk:
    """A fresh root, mounted."""

    root: Path
    kargs: tuple[str, ...]
    """How the kernel finds it."""
    boot: Path | None = None
    """Mount point of a separate boot file system."""


@contextmanager
def fresh_disk(plan: Plan) -> Iterator[MountedDisk]:
    """Check, wipe, partition, format and mount; everything is closed again on leaving."""
    _check(plan)
    with ExitStack() as stack:
        device = _attach(plan, stack)
        _wipe(plan, device)
        say(f"Creating partitions on {device}")
        nodes = _partition(plan, device, stack)
        run(("mkfs.vfat", "-n", "EFI-SYSTEM", nodes["EFI-SYSTEM"]))
        root, kargs = _unlock(plan, nodes["root"], stack)
        uuid = _make_root(plan.filesystem, root)
        MOUNT_POINT.mkdir(parents=True)
        _mount(root, MOUNT_POINT, stack)
        boot = MOUNT_POINT / "boot"
        boot.mkdir()
        if plan.separate_boot:
            # Without verity, which blocks as small as those of a small file system do not have.
            run(("mkfs.ext4", "-q", "-F", "-L", "boot", nodes["boot"]))
            _mount(nodes["boot"], boot, stack)
        yield MountedDisk(
            root=MOUNT_POINT,
            kargs=(*kargs, f"root=UUID={uuid}", "rw"),
            boot=boot if plan.separate_boot else None,
        )


def _check(plan: Plan) -> None:
    """Everything that bootc knows before it writes."""
    try:
        mode = plan.device.stat().st_mode
    except OSError as error:
        raise InstallError(f"Opening {plan.device}: {error.strerror}") from error
    if plan.via_loopback and not stat.S_ISREG(mode):
        raise InstallError(f"Not a regular file (to be used via loopback): {plan.device}")
    if not plan.via_loopback and not stat.S_ISBLK(mode):
        raise InstallError(f"Not a block device: {plan.device}")
    if plan.passphrase is not None and not _has_device_mapper():
        raise InstallError("LUKS needs the device mapper, which this kernel does not have")


def _has_device_mapper() -> bool:
    # Nobody has asked for the module yet where nothing is encrypted. /dev/mapper/control tells
    # nothing: cryptsetup makes it even if nothing is behind it.
    with contextlib.suppress(InstallError):
        run(("modprobe", "--quiet", "dm_crypt"))
    return "device-mapper" in Path("/proc/misc").read_text()


def _attach(plan: Plan, stack: ExitStack) -> Path:
    if not plan.via_loopback:
        return plan.device
    device = run(("losetup", "--find", "--show", "--partscan", plan.device)).strip()
    stack.callback(run, ("losetup", "--detach", device))
    return Path(device)


def _wipe(plan: Plan, device: Path) -> None:
    points = run(("lsblk", "--noheadings", "--raw", "--output", "MOUNTPOINTS", device)).split()
    if points:
        raise InstallError(f"Device {device} is mounted")
    found = run(("wipefs", "--noheadings", "--output", "TYPE", device)).split()
    if found and not plan.wipe:
        raise InstallError(
            f"Detected existing {', '.join(found)} on {device}; use e.g. `wipefs` or --wipe "
            "if you intend to overwrite"
        )
    say(f"Wiping device {device}")
    for node in (*_nodes(device).values(), device):
        run(("wipefs", "--all", node))


def _partition(plan: Plan, device: Path, stack: ExitStack) -> dict[str, Path]:
    # sfdisk's own re-reading fails on a loop device without partition scanning, so it comes apart.
    script = 'printf "%s\\n" "$1" | sfdisk --quiet --wipe=always --no-tell-kernel "$2"'
    run(("sh", "-e", "-c", script, "sh", plan.table(), device))
    if not _reread(device):
        run(("partx", "--add", device))
        # Nobody else would: the kernel scans no partitions of this device.
        stack.callback(run, ("partx", "--delete", device))
    names = {
        line.split('"')[1]: number
        for number, line in enumerate(run(("sfdisk", "--dump", device)).splitlines())
        if 'name="' in line
    }
    nodes = _wait_for_nodes(device, len(names))
    return dict(zip(names, nodes.values(), strict=True))


def _reread(device: Path) -> bool:
    try:
        run(("blockdev", "--rereadpt", device))
    except InstallError:
        return False
    return bool(_nodes(device))


def _nodes(device: Path) -> dict[int, Path]:
    """Partition nodes that the kernel knows, by number."""
    folder = Path("/sys/class/block", device.resolve().name)
    found = {
        int((entry / "partition").read_text()): Path("/dev", entry.name)
        for entry in folder.iterdir()
        if (entry / "partition").is_file()
    }
    return dict(sorted(found.items()))


def _wait_for_nodes(device: Path, count: int) -> dict[int, Path]:
    deadline = time.monotonic() + 10
    while True:
        nodes = _nodes(device)
        if len(nodes) == count and all(node.is_block_device() for node in nodes.values()):
            return nodes
        if time.monotonic() > deadline:
            seen = ", ".join(map(str, nodes.values())) or "none"
            raise InstallError(f"{device}: expected {count} partitions, the kernel shows {seen}")
        time.sleep(0.05)


def _unlock(plan: Plan, node: Path, stack: ExitStack) -> tuple[Path, tuple[str, ...]]:
    """The device of the root file system, and the kernel arguments that open it."""
    if plan.passphrase is None:
        return node, ()
    read, write = os.pipe()
    os.write(write, plan.passphrase.encode())
    os.close(write)
    key = f"/proc/{os.getpid()}/fd/{read}"
    # A pipe is empty after one reading, so one shell does both steps with what it read.
    # The passphrase is a test's and guards nothing, so that it need not cost seconds.
    script = (
        'key=$(cat "$1"); '
        'printf %s "$key" | cryptsetup luksFormat --batch-mode --type=luks2 --pbkdf=pbkdf2 '
        '--pbkdf-force-iterations=1000 --key-file=- "$2"; '
        'printf %s "$key" | cryptsetup open --key-file=- "$2" "$3"'
    )
    run(("sh", "-e", "-c", script, "sh", key, node, MAPPING))
    os.close(read)
    stack.callback(run, ("cryptsetup", "close", MAPPING))
    uuid = run(("cryptsetup", "luksUUID", node)).strip()
    return Path("/dev/mapper", MAPPING), (f"luks.uuid={uuid}",)


def _make_root(filesystem: str, device: Path) -> str:
    say(f"Creating {filesystem} on {device}")
    run((*MKFS[filesystem], "root", device))
    return run(("blkid", "--probe", "--output=value", "--match-tag=UUID", device)).strip()


def _mount(device: Path, point: Path, stack: ExitStack) -> None:
    run(("mount", device, point))
    stack.callback(run, ("umount", "--recursive", point))
