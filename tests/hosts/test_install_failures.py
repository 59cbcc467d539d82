"""Installations that go wrong once the disk is written: what is left does not boot half-installed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from installer_plugin.hooks.phases import Phase
from tests.faults.scene import APP, Images
from tests.hosts.scene import (
    ASIDE,
    STANDIN,
    Scene,
    bind,
    can_boot,
    make_disk,
    note,
    set_aside,
)
from tests.hosts.underway import started, wait_for
from tests.support.commands import run, unshared
from tests.support.disks import LoopFsFactory

pytestmark = pytest.mark.real

WAYS = pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """A bound image, and a cleanup hook that tells when it has run."""
    bind(scene.container, APP)
    scene.hooks("90-watch", f"touch {scene.directory}/cleaned", phase=Phase.CLEANUP)
    return scene


# --- what bootc or a source does wrong -------------------------------------------------------


@WAYS
@pytest.mark.parametrize("step", ["store", "deploy", "bootloader", "bound-images", "finalize"])
def test_bootcs_failure_is_told_in_its_words(scene: Scene, step: str, *, inside: bool) -> None:
    done = scene.install(inside=inside, env={"STANDIN_FAIL_AT": step}, ok=7)
    said = f"error: Installing to-disk: failing before {step}, as STANDIN_FAIL_AT asks"
    assert f"error: bootc install to-disk: bootc failed with exit code 1: {said}" in done.stderr
    assert scene.cleanup_ran()
    with scene.root() as root:
        # In the way during bootc's copying everything is proven before it finalizes.
        assert can_boot(root) == (inside and step == "finalize")
        assert bool(set_aside(root)) == (not can_boot(root) and step not in ("store", "deploy"))


def test_failure_is_kept_bootable_when_asked(scene: Scene) -> None:
    env = {"STANDIN_FAIL_AT": "bound-images"}
    scene.install(own=("--on-failure=keep",), env=env, ok=7)
    assert scene.boots()
    scene.hooks("40-mine", "exit 1")
    for inside in (True, False):
        scene.install(own=("--on-failure=keep",), inside=inside, ok=7)
        assert scene.boots()


@WAYS
def test_corrupted_source_layer_fails_before_anything_boots(
    scene: Scene, little: Images, tmp_path: Path, *, inside: bool
) -> None:
    """In the way during bootc's copying it is bootc itself that fails, and does not finalize."""
    scene = replace(scene, store=little.copied_to(tmp_path / "s").store)
    (file,) = scene.store.root.glob("overlay/*/diff/app/7/7")
    content = bytearray(file.read_bytes())
    seen = file.stat()
    content[17] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    done = scene.install(inside=inside, ok=6)
    assert f"error: {APP} (layer " in done.stderr
    if inside:
        assert "Installing to-disk: Subprocess failed: podman image push" in done.stderr
        assert "Finalizing filesystem" not in done.stderr
    assert scene.cleanup_ran()
    with scene.root() as root:
        assert not can_boot(root)
        assert set_aside(root)
        assert APP in note(root)


def test_existing_root_keeps_its_other_entries_out_of_it(
    scene: Scene, loop_fs: LoopFsFactory
) -> None:
    fs = loop_fs()
    scene.hooks("40-mine", "exit 1")
    scene.install("to-filesystem", fs.mount, ok=7)
    assert not can_boot(fs.mount)
    assert set_aside(fs.mount)


def test_bootc_that_never_asks_for_the_images_is_not_believed(scene: Scene, tmp_path: Path) -> None:
    """It copies by another way than any bootc that was seen."""
    wrapper = tmp_path / "bin/bootc"
    wrapper.parent.mkdir()
    wrapper.write_text(
        '#!/bin/sh\ncase "$*" in *--help*|*--version*) ;; *) set -- "$@" --bound-images=skip ;; esac\n'
        f'exec {STANDIN}/bootc "$@"\n'
    )
    wrapper.chmod(0o755)
    done = scene.install(env={"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}, ok=7)
    assert "ended well without having asked for the bound images" in done.stderr
    with scene.root() as root:
        assert not can_boot(root)
        assert set_aside(root)


def test_finished_target_is_read_once_more(scene: Scene, tmp_path: Path) -> None:
    """What happens to it after our phases does not go unnoticed."""
    wrapper = tmp_path / "bin/bootc"
    wrapper.parent.mkdir()
    damage = "find ostree/bootc/storage -path '*/diff/app/7/7' -exec truncate -s 1 {} +"
    wrapper.write_text(
        f'#!/bin/sh\n{STANDIN}/bootc "$@" || exit\n'
        'case "$*" in *--help*|*--version*) exit ;; esac\n'
        f'for last; do :; done\ncd "$last" && mount -o remount,rw . && {damage}\n'
    )
    wrapper.chmod(0o755)
    image = tmp_path / "root.img"
    with image.open("wb") as sparse:
        sparse.truncate(512 << 20)
    run(("mkfs.ext4", "-q", image))
    point = tmp_path / "point"
    point.mkdir()
    run(("mount", "-o", "loop", image, point))
    try:
        env = {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
        scene.install("to-filesystem", point, env=env, ok=6)
        assert not can_boot(point)
        assert set_aside(point)
    finally:
        run(("umount", point))


def test_disk_that_cannot_be_read_any_more_is_no_success(scene: Scene, tmp_path: Path) -> None:
    """In the way during bootc's copying all of it was proven; that the disk is gone counts more."""
    wrapper = tmp_path / "bin/bootc"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\n{STANDIN}/bootc "$@" || exit\n'
        'case "$*" in *--help*|*--version*) exit ;; esac\n'
        'for last; do :; done\nwipefs --all --force --quiet "$last"\n'
    )
    wrapper.chmod(0o755)
    done = scene.install(env={"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}, ok=7)
    assert "mode: during" in done.stderr


# --- the shim --------------------------------------------------------------------------------

RECORDER = """\
#!/bin/sh
echo "$*" >>{record}
exec {podman} "$@"
"""


def test_other_calls_of_podman_reach_the_real_one(scene: Scene, tmp_path: Path) -> None:
    podman = run(("which", "podman")).stdout.strip()
    record, tool = tmp_path / "record", tmp_path / "bin/podman"
    tool.parent.mkdir()
    tool.write_text(RECORDER.format(record=record, podman=podman))
    tool.chmod(0o755)
    scene.install(env={"PATH": f"{tool.parent}:{STANDIN}:{os.environ['PATH']}"})
    calls = record.read_text().splitlines()
    assert calls == ["--root /run/bootc/storage --runroot /proc/self/fd/3 images"]


def test_call_from_outside_of_the_run_is_the_real_podman(scene: Scene, tmp_path: Path) -> None:
    """A process that bootc has not started calls what stands first in bootc's PATH."""
    answer, release = tmp_path / "answer", tmp_path / "release"
    scene.hooks(
        "40-mine",
        f'dirname "$BOUND_IMAGES_STATE" >{answer}.new; mv {answer}.new {answer}\n'
        f"until [ -e {release} ]; do sleep 0.05; done",
    )
    with started(scene, inside=True) as process:
        wait_for(answer.exists, process)
        shim = Path(answer.read_text().strip()) / "bin/podman"
        name = "containers-storage:[overlay@/run/bootc/storage+/proc/self/fd/3]" + APP
        argv = (shim, "image", "push", "--remove-signatures", APP, name)
        done = run(unshared(argv), env=scene.env(), ok=(125,))
        release.touch()
        assert process.wait() == 0
    assert "/run/bootc/storage" in done.stderr or "fd/3" in done.stderr
    assert "copying" not in done.stderr


# --- boot entries beside the root ------------------------------------------------------------

SEPARATE = {"STANDIN_SEPARATE_BOOT": "1"}


@WAYS
def test_separate_boot_partition_boots_only_with_the_images(scene: Scene, *, inside: bool) -> None:
    """As bootc makes it for an encrypted root."""
    make_disk(scene.disk, 2 << 30)
    scene.install(inside=inside, env=SEPARATE)
    with scene.root("boot") as boot:
        assert list(boot.glob("loader/entries/*.conf"))
        assert not list(boot.rglob("*bound-images-missing*"))
    scene.hooks("40-mine", "exit 1")
    scene.install(inside=inside, env=SEPARATE, ok=7)
    with scene.root("boot") as boot:
        assert not list(boot.glob("loader/entries/*.conf"))
        assert list(boot.glob(f"loader/entries/*{ASIDE}"))
        assert "40-mine" in (boot / "loader/bound-images-missing.txt").read_text()


@WAYS
@pytest.mark.parametrize("step", ["bound-images", "finalize"])
def test_boot_partition_of_a_bootc_that_fails(scene: Scene, step: str, *, inside: bool) -> None:
    make_disk(scene.disk, 2 << 30)
    scene.install(inside=inside, env={**SEPARATE, "STANDIN_FAIL_AT": step}, ok=7)
    with scene.root("boot") as boot:
        proven = inside and step == "finalize"
        assert bool(list(boot.glob("loader/entries/*.conf"))) == proven
        assert bool(list(boot.glob(f"loader/entries/*{ASIDE}"))) != proven


@WAYS
def test_entries_of_other_systems_are_left_alone(
    scene: Scene, loop_fs: LoopFsFactory, *, inside: bool
) -> None:
    """On an EFI system partition that they share, mounted below the target."""
    fs = loop_fs()
    theirs = fs.mount / "efi/loader/entries/theirs.conf"
    image = fs.mount / "efi/EFI/Linux/theirs.efi"
    for file in (theirs, image):
        file.parent.mkdir(parents=True)
        file.write_text("title theirs\n")
    scene.hooks("40-mine", f"ls {theirs} {image} && exit 1")
    scene.install("to-existing-root", fs.mount, inside=inside, ok=7)
    assert not can_boot(fs.mount)
    assert set_aside(fs.mount)
    assert theirs.exists()
    assert image.exists()
