"""Root directories of Debian releases, for the podman versions and the Quadlet that they have."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.commands import run, unshared

Suite = Literal["bookworm", "trixie", "sid"]
"""Debian 12 (podman 4.3), 13 (podman 5.4) and the moving one."""
PACKAGES = ("podman", "crun", "skopeo")
CACHE = Path(__file__).parents[1] / ".cache"
QUADLET = "/usr/libexec/podman/quadlet"
"""Debian's place for it; Fedora has it in /usr/libexec/podman too."""

# The root is only the lower half of an overlay: what runs there may write anywhere and leaves
# nothing behind. The overlay also makes "/" a mount point, which unpacking layers needs. Stores
# lie on a tmpfs, because overlayfs takes no overlay for its upper half.
_ENTER = """
root=$1 scratch=$2
shift 2
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" \
    "$scratch/root"
cd "$scratch/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --rbind /dev dev
# Devices can be used, but not replaced: they are the machine's own.
mount -o remount,bind,ro dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs var/tmp
mkdir -p var/lib/containers
mount -t tmpfs tmpfs var/lib/containers
while [ "$1" != -- ]; do
    mkdir -p ".$3"
    mount --bind "$2" ".$3"
    [ "$1" = rw ] || mount -o remount,bind,ro ".$3"
    shift 3
done
shift
export TMPDIR=/var/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec chroot . "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianRoot:
    """A root directory that commands run in, each in mounts of its own."""

    root: Path
    scratch: Path
    """Empty directory below which a command's mounts are made."""

    def run(
        self,
        argv: Sequence[str],
        *,
        rw: Mapping[str, Path] | None = None,
        ro: Mapping[str, Path] | None = None,
        env: Mapping[str, str] | None = None,
        ok: Sequence[int] = (0,),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there, directories of this machine bound to `{path inside: directory}`."""
        binds: list[str] = []
        for mode, mounts in (("rw", rw or {}), ("ro", ro or {})):
            for inside, directory in mounts.items():
                binds += (mode, os.fspath(directory), inside)
        enter = (os.fspath(self.root), os.fspath(self.scratch), *binds, "--", *argv)
        return run(unshared(enter, prelude=_ENTER), env=env, ok=ok)


def cached_root(suite: Suite = "trixie") -> Path:
    """Return the root directory of a release with PACKAGES, made by mmdebstrap on first use."""
    key = hashlib.sha256(" ".join((suite, *sorted(PACKAGES))).encode()).hexdigest()[:12]
    CACHE.mkdir(exist_ok=True)
    root = CACHE / f"{suite}-{key}"
    with _locked(CACHE / f"lock-{suite}"):
        if not root.is_dir():
            _build(root, suite)
    return root


def _build(root: Path, suite: Suite) -> None:
    partial = root.with_name(f"{root.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    # A mirror that is not renewed every week has a sid that counts as expired; its signature is
    # checked all the same.
    options = ('--aptopt=Acquire::Check-Valid-Until "false"',) if suite == "sid" else ()
    # umask: the root must not inherit a stricter one, or its users could not read it.
    run(
        ("sh", "-c", 'umask 022; exec mmdebstrap "$@"', "sh", "--quiet", "--mode=root",
         "--variant=minbase", f"--include={','.join(PACKAGES)}", *options,
         suite, os.fspath(partial)),
    )  # fmt: skip
    partial.rename(root)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one test run build while others wait for it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
