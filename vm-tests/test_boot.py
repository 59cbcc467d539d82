"""From a declaration to a container that runs at the first boot, without network."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Literal

import pytest
from diskimage import NotBootableError, boot_entry, mounted
from guest import FULL
from proof import assert_runs_bound_images
from scene import (
    IN_STORE,
    PODMAN_RUN,
    STORE,
    UNITS_OF_APPS,
    VERIFY_IN_GUEST,
    WEB,
    WORKER,
    Scene,
    build_app,
    build_apps,
    os_with,
    product_files,
)

from tests.support.commands import run
from tests.support.stores import Store, make_store

BOUND = (WEB, WORKER)
BIG = "localhost/big:1"
BIG_MIB = 160
"""Enough that an installation is still copying it when it is killed at the first word of that."""
VERIFICATION_FAILED, PREFLIGHT_FAILED = 6, 4


def by_digest(store: Store, name: str) -> str:
    """How podman names an image of the store by its digest."""
    return f"{name.rpartition(':')[0]}@{store.image(name).digest}"


def test_first_boot_runs_the_bound_images(good_disk: Path, stage: Scene) -> None:
    """bound images are there by tag and digest, and run without network"""
    names = [*BOUND, *(by_digest(stage.store, name) for name in BOUND)]
    exist = {f"exists-{n}": f"{IN_STORE} image exists {name}" for n, name in enumerate(names)}
    said = assert_runs_bound_images(stage, good_disk, {"network": "ls /sys/class/net", **exist})
    assert said["network"].lines == ["lo"]
    expected = sorted(f"{name} {stage.store.image(name).digest}" for name in BOUND)
    assert sorted(said["listed"].lines) == expected
    for number in range(len(names)):
        assert said[f"exists-{number}"].code == 0, (names[number], said)


def test_quadlet_unit_is_active_after_the_whole_boot(good_disk: Path, stage: Scene) -> None:
    """a Quadlet unit runs after a whole boot, and nothing has failed"""
    said = stage.boot(
        good_disk,
        {
            "active": "systemctl is-active web.service",
            "failed": "systemctl --failed --no-legend --plain",
            "containers": f"{IN_STORE} ps --format '{{{{.Image}}}}'",
            "journal": "journalctl --no-pager -b -p warning",
        },
        how=FULL,
    )
    assert said["active"].lines == ["active"], said
    assert said["failed"].lines == []
    assert said["containers"].lines == [WEB]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_other_file_systems(kind: Literal["xfs", "btrfs"], bound_os: Path, stage: Scene) -> None:
    """bound images run from another root file system"""
    disk = stage.new_disk()
    stage.install(bound_os, disk, bootc=(f"--filesystem={kind}",))
    said = assert_runs_bound_images(stage, disk, {"kind": "findmnt -no FSTYPE /sysroot"})
    assert said["kind"].lines == [kind]


def test_missing_image_leaves_the_disk_alone(system: Path, stage: Scene) -> None:
    """one image is missing: refused, the disk untouched and not bootable"""
    absent = "localhost/absent:1"
    units = {**UNITS_OF_APPS, "absent.image": f"[Image]\nImage={absent}\n"}
    root = os_with(system, stage.folder / "os", units)
    assert absent in refused(stage, root)


def test_unknown_digest_leaves_the_disk_alone(system: Path, stage: Scene) -> None:
    """an image is there, but not the one that is pinned: refused, untouched"""
    pinned = f"{WEB.partition(':')[0]}@sha256:{64 * '0'}"
    units = {**UNITS_OF_APPS, "pinned.image": f"[Image]\nImage={pinned}\n"}
    root = os_with(system, stage.folder / "os", units)
    assert pinned in refused(stage, root)


def test_image_that_is_not_the_locked_one_leaves_the_disk_alone(
    bound_os: Path, stage: Scene, stores: Path
) -> None:
    """an image was built again since it was locked: refused, untouched"""
    lock = stage.folder / "images.lock"
    lock.write_text(stage.product("lock", str(bound_os)).stdout)
    other = stores / "locked"
    again = stage.with_store(build_apps(make_store(other), other))
    assert WEB in refused(again, bound_os, "--lock", str(lock))


def test_disk_too_small_for_all_images_is_left_alone(bound_os: Path, stage: Scene) -> None:
    """the disk is too small for the OS and its images: refused, untouched"""
    assert "will have" in refused(stage, bound_os, mebibytes=700)


def refused(stage: Scene, root: Path, *options: str, mebibytes: int | None = None) -> str:
    """Install in vain: nothing is written, nothing boots. Returns what was said."""
    disk = stage.new_disk()
    if mebibytes:
        os.truncate(disk, mebibytes << 20)
    before = disk.stat()
    done = stage.install(root, disk, *options, ok=PREFLIGHT_FAILED)
    assert disk.stat().st_blocks == before.st_blocks == 0
    assert disk.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(NotBootableError, match="no partition table"):
        boot_entry(disk, stage.folder)
    return done.stderr


def test_damaged_source_does_not_boot(bound_os: Path, stage: Scene, stores: Path) -> None:
    """a layer of the source is damaged: the installation fails, nothing boots"""
    base = stores / "damaged"
    store = build_apps(make_store(base), base)
    contents = (store.root / "overlay").glob("*/diff/content")
    flip_a_byte(next(file for file in contents if WEB in file.read_text()))
    disk = stage.new_disk()
    done = stage.with_store(store).install(bound_os, disk, ok=VERIFICATION_FAILED)
    assert "/content" in done.stderr
    with pytest.raises(NotBootableError, match="no boot entry"):
        boot_entry(disk, stage.folder)


def test_image_removed_from_a_finished_disk_is_missed(good_disk: Path, stage: Scene) -> None:
    """an image is removed from a finished disk: found by its receipt"""
    disk = stage.copy(good_disk)
    with mounted(disk, writable=True) as root:
        images = root / STORE / "overlay-images/images.json"
        records = json.loads(images.read_text())
        images.write_text(json.dumps([r for r in records if WEB not in r["names"]]))
    assert WEB in stage.verify(disk, ok=VERIFICATION_FAILED).stderr


def test_flipped_byte_is_found(good_disk: Path, stage: Scene) -> None:
    """one byte of the disk is flipped: found on the host and in the guest"""
    disk = stage.copy(good_disk)
    with mounted(disk, writable=True) as root:
        flip_a_byte(next((root / STORE / "overlay").glob("*/diff/content")))
    done = stage.verify(disk, ok=VERIFICATION_FAILED)
    assert "/content" in done.stderr
    said = stage.boot(disk, {"verify": VERIFY_IN_GUEST}, files=product_files())
    assert said["verify"].code == VERIFICATION_FAILED, said["verify"].text
    assert "/content" in said["verify"].text


def flip_a_byte(file: Path) -> None:
    """Change one byte and keep size and times."""
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_pinned_image_runs_by_its_pinned_name(system: Path, stage: Scene) -> None:
    """an image pinned by digest, which bootc refuses, runs by that name"""
    layout = stage.folder / "layout"
    stage.store.skopeo("copy", "--quiet", stage.store.ref(WORKER), f"oci:{layout}:1")
    digest = stage.store.skopeo("inspect", "--format", "{{.Digest}}", f"oci:{layout}:1")
    pinned = f"registry.example/team/pinned@{digest}"
    units = {**UNITS_OF_APPS, "pinned.image": f"[Image]\nImage={pinned}\n"}
    root = os_with(system, stage.folder / "os", units)
    disk = stage.new_disk()
    stage.install(root, disk, "--store", str(stage.store.root), "--store", f"oci:{layout}")
    said = stage.boot(
        disk,
        {
            "exists": f"{IN_STORE} image exists {pinned}",
            "pinned": f"{PODMAN_RUN} {pinned}",
            "worker": f"{PODMAN_RUN} {WORKER}",
        },
    )
    assert said["exists"].code == 0
    assert said["pinned"].lines == [f"this is {WORKER}"], said["pinned"].text
    assert said["worker"].lines == [f"this is {WORKER}"], said["worker"].text


@pytest.mark.slow
def test_killed_installation_does_not_boot(system: Path, stage: Scene, stores: Path) -> None:
    """an installation killed while it copies does not boot; the next does"""
    store = make_store(stores / "big")
    build_app(store, stores / "big/context", BIG, "busybox cat /content", mebibytes=BIG_MIB)
    big = stage.with_store(store)
    root = os_with(system, stage.folder / "os", {"big.image": f"[Image]\nImage={BIG}\n"})
    disk = stage.new_disk()
    kill_when(big, root, disk, f"copy: {BIG}: copying")
    with pytest.raises(NotBootableError, match="no boot entry"):
        boot_entry(disk, stage.folder)
    big.install(root, disk)
    said = stage.boot(disk, {"big": f"{PODMAN_RUN} {BIG}"})
    assert said["big"].lines == [f"this is {BIG}"], said["big"].text


def kill_when(stage: Scene, root: Path, disk: Path, word: str) -> None:
    """Install, and kill the installation when it says `word`; what it has started ends by itself."""
    command = stage.installation(root, disk)
    with (
        stage.clock.step("killed install"),
        subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if word in line:
                os.killpg(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, "".join(said)
    deadline = time.monotonic() + 30
    while str(disk) in run(("losetup", "--list", "--noheadings", "--output=BACK-FILE")).stdout:
        assert time.monotonic() < deadline, f"{disk} is still attached"
        time.sleep(0.1)
