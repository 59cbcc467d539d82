"""The scene of the cases: app images, an OS that binds them, installations, boots."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import guest
from command import REPOSITORY, Command
from diskimage import boot_entry
from guest import CREDENTIAL, FULL, MICRO, UNLOCK, Answer
from host import Host
from machine import CONSOLE, Accelerator, Drive, Guest, Kernel, Machine

from tests.support.commands import run, unshared
from tests.support.sources import LINKS, UNITS
from tests.support.stores import Store

STORE = "ostree/bootc/storage"
COMPOSEFS_STORE = "composefs/bootc/storage"
DISK_BYTES = 3 << 30
EXT4 = ("--filesystem=ext4",)
BUSYBOX = Path("/bin/busybox")

WEB, WORKER, UNBOUND = "localhost/web:1", "localhost/worker:1", "localhost/unbound:1"
IN_STORE = "podman --storage-opt=additionalimagestore=/usr/lib/bootc/storage"
"""How a unit's GlobalArgs make podman see the bound images."""
PODMAN_RUN = f"{IN_STORE} run --rm --pull=never --network=none --cgroups=disabled"
VERIFY_IN_GUEST = "PYTHONPATH=/run/micro python3 -m installer_plugin verify /"
# Several times what it takes on a loaded machine under emulation.
_SECONDS = {MICRO: 400, FULL: 900}

UNITS_OF_APPS = {
    "web.container": f"""\
[Container]
Image={WEB}
GlobalArgs=--storage-opt=additionalimagestore=/usr/lib/bootc/storage
Pull=never
Network=none
[Install]
WantedBy=multi-user.target
""",
    "worker.image": f"[Image]\nImage={WORKER}\n",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Something that took time, for the summary."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Clock:
    """The steps of one case."""

    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Time what happens inside."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.steps.append(Step(what, time.monotonic() - began))


def build_app(store: Store, context: Path, name: str, program: str, *, mebibytes: int = 0) -> None:
    """An image that runs a shell program by busybox, and holds a file of its own and a big one."""
    context.mkdir()
    (context / "ballast").write_bytes(os.urandom(mebibytes << 20))
    shutil.copy(BUSYBOX, context / "busybox")
    (context / "content").write_text(f"this is {name}\n")
    (context / "Containerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY content ballast /\n"
        f'CMD ["/bin/busybox", "sh", "-c", "{program}"]\n'
    )
    store.podman("build", "-q", "--isolation=chroot", "-t", name, str(context))


def build_apps(store: Store, folder: Path) -> Store:
    """Two images to bind and one that is not bound."""
    build_app(store, folder / "web", WEB, "trap exit TERM; while true; do busybox sleep 1; done")
    build_app(store, folder / "worker", WORKER, "busybox cat /content")
    build_app(store, folder / "unbound", UNBOUND, "busybox cat /content")
    return store


def os_with(os_root: Path, root: Path, units: Mapping[str, str]) -> Path:
    """A root directory of the OS with these units, all of them bound."""
    # Links take no time and no space; nobody writes into these files, only new ones are added.
    run(("cp", "--archive", "--link", os_root, root))
    bind_units(root, units)
    return root


def bind_units(root: Path, units: Mapping[str, str]) -> None:
    """Write Quadlet units into an OS root, and the links that bind them."""
    (root / UNITS).mkdir(parents=True, exist_ok=True)
    for name, text in units.items():
        (root / UNITS / name).write_text(text)
        (root / LINKS / name).symlink_to(f"/{UNITS / name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where one case works."""

    store: Store
    """Where images are installed from."""
    host: Host
    """Where installations run."""
    accelerator: Accelerator
    folder: Path
    clock: Clock

    def with_store(self, store: Store) -> "Scene":
        """The same with other images."""
        return replace(self, store=store)

    def new_disk(self, name: str = "disk.img") -> Path:
        """An empty disk image."""
        disk = self.folder / name
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        return disk

    def to_disk(self, disk: Path, bootc: Sequence[str] = EXT4) -> tuple[str, ...]:
        """The words of `install` for a disk image, with bootc's own options."""
        return ("to-disk", "--via-loopback", "--wipe", *self.host.options, *bootc, str(disk))

    def installation(
        self, root: Path, disk: Path, *options: str, bootc: Sequence[str] = EXT4
    ) -> Command:
        """An installation of the OS in `root` by the product."""
        words = ("install", "--source-root", str(root), *options, *self.to_disk(disk, bootc))
        return self.host.product(self.store, root, self.folder, words)

    def install(
        self, root: Path, disk: Path, *options: str, bootc: Sequence[str] = EXT4, ok: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Install, with the exit code that it must have."""
        command = self.installation(root, disk, *options, bootc=bootc)
        with self.clock.step("install"):
            return command.run(ok=ok)

    def install_by_bootc_alone(self, root: Path, disk: Path, *options: str) -> None:
        """Install without the product."""
        words = ("bootc", "install", *self.to_disk(disk, (*EXT4, *options)))
        self.host.bootc(self.store, root, self.folder, words).run()

    def product(self, *words: str, ok: int = 0) -> subprocess.CompletedProcess[str]:
        """Run another command of ours, with the exit code that it must have."""
        argv = (sys.executable, "-m", "installer_plugin", *words)
        return run(unshared(argv), env={**self.store.env, "PYTHONPATH": str(REPOSITORY)}, ok=(ok,))

    def verify(self, disk: Path, *, ok: int) -> subprocess.CompletedProcess[str]:
        """Verify a finished disk from outside."""
        with self.clock.step("verify"):
            return self.product("verify", str(disk), ok=ok)

    def copy(self, disk: Path) -> Path:
        """A disk that a case may change."""
        copy = self.folder / "copy.img"
        run(("cp", "--sparse=always", "--reflink=auto", disk, copy))
        return copy

    def boot(
        self,
        disk: Path,
        questions: Mapping[str, str],
        *,
        how: str = MICRO,
        files: Mapping[str, Path] | None = None,
        writable: bool = False,
    ) -> dict[str, Answer]:
        """Boot a disk, unless `writable` without changing it, and ask.

        Raises NotBootableError, GuestError.
        """
        program = guest.script(questions)
        machine = self.machine([Drive(disk, writable)], program, how=how, files=files or {})
        with self.clock.step("boot" if how == MICRO else "whole boot"), machine:
            text = machine.finish(_SECONDS[how])
        return guest.answers(text)

    def machine(
        self,
        drives: Sequence[Drive],
        program: str,
        *,
        how: str,
        files: Mapping[str, Path],
        mebibytes: int = 1024,
    ) -> Machine:
        """A machine that boots from the first of the drives, ready to start.

        The second that the guest sees is the archive with the program and the files.
        """
        folder = self.folder / how.partition(".")[0].partition("=")[0]
        folder.mkdir(exist_ok=True)
        entry = boot_entry(drives[0].image, folder)
        kernel = Kernel(
            image=entry.image,
            initramfs=entry.initramfs,
            arguments=f"{entry.arguments} {CONSOLE} quiet panic=-1 {UNLOCK} {how}",
        )
        archive = guest.pack(folder / "archive.tar", program, files)
        return Machine(
            Guest(
                kernel=kernel,
                drives=(drives[0], Drive(archive), *drives[1:]),
                credentials=(CREDENTIAL,) if how == FULL else (),
                mebibytes=mebibytes,
            ),
            self.accelerator,
            folder,
        )


def product_files() -> dict[str, Path]:
    """The product for a guest: as its second disk, to be found by PYTHONPATH."""
    return {"installer_plugin": REPOSITORY / "installer_plugin"}
