"""The initramfs of the test system: small, and quick under emulation."""

import lzma
import re
import shutil
from pathlib import Path

from tests.support.commands import run

# Loaded at once, and a set for each kind of root that needs more.
_MODULES = {
    "always": ("virtio_pci", "virtio_blk", "nvme", "virtio_console", "ext4", "overlay"),
    "xfs": ("xfs",),
    "btrfs": ("btrfs",),
    "luks": ("dm_crypt", "xts", "algif_skcipher"),
}
_PREPARE_ROOT = "/usr/lib/ostree/ostree-prepare-root"
_PROGRAMS = (_PREPARE_ROOT, "/usr/sbin/cryptsetup")

_INIT = """\
#!/bin/busybox sh
# Initramfs of the test system: finds root=, lets ostree prepare it, and starts it.
export PATH=/bin:/usr/sbin
busybox mkdir -p /proc /sys /dev /run /sysroot /newroot
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=755 tmpfs /run

load() {
    while read -r module; do insmod "/modules/$module" 2>/dev/null; done <"/modules/$1"
}
# Powering off ends the test at once; its result is missing, which is a failure.
die() {
    echo "initramfs: $*"
    echo "initramfs: block devices here:"
    cat /proc/partitions
    blkid
    poweroff -f
}
# Sets device.
await() {
    tries=0
    until device=$(findfs "$1" 2>/dev/null) && [ -b "$device" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die "$1 does not appear"
        sleep 0.1
    done
}
load always
micro= luks= composefs=
for word in $(cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
        luks.uuid=*) luks=${word#luks.uuid=} ;;
        passphrase=*) passphrase=${word#passphrase=} ;;
        composefs=*) composefs=${word#composefs=} ;;
        micro=*) micro=${word#micro=} ;;
    esac
done
if [ "$luks" ]; then
    # The passphrase is typed by a file of the tar archive on the disk passphrase=DEVICE.
    load luks
    await "UUID=$luks"
    busybox tar -x -O -f "$passphrase" passphrase |
        DM_DISABLE_UDEV=1 cryptsetup open --type=luks2 --key-file=- "$device" root ||
        die "the passphrase does not open $device"
fi
await "$root"
mounted=
for kind in ext4 xfs btrfs; do
    [ "$kind" = ext4 ] || load "$kind"
    mount -t "$kind" "$device" /sysroot 2>/dev/null && mounted=yes && break
done
[ "$mounted" ] || die "$device has no file system of a known kind"
if [ "$composefs" ]; then
    # As bootc's composefs backend does it, but for the composefs image: see the stand-in.
    new=/newroot
    mount --bind "/sysroot/composefs/standin/$composefs" $new || die "no deployment $composefs"
    mount --bind "/sysroot/state/deploy/$composefs/etc" $new/etc
    mount --bind "/sysroot/state/deploy/$composefs/var" $new/var
    mount --move /sysroot $new/sysroot
    mount -o remount,bind,ro $new
else
    new=/sysroot
    /usr/lib/ostree/ostree-prepare-root /sysroot || die "ostree-prepare-root failed"
fi
for place in proc sys dev run; do mount --move "/$place" "$new/$place"; done
[ "$micro" ] || exec switch_root $new /sbin/init

# Without an init system: run the program `check` of the tar archive on the disk micro=DEVICE.
exec switch_root $new /usr/bin/busybox sh -c '
    export PATH=/usr/sbin:/usr/bin HOME=/var/roothome
    for place in /tmp /var /dev/shm; do
        mkdir -p "$place"
        mount -t tmpfs tmpfs "$place"
    done
    mkdir -p /run/micro /var/tmp /var/lib/containers "$HOME"
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    busybox tar -x -f "$1" -C /run/micro
    /run/micro/check
    echo "micro: check ended with $?"
    sync
    busybox poweroff -f' sh "$micro"
"""


def add_initramfs(root: Path, kernel: Path) -> None:
    """Write `initramfs.img` beside the modules in `kernel`, a directory of the OS in `root`."""
    stage = root / "tmp/initramfs"
    stage.mkdir()
    _fill(root, kernel, stage)
    script = "cd /tmp/initramfs && busybox find . | busybox cpio -o -H newc"
    archive = kernel / "initramfs.img"
    run(("sh", "-c", 'chroot "$1" sh -e -c "$2" >"$3"', "sh", root, script, archive))
    shutil.rmtree(stage)


def _fill(root: Path, kernel: Path, stage: Path) -> None:
    (stage / "init").write_text(_INIT)
    (stage / "init").chmod(0o755)
    (stage / "bin").mkdir()
    shutil.copy(root / "usr/bin/busybox", stage / "bin")
    for file in (*_PROGRAMS, *(each for name in _PROGRAMS for each in _libraries(root, name))):
        copy = stage / file.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file.lstrip("/"), copy)
    shutil.copy(root / "usr/lib/ostree/prepare-root.conf", stage / "usr/lib/ostree")
    (stage / "modules").mkdir()
    for name, wanted in _MODULES.items():
        files = _module_files(root, kernel.name, wanted)
        for file in files:
            unpacked = lzma.decompress((root / file.lstrip("/")).read_bytes())
            (stage / "modules" / Path(file).stem).write_bytes(unpacked)
        (stage / "modules" / name).write_text("".join(f"{Path(file).stem}\n" for file in files))


def _libraries(root: Path, program: str) -> list[str]:
    listed = run(("chroot", root, "ldd", program)).stdout
    return re.findall(r"(/\S+) \(0x", listed)


def _module_files(root: Path, version: str, modules: tuple[str, ...]) -> list[str]:
    """Files in the order in which they can be loaded; what is built in has none."""
    listed = [
        run(("chroot", root, "modprobe", "-S", version, "--show-depends", module)).stdout
        for module in modules
    ]
    return list(dict.fromkeys(re.findall(r"^insmod (\S+)", "".join(listed), re.MULTILINE)))
