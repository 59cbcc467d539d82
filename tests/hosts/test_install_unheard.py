"""Installations whose words nobody reads any more, or that others talk into: the target is finished."""

import pytest

from installer_plugin.hosts.bootc.shim_session import EVENTS
from tests.faults.scene import APP
from tests.hosts.scene import Scene, bind
from tests.support.commands import run

pytestmark = pytest.mark.real

WAYS = pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
GONE = "> >(exec true); sleep 0.3"
"""A pipe whose reader has gone before the first word (bash)."""


@pytest.fixture
def scene(scene: Scene) -> Scene:
    bind(scene.container, APP)
    return scene


@WAYS
@pytest.mark.parametrize(
    "lost",
    [
        f"exec 3{GONE}",
        f"exec 2{GONE}",
        "exec 2>/dev/full 3>&2",
        "exec 2>&- 3>/dev/null",
        f"exec {GONE}; exec 2>&1 3>&1",
    ],
    ids=["progress gone", "messages gone", "full disk", "closed", "all gone"],
)
def test_installation_is_finished_whoever_listens(scene: Scene, lost: str, *, inside: bool) -> None:
    own = ("--progress-fd", "3") if "3>" in lost else ()
    script = f'{lost}\nexec "$@"'
    argv = ("bash", "-c", script, "bash", *scene.argv(own=own, inside=inside))
    run(argv, env=scene.env(inside=inside))
    assert scene.boots()
    assert "1 image verified" in scene.verify()


def test_line_that_is_not_an_event_does_not_end_the_rest(scene: Scene) -> None:
    """Whoever can write to the folder of the installation; a hook of the administrator here."""
    scene.hooks("15-noise", f'echo "no event" >>"$(dirname "$BOUND_IMAGES_STATE")/{EVENTS}"')
    done = scene.install()
    assert "the work goes on" in done.stderr
    assert "verify" in done.stderr.partition("the work goes on")[2]
    assert "1 image verified" in scene.verify()
