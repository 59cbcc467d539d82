"""Root directories of test systems: one that boots, built once and cached, and one made in no time."""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import initramfs

from tests.support.commands import CommandError, run
from tests.support.leftovers import detach_below
from tests.support.sources import SourceRootBuilder
from tests.support.stores import Store

SUITE = "trixie"
PACKAGES = (
    # what the system is made of
    "systemd", "systemd-sysv", "udev", "dbus", "linux-image-cloud-amd64", "kmod", "util-linux",
    "podman", "crun", "netavark", "ostree", "ostree-boot", "ca-certificates", "busybox-static",
    # what an installer needs that runs in it
    "python3", "python3-click", "skopeo", "fdisk", "e2fsprogs", "xfsprogs", "btrfs-progs",
    "dosfstools", "cryptsetup-bin", "lvm2", "attr",
)  # fmt: skip
UNSTABLE = frozenset(("sid", "unstable"))
CACHE = Path(__file__).parent / ".cache"
MIRROR_VARIABLE = "VM_TESTS_MIRROR"
IMAGE = "localhost/os:1"
NEEDED_BYTES = 3 << 30
SMALL_KERNEL = "6.0.0-small"

_NO_SPACE = re.compile(r"No space left on device|enough free space")
_NO_MIRROR = re.compile(
    r"Could not (connect|resolve)|Temporary failure|Unable to connect|Failed to fetch"
    r"|Connection (timed out|refused)|does not have a Release file"
)
_TMPFILES = """\
d /var/home 0755 root root -
d /var/opt 0755 root root -
d /var/srv 0755 root root -
d /var/mnt 0755 root root -
d /var/media 0755 root root -
d /var/roothome 0700 root root -
d /var/lib/containers 0755 root root -
d /var/tmp 1777 root root -
"""
_TO_VAR = {
    "home": "var/home", "opt": "var/opt", "srv": "var/srv", "mnt": "var/mnt",
    "media": "var/media", "root": "var/roothome",
}  # fmt: skip
_EMPTY = ("dev", "proc", "run", "sys", "tmp", "var")
_PREPARE_ROOT_CONF = "[composefs]\nenabled = no\n[sysroot]\nreadonly = true\n"
_OS_RELEASE = 'ID=small\nNAME="Small test system"\nPRETTY_NAME="Small test system"\nVERSION_ID=1\n'
# As bootc ships it. With one `..` more than needed: at `/` that makes no difference.
_STORE_LINK = ("usr/lib/bootc/storage", "../../../../sysroot/ostree/bootc/storage")


class OsRootError(Exception):
    """The OS root cannot be built here; the message says what to do."""


def os_root(cache: Path = CACHE, suite: str = SUITE) -> Path:
    """Return the root directory of a bootable system, built on first use; raises OsRootError."""
    root = cache / f"os-{suite}-{_inputs_digest()}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / "lock-os"):
            if not root.is_dir():
                _build_whole(root, suite)
    except (CommandError, OSError) as error:
        raise _explained(error, cache) from error
    return root


def small_root(root: Path) -> Path:
    """Make a root that can be deployed but never booted, in the empty or missing directory `root`."""
    kernel = root / "usr/lib/modules" / SMALL_KERNEL
    for directory in (kernel, *(root / name for name in ("etc", "usr/bin", "usr/lib/ostree"))):
        directory.mkdir(parents=True)
    (kernel / "vmlinuz").write_text("no kernel\n")
    (kernel / "initramfs.img").write_text("no initramfs\n")
    (root / "usr/lib/os-release").write_text(_OS_RELEASE)
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / "etc/hostname").write_text("small\n")
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to("usr/lib" if name == "lib" else "usr/bin")
    _shape(root)
    return root


def declare(
    directory: Path, units: Mapping[str, str], links: Mapping[str, str] | None = None
) -> Path:
    """Write Quadlet units and the links that bind them into a new root; see SourceRootBuilder."""
    directory.mkdir(parents=True, exist_ok=True)
    return SourceRootBuilder(directory)(units, links=links)


def import_image(store: Store, root: Path, declarations: Path, name: str = IMAGE) -> str:
    """Import `root`, with what `declarations` has above it, as a bootc image; returns its ID."""
    # Merged only for reading: the cached root stays as it is, and no path is in the archive twice.
    script = (
        'mount -t overlay overlay -o "ro,lowerdir=$1:$2" "$1"\n'
        'tar --xattrs --numeric-owner -C "$1" -c . | '
        "podman import --quiet -c 'LABEL containers.bootc=1' - \"$3\"\n"
    )
    argv = ("sh", "-e", "-c", script, "sh", str(declarations), str(root), name)
    return store.run(argv).stdout.strip().removeprefix("sha256:")


def play_container(directory: Path, image_id: str) -> Path:
    """Let `directory` be `/` of a container of this image, for programs that look at /run."""
    environment = directory / "run/.containerenv"
    environment.parent.mkdir(exist_ok=True)
    environment.write_text(f'engine="podman"\nimageid="{image_id}"\n')
    return directory


# --- building ------------------------------------------------------------------------------------


def _inputs_digest() -> str:
    """Two files say everything about the root except the mirror's state of the day."""
    files = (Path(__file__), Path(initramfs.__file__))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one run build while others wait for it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_whole(root: Path, suite: str) -> None:
    """Build under another name: a directory with the right name is complete."""
    for leftover in root.parent.glob("os-*.partial"):
        detach_below(leftover)
        shutil.rmtree(leftover)
    free = shutil.disk_usage(root.parent).free
    if free < NEEDED_BYTES:
        raise OsRootError(
            f"{root.parent}: {free >> 20} MiB free, building the OS root needs "
            f"{NEEDED_BYTES >> 20} MiB: make room there"
        )
    partial = root.with_name(f"{root.name}.partial")
    _bootstrap(partial, suite)
    _shape(partial)
    _add_kernel(partial)
    same = re.compile(rf"os-({suite}-)?[0-9a-f]+")
    outdated = [old for old in root.parent.glob("os-*") if same.fullmatch(old.name)]
    partial.rename(root)
    for old in outdated:
        shutil.rmtree(old)


def _explained(error: Exception, cache: Path) -> OsRootError:
    text = str(error)
    lines = text.strip().splitlines()
    # What comes after the first error is about what did not happen because of it.
    told = next((line for line in lines if line.startswith("E: ")), lines[-1])
    if _NO_SPACE.search(text):
        return OsRootError(f"{cache}: no space left while building the OS root: make room there")
    unreachable = next((line for line in lines if _NO_MIRROR.search(line)), None)
    if unreachable:
        return OsRootError(
            f"the package mirror does not answer ({unreachable.strip()}): check the network, or "
            f"name a Debian mirror by {MIRROR_VARIABLE}=http://..."
        )
    return OsRootError(f"building the OS root failed: {told}")


def _bootstrap(root: Path, suite: str) -> None:
    mirror = os.environ.get(MIRROR_VARIABLE)
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    # A mirror that takes connections and stays silent fails, too.
    patience = [f'--aptopt=Acquire::{scheme}::Timeout "20"' for scheme in ("http", "https")]
    patience.append('--aptopt=Acquire::Retries "1"')
    if suite in UNSTABLE:
        # Its release files are good for a week, which a mirror that is a snapshot does not keep.
        patience.append('--aptopt=Acquire::Check-Valid-Until "false"')
    # No initramfs is wanted but ours, and generating one takes longer than installing all else.
    idle = 'printf "#!/bin/sh\\n" >"$1/usr/local/sbin/update-initramfs"; chmod 755 "$1"/usr/local/sbin/*'
    run(
        ("sh", "-c", 'umask 022; exec mmdebstrap "$@"', "sh", "--mode=root",
         "--variant=minbase", *excluded, '--aptopt=Apt::Install-Recommends "false"', *patience,
         f"--essential-hook={idle}", '--customize-hook=rm "$1/usr/local/sbin/update-initramfs"',
         f"--include={','.join(PACKAGES)}", suite, os.fspath(root), *([mirror] if mirror else [])),
    )  # fmt: skip


def _shape(root: Path) -> None:
    """Give a root the places that a bootc image has; a kernel in /boot is for `_add_kernel`."""
    (root / "usr/lib/sysimage").mkdir(parents=True, exist_ok=True)
    if (root / "var/lib/dpkg").is_dir():
        (root / "var/lib/dpkg").rename(root / "usr/lib/sysimage/dpkg")
    for name in (*_EMPTY, *_TO_VAR):
        shutil.rmtree(root / name, ignore_errors=True)
    for name, target in _TO_VAR.items():
        (root / name).symlink_to(target)
    for name in (*_EMPTY, "boot", "sysroot"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "ostree").symlink_to("sysroot/ostree")
    (root / "usr/lib/ostree/prepare-root.conf").write_text(_PREPARE_ROOT_CONF)
    (root / "usr/lib/tmpfiles.d").mkdir(exist_ok=True)
    (root / "usr/lib/tmpfiles.d/bootc-places.conf").write_text(_TMPFILES)
    (root / "usr/lib/bootc/bound-images.d").mkdir(parents=True)
    link, target = _STORE_LINK
    (root / link).symlink_to(target)
    (root / "etc/machine-id").write_text("")


def _add_kernel(root: Path) -> None:
    """Move kernel and initramfs to where ostree looks for them."""
    (kernel,) = (root / "usr/lib/modules").iterdir()
    (built,) = (root / "boot").glob("vmlinuz-*")
    built.rename(kernel / "vmlinuz")
    for rest in (*(root / "boot").iterdir(), *root.glob("vmlinuz*"), *root.glob("initrd.img*")):
        rest.unlink()
    initramfs.add_initramfs(root, kernel)
