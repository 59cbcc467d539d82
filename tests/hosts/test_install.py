"""`install` in front of bootc's own command line, on disks: what is there when it says so."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import osroot
import pytest

from tests.faults.scene import APP, OTHER, SMALL, Images
from tests.hosts.scene import (
    PRELUDE,
    STANDIN,
    TO_DISK,
    Scene,
    bind,
    can_boot,
    make_disk,
    receipt,
    set_aside,
)
from tests.support.commands import run
from tests.support.disks import FsKind, LoopFsFactory
from tests.support.formats import assert_as_described
from tests.support.images import ImageSources
from tests.support.kernel import HIDE_DEVICE_MAPPER
from tests.support.product import STORE, document, records
from tests.support.stores import make_store

pytestmark = pytest.mark.real


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_disk_is_proven_and_nothing_is_left(scene: Scene, kind: FsKind) -> None:
    bind(scene.container, APP, SMALL)
    words = ("to-disk", "--via-loopback", f"--filesystem={kind}", "--karg=quiet", scene.disk)
    done = scene.install(*words, inside=False)
    assert "Wiping device" in done.stderr  # bootc's own words come through
    assert "2 images verified on" in done.stdout
    assert "2 images verified" in scene.verify()
    with scene.root() as root:
        assert can_boot(root)
        assert set_aside(root) == []
        assert not list((root / "boot/loader").glob("*.txt"))


def test_both_ways_leave_the_same_store_and_receipt(scene: Scene) -> None:
    bind(scene.container, APP, OTHER, SMALL)
    left: list[tuple[Any, ...]] = []
    for way, inside in (("during", True), ("after", False)):
        done = scene.install(inside=inside)
        assert f"mode: {way} (" in done.stderr
        scene.verify()
        with scene.root() as root:
            told = receipt(root)
            # Where the same declarations were read from is all that may differ.
            assert told.pop("source") == ("/" if inside else str(scene.container))
            told.pop("created")
            kept = {kind: _comparable(records(root / STORE, kind)) for kind in ("images", "layers")}
            left.append((told, kept))
    assert left[0] == left[1]


def _comparable(found: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    own = ("created", "link")
    return {
        key: {name: value for name, value in record.items() if name not in own}
        for key, record in found.items()
    }


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_digest_pinned_image_that_bootc_itself_cannot_copy(
    scene: Scene, image_sources: ImageSources, *, inside: bool
) -> None:
    scene = replace(scene, store=image_sources.store)
    bind(scene.container, image_sources.web_by_digest)
    alone = scene.bootc(ok=1)
    assert "Destination specifies a digest" in alone.stderr
    assert scene.boots()  # a system that starts without its image
    assert scene.installed() == []
    scene.install(inside=inside)
    assert image_sources.web_by_digest in scene.installed()
    assert "1 image verified" in scene.verify()


@pytest.mark.parametrize("transport", ["containers-storage:", "oci:", "oci-archive:"])
def test_images_are_those_of_the_source_image_not_of_the_machine(
    scene: Scene, transport: str, little: Images, tmp_path: Path
) -> None:
    scene = replace(scene, store=little.copied_to(tmp_path / "s").store)
    osroot.import_image(
        scene.store,
        scene.container,
        osroot.declare(tmp_path / "declared", {"app.image": f"[Image]\nImage={SMALL}\n"}),
    )
    bind(scene.container, APP)  # what `/` declares
    imgref = f"containers-storage:{osroot.IMAGE}"
    if transport != "containers-storage:":
        imgref = f"{transport}{tmp_path / 'image'}:1"
        scene.store.skopeo("copy", "--quiet", scene.store.ref(osroot.IMAGE), imgref)
    done = scene.install(*TO_DISK, f"--source-imgref={imgref}", scene.disk)
    assert "mode: after (with --source-imgref bootc reads the bound images of /" in done.stderr
    assert scene.installed() == [SMALL]
    assert "1 image verified" in scene.verify()


def test_source_image_without_bound_images_gets_none_of_the_machines(
    scene: Scene, little: Images, tmp_path: Path
) -> None:
    scene = replace(scene, store=little.copied_to(tmp_path / "s").store)
    osroot.import_image(scene.store, scene.container, osroot.declare(tmp_path / "declared", {}))
    bind(scene.container, "localhost/absent:1")
    source = f"--source-imgref=containers-storage:{osroot.IMAGE}"
    done = scene.install(*TO_DISK, source, scene.disk)
    assert "no bound images declared" in done.stdout
    assert scene.installed() == []
    assert scene.boots()


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_without_bound_images_bootc_runs_with_the_callers_arguments(
    scene: Scene, *, inside: bool
) -> None:
    done = scene.install(*TO_DISK, "--bound-images=stored", scene.disk, inside=inside)
    assert done.stdout == "no bound images declared\n"
    assert scene.boots()
    scene.install(own=("--require-bound-images",), inside=inside, ok=3)


def test_images_from_a_store_that_bootc_does_not_know(
    scene: Scene, little: Images, tmp_path: Path
) -> None:
    """A --store makes `auto` take the way after bootc, and relative paths mean what they say."""
    bind(scene.container, APP)
    late = replace(scene, store=make_store(tmp_path / "empty"))
    done = late.install(own=("--store", little.root))
    assert "where bootc does not look" in done.stderr
    assert "1 image verified" in scene.verify()


def test_relative_paths_are_those_of_the_caller_whoever_reads_them(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind(scene.container, APP)
    monkeypatch.chdir(scene.directory)
    lock = Path("images.lock")
    scene.call("lock", "/", "-o", lock)
    scene.install(
        "to-disk", "--via-loopback", "--filesystem", "ext4", "disk.img",
        own=("--lock", lock, "--receipt", "receipt.json", "--scratch", "."),
    )  # fmt: skip
    with scene.root() as root:
        assert (
            Path("receipt.json").read_text()
            == (root / "ostree/bootc/bound-images.json").read_text()
        )


def test_result_as_json(scene: Scene) -> None:
    bind(scene.container, APP)
    seen = document(scene.install(own=("--format=json",)))
    assert_as_described("install", seen)
    assert seen["when"] == "during"
    assert [image["reference"] for image in seen["images"]] == [APP]
    assert seen["images"][0]["where"].startswith("usr/lib/bootc/bound-images.d/0.image")


def test_what_bootc_held_is_proven_though_the_disk_cannot_be_opened_again(scene: Scene) -> None:
    """As with a disk that another machine's TPM opens; after bootc it would be an error."""
    bind(scene.container, APP)
    own = ("--root-partition=4",)
    done = scene.install(own=own)
    assert "proven while bootc held it, and could not be opened again" in done.stderr
    assert "1 image verified" in done.stdout
    assert "1 image verified" in scene.verify()
    scene.install(own=own, inside=False, ok=2)


def test_several_links_to_one_image_are_one_image(scene: Scene) -> None:
    bind(scene.container, APP, APP, SMALL)
    scene.install()
    assert scene.installed() == sorted((APP, SMALL))


@pytest.mark.parametrize(
    ("own", "way"), [((), "during"), (("--when=after",), "after")], ids=["during", "after"]
)
def test_what_bootc_mounts_over_the_temporary_directory_hides_nothing_of_ours(
    scene: Scene, tmp_path: Path, own: tuple[str, ...], way: str
) -> None:
    """bootc mounts a file system of its own on /tmp."""
    bind(scene.container, APP)
    (tmp_path / "t").mkdir()
    place = str(tmp_path / "t")
    done = scene.install(own=own, env={"TMPDIR": place, "STANDIN_TMP": place})
    assert f"mode: {way}" in done.stderr
    assert "1 image verified" in scene.verify()


@pytest.mark.parametrize(
    ("version", "spelling"), [("1.1.0", "--skip-bound-images"), ("1.1.3", "--bound-images=skip")]
)
def test_older_bootc_is_told_in_its_own_words(scene: Scene, version: str, spelling: str) -> None:
    bind(scene.container, APP)
    env = {"STANDIN_VERSION": version}
    plan = scene.install(own=("--when=after", "--dry-run"), env=env).stdout
    assert f"run: bootc install to-disk {spelling} " in plan
    scene.install(own=("--when=after",), env=env)
    assert "1 image verified" in scene.verify()


def test_bootc_that_calls_another_tool_is_followed_by_us(scene: Scene, tmp_path: Path) -> None:
    bind(scene.container, APP)
    both = tmp_path / "both"
    podman, skopeo = (run(("which", name)).stdout.strip() for name in ("podman", "skopeo"))
    both.write_text(
        f'#!/bin/sh\ncase $1 in experimental-*) exec {skopeo} "$@" ;; esac\nexec {podman} "$@"\n'
    )
    both.chmod(0o755)
    env = {"BOOTC_EXP_EXTERNAL_CONTAINER_TOOL": str(both)}
    done = scene.install(env=env)
    assert f"mode: after (BOOTC_EXP_EXTERNAL_CONTAINER_TOOL makes bootc call {both}" in done.stderr


# --- encrypted disks -------------------------------------------------------------------------


PHRASE = "open sesame"
LUKS = {"STANDIN_LUKS_PASSPHRASE": PHRASE}


@pytest.fixture
def key(scene: Scene, tmp_path: Path) -> tuple[str, ...]:
    """Options that open an encrypted disk, which is larger than others."""
    make_disk(scene.disk, 2 << 30)
    bind(scene.container, APP)
    file = tmp_path / "secret"
    file.write_text(f"{PHRASE}\n")
    return ("--passphrase-file", str(file))


@pytest.mark.device_mapper
@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_encrypted_disk(scene: Scene, key: tuple[str, ...], *, inside: bool) -> None:
    done = scene.install(own=key, inside=inside, env=LUKS)
    assert PHRASE not in done.stderr
    assert "1 image verified" in scene.verify(None, *key)


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_encrypted_disk_where_the_kernel_cannot(
    scene: Scene, key: tuple[str, ...], *, inside: bool
) -> None:
    """bootc fails before it writes, and so do we."""
    argv = scene.argv(own=key, inside=inside, prelude=HIDE_DEVICE_MAPPER + PRELUDE)
    done = run(argv, env=scene.env(LUKS, inside=inside), ok=(7,))
    assert PHRASE not in done.stderr
    assert "LUKS needs the device mapper, which this kernel does not have" in done.stderr
    assert not any(scene.disk.read_bytes()[: 1 << 20])


# --- file systems that are mounted already ---------------------------------------------------


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
@pytest.mark.parametrize(("extra", "state"), [((), "ro"), (("--skip-finalize",), "rw")])
def test_file_system_is_finalized_by_whoever_comes_last(
    scene: Scene, loop_fs: LoopFsFactory, extra: tuple[str, ...], state: str, *, inside: bool
) -> None:
    bind(scene.container, APP)
    fs = loop_fs()
    scene.install("to-filesystem", *extra, fs.mount, inside=inside)
    options = run(("findmnt", "-no", "FS-OPTIONS", "--mountpoint", fs.mount)).stdout.split(",")
    assert options[0].strip() == state
    assert can_boot(fs.mount)
    assert "1 image verified" in scene.verify(fs.mount)


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
@pytest.mark.parametrize(
    "verb", [("to-existing-root",), ("to-filesystem", "--replace=alongside")], ids=" ".join
)
def test_existing_root_keeps_what_it_has(
    scene: Scene, loop_fs: LoopFsFactory, verb: tuple[str, ...], *, inside: bool
) -> None:
    bind(scene.container, APP)
    fs = loop_fs()
    (fs.mount / "home").mkdir()
    scene.install(*verb, fs.mount, inside=inside)
    assert (fs.mount / "home").is_dir()
    (fs.mount / "writable").touch()
    assert "1 image verified" in scene.verify(fs.mount)


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_subvolume_whose_file_system_is_mounted_too(
    scene: Scene, loop_fs: LoopFsFactory, tmp_path: Path, *, inside: bool
) -> None:
    bind(scene.container, APP)
    fs = loop_fs("btrfs")
    run(("btrfs", "subvolume", "create", fs.mount / "@root"))
    root = tmp_path / "root"
    root.mkdir()
    run(("mount", "-o", "subvol=@root", fs.device, root))
    try:
        scene.install("to-filesystem", root, inside=inside)
        assert [path.name for path in fs.mount.iterdir()] == ["@root"]
        assert can_boot(root)
        assert "1 image verified" in scene.verify(root)
    finally:
        run(("umount", root))


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_existing_root_that_its_system_mounts_read_only_stays_so(
    scene: Scene, loop_fs: LoopFsFactory, *, inside: bool
) -> None:
    """The file system itself is never closed: the running system writes to it elsewhere."""
    bind(scene.container, APP)
    fs = loop_fs()
    run(("mount", "-o", "remount,bind,ro", fs.mount))
    scene.install("to-existing-root", fs.mount, inside=inside)
    columns = ("findmnt", "-no", "VFS-OPTIONS,FS-OPTIONS", "--mountpoint", fs.mount)
    mount, file_system = run(columns).stdout.split()
    assert mount.split(",")[0] == "ro"
    assert file_system.split(",")[0] == "rw"
    assert can_boot(fs.mount)
    assert "1 image verified" in scene.verify(fs.mount)


# --- composefs -------------------------------------------------------------------------------


def test_unified_kernel_image_means_composefs_only_where_bootc_looks(
    scene: Scene, little: Images, tmp_path: Path
) -> None:
    scene = replace(scene, store=little.copied_to(tmp_path / "s").store)
    bind(scene.container, SMALL)
    make_disk(scene.disk, 4 << 30)
    (scene.container / "boot/EFI/Linux").mkdir(parents=True)
    (scene.container / "boot/EFI/Linux/linux.efi").touch()
    osroot.import_image(scene.store, scene.container, osroot.declare(tmp_path / "declared", {}))
    own = scene.install(own=("--dry-run",), inside=False).stderr
    assert "mode: after (bootc's composefs backend copies no bound images)" in own
    source = f"--source-imgref=containers-storage:{osroot.IMAGE}"
    other = scene.install(*TO_DISK, source, scene.disk, own=("--dry-run",)).stderr
    assert "mode: after (with --source-imgref" in other
    assert "composefs" not in other


def test_unified_kernel_image_among_the_modules_is_not_bootcs_concern(
    scene: Scene, little: Images, tmp_path: Path
) -> None:
    scene = replace(scene, store=little.copied_to(tmp_path / "s").store)
    bind(scene.container, SMALL)
    (scene.container / "usr/lib/modules" / osroot.SMALL_KERNEL / "linux.efi").touch()
    said = scene.install(own=("--dry-run",)).stderr
    assert "mode: during" in said
    assert "composefs" not in said


def test_composefs_backend_gets_what_bootc_leaves_out(scene: Scene) -> None:
    make_disk(scene.disk, 4 << 30)
    bind(scene.container, APP)
    done = scene.install(*TO_DISK, "--composefs-backend", scene.disk)
    assert "mode: after (bootc's composefs backend copies no bound images)" in done.stderr
    assert "warning: the composefs backend of bootc" in done.stderr
    with scene.root() as root:
        assert (root / "ostree/bootc").readlink() == Path("../composefs/bootc")
        assert [
            name
            for record in records(root / "composefs/bootc/storage", "images").values()
            for name in record["names"]
        ] == [APP]
        assert can_boot(root)
    assert "1 image verified" in scene.verify()


def test_source_image_from_elsewhere_is_fetched_once(
    scene: Scene, little: Images, tmp_path: Path
) -> None:
    """Every stage reads the same image, whatever its name leads to by then.

    bootc stays in its caller's mounts for it, and mounts over /tmp, where the image is kept.
    """
    scene = replace(scene, store=little.copied_to(tmp_path / "s").store)
    osroot.import_image(
        scene.store,
        scene.container,
        osroot.declare(tmp_path / "declared", {"app.image": f"[Image]\nImage={SMALL}\n"}),
    )
    source = f"oci:{tmp_path / 'image'}:1"
    scene.store.skopeo("copy", "--quiet", scene.store.ref(osroot.IMAGE), source)
    record, tool = tmp_path / "record", tmp_path / "bin/skopeo"
    tool.parent.mkdir()
    skopeo = run(("which", "skopeo")).stdout.strip()
    tool.write_text(f'#!/bin/sh\necho "$*" >>{record}\nexec {skopeo} "$@"\n')
    tool.chmod(0o755)
    path = f"{tool.parent}:{STANDIN}:{os.environ['PATH']}"
    place = tmp_path / "t"
    place.mkdir()
    env = {"PATH": path, "TMPDIR": str(place), "STANDIN_TMP": str(place)}
    scene.install(*TO_DISK, f"--source-imgref={source}", scene.disk, env=env)
    calls = [line for line in record.read_text().splitlines() if "localhost/source:1" in line]
    assert len(calls) == 1
    assert "1 image verified" in scene.verify()
