"""What the fault tests share: images of some size, targets, and copies that are under way."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.commands import Argv, unshared
from tests.support.crafted import Entry, layer_tar, write_layout
from tests.support.product import COMMAND, product
from tests.support.stores import Store, copy_store, make_store

SMALL = "localhost/small:1"
"""One layer of a few bytes."""
APP = "localhost/app:1"
"""Six layers, some 45 MB: more than are copied at once."""
OTHER = "localhost/other:1"
"""On the two lower layers of APP."""
LATE = "localhost/late:1"
"""In an archive only."""

MIB = 1 << 20
MARK = "FAULT_TEST_RUN"
"""Inherited by all that a copy starts: its processes are known by it."""
TEMPORARY = re.compile(r"^bound-images-scratch-|^\..*\.tmp$|^container_images_")
"""Names of what is there only while something runs."""


def layer(seed: str, *, large: int, files: int, size: int = 4000) -> bytes:
    """A tar stream of one large file of so many MiB, and of small files."""
    noise = random.Random(seed)  # noqa: S311 - the same bytes in every run
    small = (
        Entry(name=f"{seed}/{number % 20}/{number}", content=noise.randbytes(size))
        for number in range(files)
    )
    return layer_tar((Entry(name=f"{seed}/large", content=noise.randbytes(large * MIB)), *small))


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """A source store."""

    store: Store
    archive: Path
    """`docker-archive` of LATE, beside the large images."""

    @property
    def root(self) -> Path:
        return self.store.root

    def copied_to(self, base: Path) -> "Images":
        """A store of the same content that a test may damage."""
        return Images(store=copy_store(self.root, base), archive=self.archive)


def large_images() -> dict[str, list[bytes]]:
    """Layers of the images that take a while to copy."""
    lower = [layer("base", large=20, files=250), layer("middle", large=12, files=100)]
    return {
        SMALL: [layer("small", large=0, files=3, size=100)],
        APP: [*lower, *(layer(f"app-{number}", large=3, files=40) for number in range(4))],
        OTHER: [*lower, layer("other", large=5, files=50)],
        LATE: [layer("late", large=2, files=20)],
    }


def little_images() -> dict[str, list[bytes]]:
    """Layers of images for tests that do not mind how long a copy takes."""
    lower = [layer("base", large=0, files=20), layer("middle", large=0, files=20)]
    return {
        SMALL: [layer("small", large=0, files=3, size=100)],
        APP: [*lower, layer("app", large=0, files=20)],
        OTHER: [*lower, layer("other", large=0, files=5)],
    }


def build_images(base: Path, images: Mapping[str, Sequence[bytes]]) -> Images:
    """Make a store with images."""
    store = make_store(base)
    archive = base / "late.tar"
    for number, (name, layers) in enumerate(images.items()):
        layout = base / f"layout-{number}"
        write_layout(layout, "1", layers)
        target = f"docker-archive:{archive}:{name}" if name == LATE else store.ref(name)
        store.skopeo("copy", "--quiet", f"oci:{layout}:1", target)
        shutil.rmtree(layout)
    return Images(store=store, archive=archive)


def units(*names: str) -> dict[str, str]:
    """Unit files that bind images."""
    return {f"u{number}.image": f"[Image]\nImage={name}\n" for number, name in enumerate(names)}


def target_store(physical: Path) -> Path:
    return physical / "ostree/bootc/storage"


# --- a copy that is under way ----------------------------------------------------------------

# Mounts are counted by a shell that outlives the command, in the namespace the command sees.
_GUARDED = (
    "mkdir -p /var/lib/containers\n"
    "mount -t tmpfs tmpfs /var/lib/containers\n"
    "mounts() { cut -d' ' -f4,5 /proc/self/mountinfo; }\n"
    "before=$(mounts)\n"
    "status=0\n"
    'setsid --wait sh -c \'echo $$ >"$PID_FILE.new"; mv "$PID_FILE.new" "$PID_FILE"; exec "$@"\' '
    'sh "$@" || status=$?\n'
    # Others unmount what we hold copies of; only what is new was left.
    'new=$(mounts | grep -vxFe "$before") || exit $status\n'
    'echo "mounts were left: $new" >&2\n'
    "exit 99\n"
)  # fmt: skip


@dataclass(slots=True)
class Running:
    """A command in a session of its own."""

    process: subprocess.Popen[str]
    pid: int
    mark: str
    began: float
    output: str = field(default="")
    """Its stderr and stdout, when it has ended."""

    def send(self, number: signal.Signals) -> bool:
        """Signal its process group; False when it has ended already."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait_for_line(self, text: str) -> None:
        """Read its output up to a line that contains a text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.output += line
            if text in line:
                return
        raise AssertionError(f"it never said {text!r}:\n{self.output}")

    def wait(self, *, timeout: float = 120) -> int:
        """Wait until it has ended; the code is 99 when it has left a mount."""
        out, err = self.process.communicate(timeout=timeout)
        self.output += err + out
        return self.process.returncode

    def descendants(self) -> list[str]:
        """Processes that it or its children have started and that are still there."""
        return [each for each in processes(self.mark) if each.split()[0] != str(self.process.pid)]

    def assert_all_end(self, *, within: float = 5) -> float:
        """Wait for the end of all its processes; how long that took."""
        began = time.monotonic()
        while left := self.descendants():
            assert time.monotonic() - began < within, f"still there after {within} s: {left}"
            time.sleep(0.005)
        return time.monotonic() - began


@contextmanager
def running(argv: Argv, directory: Path, env: Mapping[str, str]) -> Iterator[Running]:
    """Start a command; whatever is left of it is killed at the end."""
    pid_file = directory / f"pid-{time.monotonic_ns()}"
    mark = f"{pid_file}"
    process = subprocess.Popen(
        unshared(argv, prelude=_GUARDED),
        env={**os.environ, **env, MARK: mark, "PID_FILE": str(pid_file)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    )
    try:
        while not pid_file.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        yield Running(process, int(pid_file.read_text()), mark, time.monotonic())
    finally:
        for each in processes(mark):
            with_pid = int(each.split()[0])
            if with_pid != process.pid:
                kill(with_pid)
        process.kill()
        process.communicate()
        pid_file.unlink(missing_ok=True)


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def processes(mark: str) -> list[str]:
    """`PID COMMAND` of every process that has inherited the mark and is not a zombie."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").strip()
                if command:
                    found.append(f"{process.name} {command.decode(errors='replace')}")
        except OSError:
            continue  # it ended meanwhile
    return found


# --- sources and targets ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A copy: where from, where to, and how."""

    images: Images
    source: Path
    physical: Path
    engine: str
    scratch: Path
    reader: Store
    """An empty store that has the target's as an additional one."""

    @property
    def store(self) -> Path:
        return target_store(self.physical)

    @property
    def argv(self) -> Argv:
        return (*COMMAND, *self.arguments)

    @property
    def arguments(self) -> tuple[str, ...]:
        return (
            "copy", str(self.source), str(self.physical),
            "--store", str(self.images.root), "--engine", self.engine,
            "--scratch", str(self.scratch),
        )  # fmt: skip

    @property
    def env(self) -> Mapping[str, str]:
        return {**self.images.store.env, "TMPDIR": str(self.scratch)}

    def run(self, *, ok: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return product(*self.arguments, env=self.env, ok=ok)

    def verify(self, *, ok: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
        """Prove the target."""
        argv = ("verify", str(self.physical), "--source", str(self.source))
        return product(*argv, env=self.env, ok=ok)

    def listed(self) -> list[str]:
        """Names that podman finds in the target, as an additional store."""
        listing = self.reader.podman("images", "--format={{.Repository}}:{{.Tag}}")
        return sorted(name for name in listing.split() if "<none>" not in name)

    def temporary(self) -> list[str]:
        """Temporary files and directories on the target and in the scratch directory."""
        on_target = (path for path in self.physical.rglob("*") if TEMPORARY.search(path.name))
        return sorted(map(str, (*on_target, *self.scratch.iterdir())))
