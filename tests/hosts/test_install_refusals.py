"""What `install` refuses: before the disk is touched, with what was seen and what to do."""

import os
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from installer_plugin.hosts.bootc.finalize import FREEZE
from tests.faults.scene import APP, SMALL
from tests.hosts.scene import STANDIN, TO_DISK, Scene, bind, edges, make_disk, partitions, unit
from tests.support.commands import run
from tests.support.crafted import Entry, layer_tar, write_layout
from tests.support.disks import LoopFsFactory
from tests.support.product import listing

pytestmark = pytest.mark.real

ABSENT = "localhost/absent:1"
TABLE = "label: gpt\nsize=16MiB, name=precious\nname=other\n"


@pytest.fixture
def full(scene: Scene) -> Scene:
    """The disk has a partition table, and something at either end."""
    script = 'printf "%s" "$1" | sfdisk --quiet "$2"'
    run(("sh", "-e", "-c", script, "sh", TABLE, scene.disk))
    with scene.disk.open("r+b") as file:
        for place in (1 << 20, 900 << 20):
            file.seek(place)
            file.write(b"precious")
    return scene


@contextmanager
def untouched(disk: Path) -> Iterator[None]:
    """The disk is afterwards as before, at both ends and in its table."""
    before = edges(disk), partitions(disk)
    yield
    assert (edges(disk), partitions(disk)) == before


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_missing_image_leaves_the_disk_as_it_was(full: Scene, *, inside: bool) -> None:
    bind(full.container, ABSENT, APP)
    with untouched(full.disk):
        done = full.install(inside=inside, ok=4)
    assert f"{ABSENT} (usr/lib/bootc/bound-images.d/0.image" in done.stderr
    assert f"hint: podman pull {ABSENT}" in done.stderr
    assert "Wiping" not in done.stderr


def test_missing_image_and_bootc_alone(full: Scene) -> None:
    """The contrast: the same call without us notices it on a wiped disk."""
    bind(full.container, ABSENT, APP)
    alone = full.bootc(*TO_DISK, "--bound-images=stored", full.disk, ok=1)
    assert f"resolving bound image {ABSENT}" in alone.stderr
    assert "precious" not in partitions(full.disk)


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_labels_that_nothing_can_set_are_known_before(
    full: Scene, tmp_path: Path, *, inside: bool
) -> None:
    bind(full.container, APP)
    policy = full.container / "usr/etc/selinux/mine/contexts/files"
    policy.mkdir(parents=True)
    (policy / "file_contexts").write_text("/.* system_u:object_r:default_t:s0\n")
    config = "SELINUX=enforcing\nSELINUXTYPE=mine\n"
    (full.container / "usr/etc/selinux/config").write_text(config)
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"):
        for tool in Path(folder).iterdir():
            if tool.name != "setfiles" and not (tools / tool.name).is_symlink():
                (tools / tool.name).symlink_to(tool)
    with untouched(full.disk):
        done = full.install(inside=inside, ok=4, env={"PATH": f"{STANDIN}:{tools}"})
    assert "error: setfiles (" in done.stderr
    assert "not found in PATH; the SELinux policy mine has to be applied" in done.stderr


def test_every_problem_is_told_at_once(full: Scene) -> None:
    bind(full.container, ABSENT)
    (full.container / "usr/lib/bootc/bound-images.d/README").write_text("no link\n")
    with untouched(full.disk):
        done = full.install(inside=False, ok=3)
    assert ABSENT in done.stderr
    assert "README" in done.stderr


def test_bootc_must_be_there(full: Scene, tmp_path: Path) -> None:
    bind(full.container, APP)
    programs = tmp_path / "bin"
    programs.mkdir()
    places = (Path(place) for place in os.environ["PATH"].split(":"))
    for program in (file for place in places if place.is_dir() for file in place.iterdir()):
        if program.name != "bootc" and not (programs / program.name).is_symlink():
            (programs / program.name).symlink_to(program)
    with untouched(full.disk):
        done = full.install(env={"PATH": str(programs)}, ok=4)
    assert "bootc: not found in PATH" in done.stderr


def test_bootc_that_cannot_skip_bound_images_is_refused(full: Scene) -> None:
    bind(full.container, APP)
    with untouched(full.disk):
        done = full.install(env={"STANDIN_VERSION": "0.1.10"}, ok=2)
    assert "bootc 0.1.10 (test stand-in)" in done.stderr
    assert "update bootc to 1.1.3 or later" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--composefs-backend",), "composefs backend copies no bound images"),
        (("--source-imgref=containers-storage:localhost/app:1",), "of /, not of that image"),
    ],
    ids=["composefs", "source image"],
)
def test_during_is_refused_with_the_reason_where_it_cannot_be(
    full: Scene, words: Sequence[str], reason: str
) -> None:
    make_disk(full.disk, 4 << 30)
    run(("sh", "-e", "-c", 'printf "%s" "$1" | sfdisk -q "$2"', "sh", TABLE, full.disk))
    bind(full.container, APP)
    if words[0].startswith("--source"):
        # APP is not an OS, but what it declares is all that is asked for.
        words = (f"--source-imgref=oci:{_declaring(full)}",)
    with untouched(full.disk):
        done = full.install(*TO_DISK, *words, full.disk, own=("--when=during",), ok=2)
    assert "--when=during: cannot be: " in done.stderr
    assert reason in done.stderr


def _declaring(scene: Scene) -> str:
    """An OCI layout of an image that declares SMALL."""

    layout = scene.directory / "declaring"
    link = "usr/lib/bootc/bound-images.d/a.image"
    entries = [
        Entry(name="usr/share/containers/systemd/a.image", content=unit(SMALL).encode()),
        Entry(name=link, type=tarfile.SYMTYPE, target="/usr/share/containers/systemd/a.image"),
    ]
    write_layout(layout, "1", [layer_tar(entries)])
    return f"{layout}:1"


@pytest.mark.parametrize("mode", ["skip", "pull"])
def test_bootc_is_not_told_to_leave_images_out(full: Scene, mode: str) -> None:
    with untouched(full.disk):
        done = full.install(*TO_DISK, f"--bound-images={mode}", full.disk, ok=2)
    assert f"is given --bound-images={mode}" in done.stderr


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_dry_run_prints_the_plan_and_touches_nothing(full: Scene, *, inside: bool) -> None:
    bind(full.container, APP)
    marker = full.directory / "ran"
    full.hooks("40-mine", f"touch {marker}")
    before = listing(full.store.root)
    with untouched(full.disk):
        words = (*TO_DISK, "--karg", "a b", full.disk)
        done = full.install(*words, own=("--dry-run",), inside=inside)
    assert not marker.exists()
    assert listing(full.store.root) == before
    arguments = f"--via-loopback --wipe --filesystem=ext4 --karg 'a b' {full.disk}"
    skip, indent = ("", "  in its copy step, ") if inside else ("--bound-images=skip ", "")
    untouched_yet = [
        "pre-install: 10-discover (built in)",
        "pre-install: 20-resolve (built in)",
        "pre-install: 30-preflight (built in)",
        f"run: bootc install to-disk {skip}{arguments}",
    ]
    held_back = [
        "set aside: the boot entries that bootc has written",
        "post-install: 20-copy (built in)",
        "post-install: 30-label (built in)",
        "post-install: 40-mine (/etc/bootc-bound-images/hooks.d/post-install.d/40-mine)",
        "verify: 50-verify (built in)",
        "verify: 60-record (built in)",
        "give back: the boot entries",
    ]
    finalized = [
        "finalize: fstrim --quiet-unsupported -v ROOT",
        "finalize: mount -o remount,ro ROOT",
        f"finalize: {shlex.join(('sh', '-c', FREEZE, 'fsfreeze', 'ROOT'))}",
    ]
    assert done.stdout.splitlines() == [
        *untouched_yet,
        *([] if inside else [f"open: {full.disk}"]),
        *(indent + line for line in held_back),
        *([] if inside else finalized),
        f"read back: {full.disk}",
    ]


def test_dry_run_finds_what_is_missing(full: Scene) -> None:
    bind(full.container, ABSENT)
    with untouched(full.disk):
        full.install(own=("--dry-run",), ok=4)


# --- what cannot open the target -------------------------------------------------------------

UNFIT = {
    "name": (("--root-partition=data",), "nothing on {disk} will be called 'data'"),
    "device": (("--root-partition=/dev/sda3",), "nothing on {disk} will be called '/dev/sda3'"),
    "number": (("--root-partition=9",), "nothing on {disk} will be called '9'"),
    "no key": (("--key-file", "/absent"), "/absent: is not a file, expected one with a key"),
    "no regular file": (("--passphrase-file", "/dev/zero"), "/dev/zero: is not a file"),
    "empty key": (("--key-file", "{empty}"), "{empty}: is empty, expected a key"),
    "empty passphrase": (("--passphrase-file", "{empty}"), "has 0 bytes or more"),
    "both": (
        ("--key-file", "{key}", "--passphrase-file", "{key}"),
        "is given, and --key-file {key} as well",
    ),
}


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
@pytest.mark.parametrize(("own", "message"), UNFIT.values(), ids=UNFIT)
def test_what_cannot_open_the_disk_is_refused_before_it_is_written(
    full: Scene, own: Sequence[str], message: str, *, inside: bool
) -> None:
    bind(full.container, APP)
    (full.directory / "empty").touch()
    (full.directory / "key").write_text("sesame\n")
    names = {"disk": full.disk, **{name: full.directory / name for name in ("empty", "key")}}
    with untouched(full.disk):
        done = full.install(own=[word.format(**names) for word in own], inside=inside, ok=2)
    assert message.format(**names) in done.stderr


@pytest.mark.parametrize("verb", ["to-filesystem", "to-existing-root"])
@pytest.mark.parametrize("option", ["--root-partition", "--key-file", "--passphrase-file"])
def test_directory_has_nothing_to_open(scene: Scene, verb: str, option: str) -> None:
    bind(scene.container, APP)
    (scene.directory / "key").write_text("sesame\n")
    point = scene.directory / "point"
    point.mkdir()
    done = scene.install(verb, point, own=(option, scene.directory / "key"), ok=2)
    assert f"{option}: makes no sense with {verb}" in done.stderr
    assert not list(point.iterdir())


# --- targets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [520, 560])
def test_disk_too_small_for_system_and_images_is_refused(scene: Scene, size: int) -> None:
    bind(scene.container, APP)
    run(("fallocate", "-l", "50M", scene.container / "usr/large"))
    make_disk(scene.disk, size << 20)
    run(("sh", "-e", "-c", 'printf "%s" "$1" | sfdisk -q "$2"', "sh", TABLE, scene.disk))
    with untouched(scene.disk):
        done = scene.install(inside=False, ok=4)
    assert f"{scene.disk}: will have" in done.stderr
    assert "bound images" in done.stderr


def test_disk_that_seems_too_small_is_tried_where_the_user_says_so(scene: Scene) -> None:
    bind(scene.container, APP)
    run(("fallocate", "-l", "50M", scene.container / "usr/large"))
    make_disk(scene.disk, 530 << 20)
    words = ("--no-space-check", "--dry-run")
    assert "bootc install to-disk" in scene.install(own=words, inside=False).stdout


def test_large_system_counts(scene: Scene) -> None:
    bind(scene.container, APP)
    scene.install(own=("--dry-run",), inside=False)
    run(("fallocate", "-l", "470M", scene.container / "usr/large"))
    done = scene.install(own=("--dry-run",), inside=False, ok=4)
    assert "the system needs 47" in done.stderr


def test_root_size_decides(scene: Scene) -> None:
    bind(scene.container, APP)
    run(("fallocate", "-l", "50M", scene.container / "usr/large"))
    done = scene.install(*TO_DISK, "--root-size=50M", scene.disk, inside=False, ok=4)
    assert "hint: raise --root-size" in done.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("to-disk", "--filesystem=ext4", "/dev/absent"), "see lsblk for the disks"),
        (("to-filesystem", "/absent"), "mount the file system there"),
        (("to-existing-root",), "mount the machine's root there, by podman run -v /:/target"),
    ],
    ids=["disk", "file system", "existing root"],
)
def test_no_such_target(scene: Scene, words: Sequence[str], hint: str) -> None:
    bind(scene.container, APP)
    done = scene.install(*words, ok=2)
    assert ": cannot be opened: No such file or directory" in done.stderr
    assert f"hint: {hint}" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("to-disk", "--filesystem=ext4"), "is not a block device, which to-disk expects"),
        (("to-filesystem",), "is not a directory, which to-filesystem expects"),
        (("to-existing-root",), "is not a directory, which to-existing-root expects"),
    ],
    ids=["disk", "file system", "existing root"],
)
def test_wrong_kind_of_target(full: Scene, words: Sequence[str], message: str) -> None:
    bind(full.container, APP)
    with untouched(full.disk):
        done = full.install(*words, full.disk, ok=2)
    assert message in done.stderr


def test_image_of_another_format_is_refused_with_what_converts_it(scene: Scene) -> None:
    bind(scene.container, APP)
    scene.disk.write_bytes(b"QFI\xfb" + bytes(4092))
    done = scene.install(ok=2)
    assert "qemu-img convert -O raw" in done.stderr


def test_partition_is_no_disk(full: Scene) -> None:
    bind(full.container, APP)
    device = run(("losetup", "--find", "--show", "--partscan", full.disk)).stdout.strip()
    try:
        run(("partx", "--update", device))
        with untouched(full.disk):
            done = full.install("to-disk", "--filesystem=ext4", f"{device}p1", ok=2)
    finally:
        run(("losetup", "--detach", device))
    assert f"{device}p1: is a partition of {device}, expected a whole disk" in done.stderr


def test_disk_in_use_is_refused(full: Scene) -> None:
    bind(full.container, APP)
    device = run(("losetup", "--find", "--show", full.disk)).stdout.strip()
    try:
        with untouched(full.disk):
            done = full.install(ok=7)
    finally:
        run(("losetup", "--detach", device))
    assert f"is in use by {device}" in done.stderr


def test_mounted_disk_is_refused(scene: Scene, loop_fs: LoopFsFactory) -> None:
    bind(scene.container, APP)
    fs = loop_fs()
    (fs.mount / "precious").touch()
    done = scene.install("to-disk", "--wipe", "--filesystem=ext4", fs.device, ok=7)
    assert f"is mounted on {fs.mount}" in done.stderr
    assert (fs.mount / "precious").exists()


def test_disk_with_content_is_bootcs_to_refuse(full: Scene) -> None:
    bind(full.container, APP)
    words = [word for word in TO_DISK if word != "--wipe"]
    with untouched(full.disk):
        done = full.install(*words, full.disk, inside=False, ok=7)
    assert "Detected existing gpt" in done.stderr
    assert "bootc failed with exit code 1: error: Installing to-disk: Detected" in done.stderr
    assert "set aside" not in done.stderr


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_system_that_is_there_still_boots_when_bootc_refuses(
    scene: Scene, loop_fs: LoopFsFactory, *, inside: bool
) -> None:
    """Only what bootc has written is kept from booting."""
    bind(scene.container, APP)
    fs = loop_fs()
    entries = fs.mount / "boot/loader/entries"
    entries.mkdir(parents=True)
    (entries / "mine.conf").write_text("title mine\n")
    done = scene.install("to-filesystem", fs.mount, inside=inside, ok=7)
    assert "Non-empty root filesystem" in done.stderr
    assert [path.name for path in entries.iterdir()] == ["mine.conf"]


FAULTY_TOOLS: Mapping[str, tuple[str, str]] = {
    "fails": ("du", "echo 'du: cannot read it' >&2; exit 1"),
    "is killed": ("du", "kill -KILL $$"),
    "says nothing": ("du", "exit 0"),
    "says what is not a number": ("du", "echo lots"),
}


@pytest.mark.parametrize(("tool", "script"), FAULTY_TOOLS.values(), ids=FAULTY_TOOLS)
def test_tool_that_lets_us_down_is_one_error_with_an_exit_code_of_the_table(
    full: Scene, tmp_path: Path, tool: str, script: str
) -> None:
    bind(full.container, APP)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / tool).write_text(f"#!/bin/sh\n{script}\n")
    (programs / tool).chmod(0o755)
    before = edges(full.disk)
    path = {"PATH": f"{programs}:{full.env()['PATH']}"}
    done = full.install(inside=False, env=path, ok=4)
    assert done.stderr.count("error: ") == 1
    assert f"{tool} " in done.stderr.split("error: ")[1]
    assert "hint: " in done.stderr
    assert edges(full.disk) == before
