"""A machine for `install`: a container root to install, stores, hooks, disks, the stand-in for bootc."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.commands import run, unshared
from tests.support.fork_server import forked_command
from tests.support.hooked import Hooked
from tests.support.leftovers import Machine
from tests.support.product import COMMAND, LEFT_MOUNTS, STORE
from tests.support.stores import Store

STANDIN = Path(__file__).parents[2] / "vm-tests/standin"
DISK_BYTES = 1 << 30
TO_DISK = ("to-disk", "--via-loopback", "--wipe", "--filesystem=ext4")
RECEIPT = "ostree/bootc/bound-images.json"
ENTRIES = "boot/loader/entries"
ASIDE = ".bound-images-missing"
EDGE = 16 << 20
"""Bytes at both ends of a disk in which a wipe and a partition table leave their marks."""
SCRATCH = "bound-images-scratch-*"

# What the command sees as `/` is the machine, with the container's /usr and the test's hooks over it.
PRELUDE = (
    "mkdir -p /var/lib/containers\n"
    "mount -t tmpfs tmpfs /var/lib/containers\n"
    '[ -z "$SCENE_USR" ] || mount -t overlay overlay -o "ro,lowerdir=$SCENE_USR:/usr" /usr\n'
    # podman writes below /etc.
    "mount -t tmpfs tmpfs /mnt\n"
    "mkdir /mnt/upper /mnt/work\n"
    'over="upperdir=/mnt/upper,workdir=/mnt/work"\n'
    'mount -t overlay overlay -o "lowerdir=$SCENE_ETC:/etc,$over" /etc\n'
    # The machine's policy is none of the container's.
    "[ ! -d /etc/selinux ] || mount -t tmpfs tmpfs /etc/selinux\n"
    "mounts() { cut -d' ' -f3-5 /proc/self/mountinfo; }\n"
    "before=$(mounts)\n"
    "status=0\n"
    'sh -c \'echo $$ >"$SCENE_PID"; exec "$@"\' sh "$@" || status=$?\n'
    'if mounts | grep --invert-match --line-regexp --fixed-strings "$before"; then\n'
    '    echo "was left mounted" >&2\n'
    f"    exit {LEFT_MOUNTS}\n"
    "fi\n"
    "exit $status\n"
)  # fmt: skip


def unit(image: str) -> str:
    return f"[Image]\nImage={image}\n"


def bind(root: Path, *images: str) -> None:
    """Bind images in a root, by an absolute link each."""
    folder = root / "usr/share/containers/systemd"
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        (folder / f"{number}.image").write_text(unit(image))
        link = root / f"usr/lib/bootc/bound-images.d/{number}.image"
        link.unlink(missing_ok=True)
        link.symlink_to(f"/usr/share/containers/systemd/{number}.image")


def make_disk(image: Path, size: int = DISK_BYTES) -> Path:
    """An empty, sparse disk image."""
    with image.open("wb") as sparse:
        sparse.truncate(size)
    return image


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where one test installs, and with what."""

    directory: Path
    container: Path
    """The root that is installed, and plays `/` for bootc."""
    store: Store
    """podman's default store."""
    hooks: Hooked
    """Its `etc` is laid over the machine's."""
    disk: Path

    def env(self, env: Mapping[str, str] | None = None, *, inside: bool = True) -> dict[str, str]:
        """What a call needs in its environment."""
        return {
            **self.store.env,
            "PATH": f"{STANDIN}:{os.environ['PATH']}",
            "STANDIN_CONTAINER_ROOT": str(self.container),
            "SCENE_USR": str(self.container / "usr") if inside else "",
            "SCENE_ETC": str(self.hooks.root / "etc"),
            "SCENE_PID": str(self.directory / "pid"),
            **(env or {}),
        }

    def argv(
        self,
        words: Sequence[str | Path] = (),
        *,
        own: Sequence[str | Path] = (),
        inside: bool,
        prelude: str = PRELUDE,
        command: Sequence[str] = COMMAND,
    ) -> tuple[str, ...]:
        """The call, in mounts of its own; to the disk unless words are given."""
        source = () if inside else ("--source-root", self.container)
        words = words or (*TO_DISK, self.disk)
        return unshared((*command, "install", *source, *own, *words), prelude=prelude)

    def install(
        self,
        *words: str | Path,
        own: Sequence[str | Path] = (),
        inside: bool = True,
        ok: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `install OWN WORDS`, to the disk unless words are given.

        With `inside` the container's declarations are those of `/`, as where bootc is run; without
        it the container is named by --source-root.
        """
        before = Machine.now().loops
        argv = self.argv(words, own=own, inside=inside, command=forked_command())
        done = run(argv, env=self.env(env, inside=inside), ok=(ok,))
        assert "Traceback" not in done.stderr, done.stderr
        assert self.left_over(before) == []
        return done

    def left_over(self, loops_before: frozenset[str]) -> list[str]:
        """Loop devices on our files that were not there, and scratch directories."""
        loops = Machine.now().loops - loops_before
        scratch = (
            path for place in ("/run", str(self.directory)) for path in Path(place).glob(SCRATCH)
        )
        mine = [str(path) for path in scratch if str(self.directory) in _request_in(path)]
        return [loop for loop in loops if str(self.directory) in loop] + mine

    def call(self, *words: str | Path, ok: int = 0) -> subprocess.CompletedProcess[str]:
        """Run another command of ours, where `install` runs."""
        return run(unshared((*forked_command(), *words), prelude=PRELUDE), env=self.env(), ok=(ok,))

    def bootc(
        self, *words: str | Path, ok: int = 0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `bootc install` alone, without us."""
        argv = (STANDIN / "bootc", "install", *(words or (*TO_DISK, self.disk)))
        return run(unshared(argv), env=self.env(env), ok=(ok,))

    def verify(self, target: Path | None = None, *own: str, ok: int = 0) -> str:
        """Prove a target by the command, and return what it said."""
        argv = unshared((*forked_command(), "verify", *own, target or self.disk))
        done = run(argv, env=self.env(), ok=(ok,))
        return done.stdout + done.stderr

    @contextmanager
    def root(self, name: str = "root") -> Iterator[Path]:
        """The disk's root file system, or that of another partition, mounted read-only."""
        start, size = partitions(self.disk)[name]
        point = self.directory / name
        point.mkdir(exist_ok=True)
        run(("mount", "-o", f"ro,loop,offset={start},sizelimit={size}", self.disk, point))
        try:
            yield point
        finally:
            run(("umount", point))

    def boots(self) -> bool:
        """Whether a boot loader would find an entry on the disk."""
        with self.root() as root:
            return can_boot(root)

    def cleanup_ran(self) -> bool:
        """Whether the cleanup hook of `watch_cleanup` was there."""
        return (self.directory / "cleaned").exists()

    def installed(self) -> Sequence[str]:
        """Names in the disk's store."""
        with self.root() as root:
            return stored_names(root)


def _request_in(scratch: Path) -> str:
    """What an installation works on; nothing where it ends meanwhile, as another test's does."""
    try:
        return (scratch / "state/request.json").read_text()
    except FileNotFoundError:
        return ""


def partitions(disk: Path) -> dict[str, tuple[int, int]]:
    """Start and size of the partitions, in bytes, by name."""
    table = json.loads(run(("sfdisk", "--json", disk)).stdout)["partitiontable"]
    return {
        entry["name"]: (entry["start"] * 512, entry["size"] * 512) for entry in table["partitions"]
    }


def can_boot(physical_root: Path) -> bool:
    return any((physical_root / ENTRIES).glob("*.conf"))


def set_aside(physical_root: Path) -> list[str]:
    """Boot entries that no boot loader takes."""
    return sorted(path.name for path in (physical_root / ENTRIES).glob(f"*{ASIDE}"))


def note(physical_root: Path) -> str:
    """What is written beside the entries that were set aside."""
    return (physical_root / "boot/loader/bound-images-missing.txt").read_text()


def stored_names(physical_root: Path, store: str = STORE) -> list[str]:
    """Names in the target's store; without an image there is no list."""
    records = physical_root / store / "overlay-images/images.json"
    if not records.exists():
        return []
    return sorted(n for image in json.loads(records.read_text()) for n in image.get("names", []))


def edges(disk: Path) -> tuple[str, str]:
    """Digests of the disk's first and last 16 MiB."""
    with disk.open("rb") as file:
        first = hashlib.sha256(file.read(EDGE)).hexdigest()
        file.seek(-EDGE, os.SEEK_END)
        return first, hashlib.sha256(file.read()).hexdigest()


def receipt(physical_root: Path) -> dict[str, Any]:
    value = json.loads((physical_root / RECEIPT).read_text())
    assert isinstance(value, dict)
    return value
