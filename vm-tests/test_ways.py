"""The ways into an installation: in the place of bootc's own copying, and after it."""

from pathlib import Path

import pytest
from container import Container, container_of
from host import Host
from proof import assert_runs_bound_images
from scene import COMPOSEFS_STORE, EXT4, Scene, build_apps

from tests.support.commands import run
from tests.support.stores import make_store


@pytest.fixture(scope="module")
def container(bound_os: Path, stores: Path, host: Host) -> Container:
    """The OS image, and the app images beside it in one store."""
    base = stores / "container"
    return container_of(bound_os, build_apps(make_store(base), base), reads_gpt=host.reads_gpt)


@pytest.mark.parametrize("when", ["during", pytest.param("after", marks=pytest.mark.slow)])
def test_os_image_installs_itself(when: str, container: Container, stage: Scene) -> None:
    """the image installs itself, bound images while bootc copies or after"""
    disk = stage.new_disk()
    options = ("--when=after",) if when == "after" else ()
    with stage.clock.step("install"):
        argv = ("python3", "-m", "installer_plugin", "install", *options, *stage.to_disk(disk))
        done = container.command(stage.folder, argv).run()
    assert f"mode: {when} " in done.stderr, done.stderr
    assert_runs_bound_images(stage.with_store(container.store), disk)


@pytest.mark.standin(
    "bootc's composefs backend wants a boot loader, and an initramfs that has a program of bootc's"
)
def test_composefs_system(bound_os: Path, stage: Scene) -> None:
    """bootc's composefs backend, which copies none: they are there and run"""
    disk = stage.new_disk()
    done = stage.install(bound_os, disk, bootc=(*EXT4, "--composefs-backend"))
    assert "mode: after (bootc's composefs backend copies no bound images)" in done.stderr
    more = {"place": "readlink -f /usr/lib/bootc/storage", "backend": "cat /proc/cmdline"}
    said = assert_runs_bound_images(stage, disk, more)
    assert said["place"].lines == [f"/sysroot/{COMPOSEFS_STORE}"]
    assert " composefs=" in said["backend"].text


def test_qcow2_disk_gets_its_images_afterwards(bound_os: Path, stage: Scene) -> None:
    """a qcow2 disk that was built without its images gets them, and boots"""
    raw = stage.new_disk()
    with stage.clock.step("build"):
        stage.install_by_bootc_alone(bound_os, raw, "--bound-images=skip")
        disk = raw.with_suffix(".qcow2")
        run(("qemu-img", "convert", "-O", "qcow2", raw, disk))
        raw.unlink()
    with stage.clock.step("copy"):
        stage.product("copy", str(bound_os), str(disk))
    stage.verify(disk, ok=0)
    assert_runs_bound_images(stage, disk)
