"""Installations that are killed or interrupted: nothing stays open, nothing boots half-installed."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from installer_plugin.block.base import OpenOptions
from installer_plugin.hooks.phases import Phase
from tests.faults.scene import APP, kill, processes
from tests.hosts.scene import STANDIN, Scene, bind, can_boot, note, set_aside
from tests.hosts.underway import hanging_hook, send, started, wait_for
from tests.support.commands import run
from tests.support.disks import LoopFsFactory
from tests.support.leftovers import Machine

pytestmark = pytest.mark.real

WAYS = pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
RECORDS = OpenOptions().state
UNPROVEN = "the installation has ended before its images were proven"


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """A bound image, and a cleanup hook that tells when it has run."""
    bind(scene.container, APP)
    scene.hooks("90-watch", f"touch {scene.directory}/cleaned", phase=Phase.CLEANUP)
    return scene


def paused(scene: Scene, step: str) -> dict[str, str]:
    """Environment in which bootc waits before a step; the file `paused` tells that it is there."""
    return {"STANDIN_PAUSE_AT": f"{step}:{scene.directory}/paused"}


def records(scene: Scene) -> list[Path]:
    """What is on file about the scene's targets."""
    return [
        file
        for file in RECORDS.glob("unproven-*")
        if str(scene.directory).encode() in file.read_bytes()
    ]


def gone(scene: Scene) -> bool:
    """Whether all processes of an installation have ended, its guard among them."""
    return processes(str(scene.directory)) == []


def assert_does_not_boot(scene: Scene, why: str) -> None:
    assert records(scene) == []
    with scene.root() as root:
        assert not can_boot(root)
        assert set_aside(root)
        assert why in note(root)


@WAYS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_installation_cleans_up_and_does_not_boot(
    scene: Scene, number: signal.Signals, *, inside: bool
) -> None:
    begun = hanging_hook(scene)
    loops = Machine.now().loops
    with started(scene, inside=inside) as process:
        wait_for(begun.exists, process)
        send(scene, number)
        assert process.wait() == 130
        assert gone(scene)
    assert f"interrupted by {number.name}" in (scene.directory / "log").read_text()
    assert scene.cleanup_ran()
    assert scene.left_over(loops) == []
    assert_does_not_boot(scene, "interrupted by SIG")


@WAYS
def test_interrupted_while_bootc_is_at_work(scene: Scene, *, inside: bool) -> None:
    loops = Machine.now().loops
    with started(scene, inside=inside, env=paused(scene, "bound-images")) as process:
        wait_for((scene.directory / "paused").exists, process)
        send(scene, signal.SIGTERM)
        assert process.wait() == 130
        assert gone(scene)
    assert scene.left_over(loops) == []
    assert_does_not_boot(scene, "interrupted by SIGTERM")


@WAYS
@pytest.mark.parametrize("step", ["store", "bootloader", "bound-images"])
def test_killed_while_bootc_is_at_work(scene: Scene, step: str, *, inside: bool) -> None:
    """Before our images' turn has come: a guard that survives keeps the disk from booting."""
    loops = Machine.now().loops
    with started(scene, inside=inside, env=paused(scene, step)) as process:
        wait_for((scene.directory / "paused").exists, process)
        send(scene, signal.SIGKILL)
        assert process.wait() == 137
        wait_for(lambda: gone(scene))
    if step == "store":
        assert not scene.boots()
        assert records(scene) == []
    else:
        assert_does_not_boot(scene, UNPROVEN)
    scene.install(inside=inside)
    assert scene.left_over(loops) == []
    assert scene.boots()


KILL_AT_THE_END = (
    '#!/bin/sh\n{standin}/bootc "$@" || exit\n'
    'case "$*" in *--help*|*--version*) exit ;; esac\n'
    'kill -9 "$(cat {pid})"\n'
)


def test_killed_when_bootc_ends(scene: Scene, tmp_path: Path) -> None:
    """Between bootc's last word and the opening of its disk."""
    wrapper = tmp_path / "bin/bootc"
    wrapper.parent.mkdir()
    wrapper.write_text(KILL_AT_THE_END.format(standin=STANDIN, pid=scene.directory / "pid"))
    wrapper.chmod(0o755)
    path = {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
    with started(scene, inside=False, env=path) as process:
        assert process.wait() == 137
        wait_for(lambda: gone(scene))
    assert "Installation complete!" in (scene.directory / "log").read_text()
    assert_does_not_boot(scene, UNPROVEN)


def test_killed_when_bootc_ends_well_with_the_images_proven(scene: Scene, tmp_path: Path) -> None:
    """In the way during bootc's copying they are there by then, and the disk boots."""
    wrapper = tmp_path / "bin/bootc"
    wrapper.parent.mkdir()
    wrapper.write_text(KILL_AT_THE_END.format(standin=STANDIN, pid=scene.directory / "pid"))
    wrapper.chmod(0o755)
    path = {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
    with started(scene, inside=True, env=path) as process:
        assert process.wait() == 137
        wait_for(lambda: gone(scene))
    assert records(scene) == []
    assert scene.boots()
    assert "1 image verified" in scene.verify()


NEXT: Mapping[str, Callable[[Scene], object]] = {
    "verify": lambda scene: scene.verify(ok=6),
    "copy": lambda scene: scene.call("copy", scene.container, scene.disk),
    "install": lambda scene: scene.install(
        "to-disk", "--via-loopback", "--filesystem=ext4", scene.disk, inside=False, ok=7
    ),
    "install elsewhere": lambda scene: scene.install("to-filesystem", "/absent", ok=2),
}


@pytest.mark.parametrize("call", NEXT.values(), ids=NEXT)
def test_next_call_does_what_a_killed_guard_has_not_done(
    scene: Scene, call: Callable[[Scene], object]
) -> None:
    """Everything is killed at once: bootc, which leaves its loop device, and the guard too."""
    with started(scene, inside=False, env=paused(scene, "finalize")) as process:
        wait_for((scene.directory / "paused").exists, process)
        for each in processes(str(scene.directory)):
            kill(int(each.split()[0]))
        wait_for(lambda: gone(scene))
    assert len(records(scene)) == 1
    call(scene)
    assert_does_not_boot(scene, UNPROVEN)


def test_dry_run_leaves_a_killed_runs_disk_alone(scene: Scene) -> None:
    with started(scene, inside=False, env=paused(scene, "finalize")) as process:
        wait_for((scene.directory / "paused").exists, process)
        for each in processes(str(scene.directory)):
            kill(int(each.split()[0]))
        wait_for(lambda: gone(scene))
    scene.call("copy", "--dry-run", scene.container, scene.directory)
    assert len(records(scene)) == 1
    scene.verify(ok=6)
    assert records(scene) == []


@WAYS
def test_bootc_alone_is_killed(scene: Scene, *, inside: bool) -> None:
    """Its loop device, which nobody detaches any more, is not in our way."""
    loops = Machine.now().loops
    with started(scene, inside=inside, env=paused(scene, "bound-images")) as process:
        wait_for((scene.directory / "paused").exists, process)
        (bootc,) = (
            each for each in processes(str(scene.directory)) if f"{STANDIN}/bootc install" in each
            and "setpriv" not in each and "sh -" not in each
        )  # fmt: skip
        kill(int(bootc.split()[0]))
        assert process.wait() == 7
        assert gone(scene)
    assert "bootc was ended by SIGKILL" in (scene.directory / "log").read_text()
    assert scene.cleanup_ran()
    assert scene.left_over(loops) == []
    assert_does_not_boot(scene, "bootc was ended by SIGKILL")


def test_shim_that_fails_before_it_has_set_anything_aside(scene: Scene) -> None:
    """A hook that may not be run any more, after all."""
    hook = scene.hooks("40-mine", "true")
    with started(scene, inside=True, env=paused(scene, "bound-images")) as process:
        wait_for((scene.directory / "paused").exists, process)
        os.chown(hook, 1, 1)
        (scene.directory / "paused").unlink()
        assert process.wait() == 7
    assert "belongs to user 1" in (scene.directory / "log").read_text()
    assert_does_not_boot(scene, "belongs to user 1")


def test_next_call_sets_aside_what_could_not_be(scene: Scene) -> None:
    """Somebody holds the disk image when the installation fails."""
    env = {**paused(scene, "bound-images"), "STANDIN_FAIL_AT": "bound-images"}
    with started(scene, inside=False, env=env) as process:
        wait_for((scene.directory / "paused").exists, process)
        device = run(("losetup", "--find", "--show", scene.disk)).stdout.strip()
        with Path(device).open("rb"):
            (scene.directory / "paused").unlink()
            assert process.wait() == 7
    log = (scene.directory / "log").read_text()
    assert "its boot entries could not be set aside" in log
    assert len(records(scene)) == 1
    scene.verify(ok=6)
    assert_does_not_boot(scene, UNPROVEN)


def test_target_that_may_boot_anyway_is_not_guarded(scene: Scene) -> None:
    own = ("--on-failure=keep",)
    with started(scene, inside=False, own=own, env=paused(scene, "finalize")) as process:
        wait_for((scene.directory / "paused").exists, process)
        assert records(scene) == []
        send(scene, signal.SIGKILL)
        wait_for(lambda: gone(scene))
    assert scene.boots()


@WAYS
def test_killed_on_a_file_system_that_is_mounted_already(
    scene: Scene, loop_fs: LoopFsFactory, *, inside: bool
) -> None:
    fs = loop_fs()
    words = ("to-filesystem", fs.mount)
    with started(scene, *words, inside=inside, env=paused(scene, "bound-images")) as process:
        wait_for((scene.directory / "paused").exists, process)
        assert can_boot(fs.mount)
        send(scene, signal.SIGKILL)
        wait_for(lambda: gone(scene))
    assert records(scene) == []
    assert not can_boot(fs.mount)
    assert UNPROVEN in note(fs.mount)


def test_killed_while_bootc_holds_the_target(scene: Scene) -> None:
    """bootc ends with us; the next installation finds nothing in its way."""
    begun = hanging_hook(scene)
    loops = Machine.now().loops
    with started(scene, inside=True) as process:
        wait_for(begun.exists, process)
        send(scene, signal.SIGKILL)
        assert process.wait() == 137
        wait_for(lambda: gone(scene))
    assert_does_not_boot(scene, "")
    (scene.directory / "hang").unlink()
    scene.install()
    assert scene.left_over(loops) == []
    assert "1 image verified" in scene.verify()
    assert scene.boots()


def test_killed_while_we_hold_the_target(scene: Scene) -> None:
    """Nothing stays open; the disk does not boot, and a second installation succeeds."""
    begun = hanging_hook(scene)
    loops = Machine.now().loops
    with started(scene, inside=False) as process:
        wait_for(begun.exists, process)
        send(scene, signal.SIGKILL)
        assert process.wait() == 137
        (scene.directory / "hang").unlink()
        wait_for(lambda: gone(scene))
    scene.verify()  # takes back what was left open
    assert_does_not_boot(scene, "has not come to its end")
    scene.install(inside=False)
    assert scene.left_over(loops) == []
    assert "1 image verified" in scene.verify()
    assert scene.boots()
