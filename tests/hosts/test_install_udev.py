"""`install` where an udevd runs; every other test of it runs without one."""

import pytest

from tests.block.udevd import udevd_argv
from tests.faults.scene import APP
from tests.hosts.scene import Scene, bind
from tests.support.commands import run
from tests.support.leftovers import Machine

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("udevd")]


@pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
def test_disk_is_installed_while_udevd_looks_at_it(scene: Scene, *, inside: bool) -> None:
    bind(scene.container, APP)
    loops = Machine.now().loops
    done = run(udevd_argv(scene.argv(inside=inside)), env=scene.env(inside=inside))
    assert "disk: looking with udev: udevd is running" in done.stderr
    assert "1 image verified" in done.stdout
    assert scene.left_over(loops) == []
    assert scene.boots()
    assert "1 image verified" in scene.verify()


def test_failing_hook_keeps_the_disk_from_booting(scene: Scene) -> None:
    bind(scene.container, APP)
    scene.hooks("40-mine", "exit 1")
    loops = Machine.now().loops
    run(udevd_argv(scene.argv(inside=False)), env=scene.env(inside=False), ok=(7,))
    assert scene.left_over(loops) == []
    assert not scene.boots()
