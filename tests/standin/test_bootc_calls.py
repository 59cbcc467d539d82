"""What `bootc install` is seen to do from outside: the stand-in does it as bootc itself does.

bootc itself is asked where this runs in a container of an image that has it and binds images, as podman
starts it with --privileged and --pid=host (`--require=bootc`). Where the two differ, the stand-in is wrong.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import osroot
import pytest

from tests.hosts.scene import STANDIN, bind, stored_names
from tests.support.commands import run, unshared
from tests.support.disks import LoopFsFactory
from tests.support.images import ImageSources
from tests.support.sources import LINKS

pytestmark = pytest.mark.real

PROGRAMS = ("podman", "skopeo", "ostree", "fstrim", "mount", "fsfreeze")
STORE = "/run/bootc/storage"
DESTINATION = f"containers-storage:[overlay@{STORE}+/proc/self/fd/3]"
# One JSON object a call; what is asked of the shell's own process is the same for the program.
RECORDER = """\
#!/usr/bin/python3
import json, os, sys
def link(name):
    try:
        return os.readlink("/proc/self/" + name)
    except OSError:
        return ""
mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]
call = {
    "argv": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "cwd": os.getcwd(), "stdin": link("fd/0"),
    "stdout": link("fd/1"), "run_root": link("fd/3"), "run_root_holds": len(os.listdir("/proc/self/fd/3"))
    if os.path.isdir("/proc/self/fd/3") else -1, "store_mounts": mounts.count("/run/bootc/storage"),
    "mounts": link("ns/mnt"), "auth": os.environ.get("REGISTRY_AUTH_FILE", ""),
}
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(call) + "\\n")
os.environ["PATH"] = os.environ["PATH"].partition(":")[2]
os.execvp(call["argv"][0], call["argv"])
"""
# Inside the container, an image is bound that no store has.
ABSENT = """\
mount -t tmpfs tmpfs "/$LINKS"
printf '[Image]\\nImage=localhost/never-built:1\\n' >/run/absent.image
ln -s /run/absent.image "/$LINKS/absent.image"
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A program that was called, and what it found."""

    argv: tuple[str, ...]
    cwd: str
    stdin: str
    stdout: str
    run_root: str
    run_root_holds: int
    """Entries in the directory behind descriptor 3; -1 when it is none."""
    store_mounts: int
    mounts: str
    auth: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An installation to a mounted file system that has ended."""

    calls: Sequence[Call]
    root: Path
    bound: Sequence[str]
    done: subprocess.CompletedProcess[str]

    def of(self, *beginning: str) -> list[Call]:
        """Calls that begin so."""
        return [call for call in self.calls if call.argv[: len(beginning)] == beginning]

    def first(self, *beginning: str) -> int:
        """The place of the first of them in the order of all."""
        return self.calls.index(self.of(*beginning)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """bootc or the stand-in, and the container that it installs."""

    bootc: Path
    env: dict[str, str]
    bound: tuple[str, ...]
    folder: Path
    inside: bool
    """Whether `/` is the container."""

    def install(self, root: Path, *, ok: int = 0, absent: bool = False) -> Installed:
        """Install to the file system that is mounted at `root`."""
        programs, calls = self.folder / "programs", self.folder / "calls"
        programs.mkdir(exist_ok=True)
        for name in PROGRAMS:
            (programs / name).write_text(RECORDER)
            (programs / name).chmod(0o755)
        env = {
            **self.env, "CALLS": str(calls), "PATH": f"{programs}:{os.environ['PATH']}",
            "LINKS": str(LINKS),
        }  # fmt: skip
        words = (
            self.bootc,
            "install",
            "to-filesystem",
            "--bootloader=none",
            "--generic-image",
            root,
        )
        if absent and not self.inside:
            bind(Path(self.env["STANDIN_CONTAINER_ROOT"]), "localhost/never-built:1")
        prelude = ABSENT if absent and self.inside else 'exec "$@"\n'
        wrapped = unshared(words, prelude=prelude) if self.inside else unshared(words)
        done = run(wrapped, env=env, ok=(ok,))
        seen = [json.loads(line) for line in calls.read_text().splitlines()]
        found = [Call(**{**each, "argv": tuple(each["argv"])}) for each in seen]
        return Installed(calls=found, root=root, bound=self.bound, done=done)


@pytest.fixture(params=["stand-in", pytest.param("bootc", marks=pytest.mark.bootc)])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    if request.param == "bootc":
        found = shutil.which("bootc")
        assert found, "bootc is not in PATH"
        links = (Path("/") / LINKS).iterdir()
        bound = (link.read_text().partition("Image=")[2].split()[0] for link in links)
        return Host(
            bootc=Path(found), env={}, bound=tuple(sorted(bound)), folder=tmp_path, inside=True
        )
    images: ImageSources = request.getfixturevalue("image_sources")
    container = osroot.small_root(tmp_path / "container")
    names = sorted((images.app_b.name, images.web.name))
    bind(container, *names)
    return Host(
        bootc=STANDIN / "bootc",
        env={**images.store.env, "STANDIN_CONTAINER_ROOT": str(container)},
        bound=tuple(names),
        folder=tmp_path,
        inside=False,
    )


@pytest.fixture
def installed(host: Host, loop_fs: LoopFsFactory) -> Installed:
    return host.install(loop_fs("ext4", 2 << 30).mount)


def test_each_bound_image_is_pushed_once_by_name(installed: Installed) -> None:
    pushes = [call.argv for call in installed.of("podman", "image", "push")]
    assert sorted(pushes) == [
        ("podman", "image", "push", "--remove-signatures", name, f"{DESTINATION}{name}")
        for name in installed.bound
    ]
    assert stored_names(installed.root) == sorted(installed.bound)


def test_store_is_a_mount_of_the_child_alone_and_the_run_root_an_empty_descriptor(
    installed: Installed,
) -> None:
    pushes = installed.of("podman", "image", "push")
    assert {call.store_mounts for call in pushes} == {1}
    assert not {call.mounts for call in pushes} & {call.mounts for call in installed.of("fstrim")}
    assert {call.run_root_holds for call in pushes} == {0}
    assert not any(call.run_root.startswith(str(installed.root)) for call in pushes)


def test_push_says_nothing_and_is_asked_nothing(installed: Installed) -> None:
    for call in installed.of("podman", "image", "push"):
        assert call.stdin.endswith("/dev/null")
        assert call.stdout.endswith("/dev/null")


def test_push_starts_where_bootc_does(installed: Installed) -> None:
    """bootc goes into the store to mount it, and back."""
    assert not any("/storage" in call.cwd for call in installed.of("podman"))


def test_store_is_made_by_a_call_that_lists_its_images(installed: Installed) -> None:
    (made,) = installed.of("podman", "--root")
    assert made.argv[1:] == ("--root", STORE, "--runroot", "/proc/self/fd/3", "images")
    assert made.store_mounts == 1
    assert made.auth


@pytest.mark.parametrize("host", ["stand-in"], indirect=True)
@pytest.mark.parametrize(
    ("version", "labelled", "credentials"),
    [("1.1.3", False, False), ("1.8.0", True, False), ("1.16.9", True, True)],
)
def test_what_older_versions_do_otherwise(
    host: Host, loop_fs: LoopFsFactory, version: str, *, labelled: bool, credentials: bool
) -> None:
    """As lib/src/imgstorage.rs, later podstorage.rs, of bootc's tags has it."""
    older = replace(host, env={**host.env, "STANDIN_VERSION": version})
    seen = older.install(loop_fs("ext4", 2 << 30).mount)
    (made,) = seen.of("podman", "--root")
    assert bool(made.auth) == credentials
    assert (seen.root / "ostree/bootc/storage/.bootc_labeled").exists() == labelled
    assert sorted(call.argv for call in seen.of("podman", "image")) == [
        ("podman", "image", "push", "--remove-signatures", name, f"{DESTINATION}{name}")
        for name in host.bound
    ]


def test_order_of_an_installation(installed: Installed) -> None:
    order = [
        installed.first("skopeo"),
        installed.first("ostree", "admin", "init-fs"),
        installed.first("podman", "--root"),
        installed.first("podman", "image", "push"),
        installed.first("fstrim"),
        installed.first("mount", "-o"),
        installed.first("fsfreeze", "-f"),
        installed.first("fsfreeze", "-u"),
    ]
    assert order == sorted(order)


def test_finalizing_is_done_in_the_root(installed: Installed) -> None:
    last = [call for call in installed.calls if call.argv[0] in {"fstrim", "fsfreeze"}]
    last += installed.of("mount", "-o", "remount,ro")
    assert [call.argv[1:] for call in last] == [
        ("--quiet-unsupported", "-v", "."), ("-f", "."), ("-u", "."), ("-o", "remount,ro", "."),
    ]  # fmt: skip
    assert {call.cwd for call in last} == {str(installed.root)}


def test_what_is_on_the_target(installed: Installed) -> None:
    root = installed.root
    (deployment,) = root.glob("ostree/deploy/*/deploy/*.0")
    assert (deployment / "usr").is_dir()
    assert list((root / "boot/loader/entries").glob("*.conf"))
    store = root / "ostree/bootc/storage"
    assert {"overlay", "overlay-images", "overlay-layers", "storage.lock"} <= {
        path.name for path in store.iterdir()
    }


def test_absent_image_ends_it_before_the_target_is_written(
    host: Host, loop_fs: LoopFsFactory
) -> None:
    seen = host.install(loop_fs("ext4", 2 << 30).mount, ok=1, absent=True)
    assert seen.of("skopeo")
    assert not seen.of("ostree")
    assert not seen.of("podman", "image", "push")
    assert "localhost/never-built:1" in seen.done.stderr
    assert [path.name for path in seen.root.iterdir()] == ["lost+found"]
