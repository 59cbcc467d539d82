"""The main job, shown: two app images, an OS root that binds them, a disk image, copy and verify."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rundir import run_directory

from tests.support.commands import CommandError, run, unshared
from tests.support.disks import LoopFs, LoopFsFactory
from tests.support.leftovers import SESSION_VARIABLE
from tests.support.sources import UNITS, SourceRootBuilder
from tests.support.stores import Store, make_store

PROGRAM = Path(sys.executable).with_name("bootc-bound-images")
BUSYBOX = Path("/bin/busybox")
DISK_BYTES = 256 << 20
STORE = "ostree/bootc/storage"
CONTAINER = """\
[Container]
Image=localhost/web:1
GlobalArgs=--storage-opt=additionalimagestore=/usr/lib/bootc/storage
"""


class UnexpectedExitError(Exception):
    """A command ended otherwise than the demonstration promises."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Something that was done, for the summary."""

    what: str
    seconds: float


def show(argv: Sequence[str], *, expect: int, env: Mapping[str, str], hide: Path) -> float:
    """Run our command as a user would, and print it with its output; returns its seconds."""
    print(f"\n$ {shlex.join(('bootc-bound-images', *argv))}".replace(f"{hide}/", ""), flush=True)
    began = time.monotonic()
    done = subprocess.run(
        unshared((str(PROGRAM), *argv)), env={**env}, cwd=hide, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    print((done.stderr + done.stdout).replace(f"{hide}/", "").rstrip())
    print(f"-> exit {done.returncode}, {time.monotonic() - began:.1f} s", flush=True)
    if done.returncode != expect:
        raise UnexpectedExitError(f"expected exit {expect}")
    return time.monotonic() - began


def build_image(store: Store, folder: Path, name: str, content: str) -> None:
    """A small image with busybox and one file of its own."""
    context = folder / name
    context.mkdir()
    run(("cp", BUSYBOX, context / "busybox"))
    (context / "content").write_text(content)
    (context / "Containerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY content /content\n"
        'CMD ["/bin/busybox", "cat", "/content"]\n'
    )
    store.podman("build", "-q", "--isolation=chroot", "-t", f"localhost/{name}:1", str(context))


def flip_a_byte(disk: LoopFs) -> Path:
    """Change one byte of one file of one layer, keeping its size and times."""
    file = next((disk.mount / STORE / "overlay").glob("*/diff/content"))
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    run(("touch", f"--date=@{stat.st_mtime_ns / 1e9:.9f}", file))
    return file.relative_to(disk.mount)


def demonstrate(work: Path, stack: ExitStack) -> list[Shown]:
    """Run the whole line; raises UnexpectedExitError when a command does not do as promised."""
    shown = []
    began = time.monotonic()
    store = make_store(work / "build-host")
    for name in ("web", "worker"):
        build_image(store, work, name, f"this is {name}\n")
    # Among Quadlet's units, worker.image would be a service that pulls.
    worker = "/usr/share/worker/worker.image"
    units = {"web.container": CONTAINER, worker: "[Image]\nImage=localhost/worker:1\n"}
    links = {"web.container": f"/{UNITS}/web.container", "worker.image": worker}
    root = SourceRootBuilder(work)(units, links=links)
    disk = LoopFsFactory(work, stack)("ext4", DISK_BYTES)
    shown.append(
        Shown("two app images, an OS root that binds them, a disk image", time.monotonic() - began)
    )

    env = {
        **store.env,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        SESSION_VARIABLE: os.environ[SESSION_VARIABLE],
    }
    source, target = str(root.relative_to(work)), str(disk.mount.relative_to(work))

    def our(what: str, *argv: str, expect: int = 0) -> None:
        shown.append(Shown(what, show(argv, expect=expect, env=env, hide=work)))

    our("declarations read, both images found", "check", source)
    our("copied and proven from the disk", "copy", source, target)
    disk.remount(read_only=True)
    our("proven again, mounted read-only", "verify", target)
    disk.remount(read_only=False)
    print(f"\n# one bit of {flip_a_byte(disk)} is flipped")
    our("a flipped bit is found", "verify", target, expect=6)
    store.podman("rmi", "localhost/web:1", "localhost/worker:1")
    our("missing images are refused before anything is written", "check", source, expect=4)
    return shown


def main() -> int:
    """Demonstrate in a temporary directory; prints a summary and returns the exit code."""
    if not BUSYBOX.exists():
        print(f"vm-tests/run: {BUSYBOX} is missing, install busybox-static", file=sys.stderr)
        return 2
    session = uuid.uuid4().hex[:12]
    os.environ[SESSION_VARIABLE] = session
    place = Path(tempfile.gettempdir())
    with run_directory(place, "vm-demonstration", session) as folder, ExitStack() as stack:
        try:
            shown = demonstrate(folder, stack)
        except (UnexpectedExitError, CommandError, OSError) as error:
            print(f"vm-tests/run: {error}", file=sys.stderr)
            return 1
    print("\nproven:")
    for each in shown:
        print(f"  {each.seconds:5.1f} s  {each.what}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
