"""Hooks around a bootc installation, in both ways in."""

import json
import os
import shlex
import time

import pytest

from installer_plugin.hooks.directories import FOLDER
from installer_plugin.hooks.phases import Phase
from installer_plugin.process.procfs import lives
from tests.faults.scene import APP, SMALL
from tests.hosts.scene import RECEIPT, Scene, bind, can_boot, edges, note, set_aside

pytestmark = pytest.mark.real

WAYS = pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])


@pytest.fixture
def hooked(scene: Scene) -> Scene:
    """A bound image, and a cleanup hook that tells when it has run."""
    bind(scene.container, APP)
    scene.hooks("90-watch", f"touch {scene.directory}/cleaned", phase=Phase.CLEANUP)
    return scene


def assert_held_back(scene: Scene, reason: str) -> None:
    """The disk has its system, which no boot loader starts, and says why and how to undo it."""
    with scene.root() as root:
        assert not can_boot(root)
        assert set_aside(root)
        assert reason in note(root)
        assert "rename" in note(root)
    assert scene.cleanup_ran()


@WAYS
def test_failing_hook_fails_the_installation(hooked: Scene, *, inside: bool) -> None:
    hooked.hooks("40-mine", "echo so it is; exit 1")
    done = hooked.install(inside=inside, ok=7)
    assert "40-mine: so it is" in done.stderr
    assert "error: post-install hook 40-mine (" in done.stderr
    assert "failed with exit code 1, expected exit code 0" in done.stderr
    assert_held_back(hooked, "40-mine")


@WAYS
def test_hook_that_takes_our_notes_away_hides_nothing(hooked: Scene, *, inside: bool) -> None:
    hooked.hooks("40-mine", 'rm -r "$BOUND_IMAGES_STATE"; exit 1')
    done = hooked.install(inside=inside, ok=7)
    assert "error: post-install hook 40-mine (" in done.stderr
    assert_held_back(hooked, "40-mine")


@WAYS
def test_hook_cannot_change_what_is_proven(hooked: Scene, *, inside: bool) -> None:
    hooked.hooks("55-mine", 'touch "$BOUND_IMAGES_TARGET/changed"', phase=Phase.VERIFY)
    done = hooked.install(inside=inside, ok=7)
    assert "Read-only file system" in done.stderr
    assert_held_back(hooked, "55-mine")


@WAYS
def test_hanging_hook_is_ended_with_all_it_started(hooked: Scene, *, inside: bool) -> None:
    pid = hooked.directory / "pid"
    hooked.hooks("40-mine", f"sleep 600 & echo $! >{pid}; wait")
    began = time.monotonic()
    done = hooked.install(own=("--hook-timeout=1",), inside=inside, ok=7)
    assert "40-mine" in done.stderr
    assert "did not end within 1 s" in done.stderr
    assert time.monotonic() - began < 60
    assert not lives(int(pid.read_text()))
    assert_held_back(hooked, "did not end")


@WAYS
def test_hook_of_another_user_is_refused_before_the_disk_is_touched(
    hooked: Scene, *, inside: bool
) -> None:
    os.chown(hooked.hooks("40-mine"), 1, 1)
    before = edges(hooked.disk)
    done = hooked.install(inside=inside, ok=7)
    assert "40-mine" in done.stderr
    assert "belongs to user 1" in done.stderr
    assert edges(hooked.disk) == before
    assert hooked.cleanup_ran()


@WAYS
def test_masked_hook_does_not_run(hooked: Scene, *, inside: bool) -> None:
    vendor = hooked.container / "usr/lib" / FOLDER / "post-install.d"
    vendor.mkdir(parents=True)
    (vendor / "40-mine").write_text("#!/bin/sh\nexit 1\n")
    (vendor / "40-mine").chmod(0o755)
    if inside:
        hooked.install(ok=7)
    hooked.hooks.mask("40-mine")
    done = hooked.install(inside=inside)
    assert "40-mine is masked by /etc/bootc-bound-images/hooks.d/post-install.d/40-mine" in (
        done.stderr
    )
    assert "1 image verified" in hooked.verify()
    assert hooked.cleanup_ran()


@WAYS
def test_hook_that_is_not_applicable_is_no_failure(hooked: Scene, *, inside: bool) -> None:
    hooked.hooks("40-mine", "exit 77")
    done = hooked.install(inside=inside)
    assert "40-mine says that it is not applicable" in done.stderr
    assert "1 image verified" in hooked.verify()


@WAYS
def test_hook_in_the_place_of_our_copying_is_held_to_what_it_leaves(
    hooked: Scene, *, inside: bool
) -> None:
    """It copies nothing; that is found out, and nothing boots."""
    hooked.hooks("20-copy", "exit 0")
    done = hooked.install(inside=inside, ok=6)
    assert APP in done.stderr
    assert_held_back(hooked, "localhost/app:1")


@WAYS
def test_receipt_that_a_hook_leaves_damaged_fails_the_installation(
    hooked: Scene, *, inside: bool
) -> None:
    """Also where what was proven before would do for a disk that cannot be opened again."""
    place = f"$BOUND_IMAGES_TARGET/{RECEIPT}"
    hooked.hooks("60-record", f"echo nonsense >{place}", phase=Phase.VERIFY)
    done = hooked.install(inside=inside, ok=2)
    assert f"error: {hooked.disk}:/{RECEIPT}" in done.stderr
    assert_held_back(hooked, "is not JSON")


@WAYS
def test_hook_may_copy_in_our_place(hooked: Scene, *, inside: bool) -> None:
    settings = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in hooked.store.env.items())
    place = f"overlay@$BOUND_IMAGES_STORE+{hooked.directory}/run"
    reference = f"containers-storage:[{place}]{APP}"
    hooked.hooks(
        "20-copy",
        f'{settings}exec unshare --mount skopeo copy -q containers-storage:{APP} "{reference}"',
    )
    done = hooked.install(inside=inside)
    assert "copying" not in done.stderr
    assert "1 image verified" in hooked.verify()


@WAYS
def test_hooks_know_where_they_are(hooked: Scene, *, inside: bool) -> None:
    """Each phase sees what is known by then, in variables and on stdin."""
    seen = hooked.directory / "seen"
    seen.mkdir()
    for phase in Phase:
        hooked.hooks("85-look", f"env >{seen}/{phase}.env; cat >{seen}/{phase}.json", phase=phase)
    hooked.hooks("86-write", 'echo hello >"$BOUND_IMAGES_TARGET/hello"')
    hooked.install(inside=inside)
    for phase in Phase:
        lines = (seen / f"{phase}.env").read_text().splitlines()
        known = dict(line.split("=", 1) for line in lines if line.startswith("BOUND_IMAGES_"))
        assert known["BOUND_IMAGES_PHASE"] == phase
        assert known["BOUND_IMAGES_DISK"] == str(hooked.disk)
        assert known["BOUND_IMAGES_SOURCE"] == ("/" if inside else str(hooked.container))
        state = json.loads((seen / f"{phase}.json").read_text())
        assert [image["reference"] for image in state["bound"]] == [APP]
        assert bool(state["copied"]) == (phase is not Phase.PRE_INSTALL)
        if phase in (Phase.POST_INSTALL, Phase.VERIFY):
            assert known["BOUND_IMAGES_BACKEND"] == "ostree"
            assert known["BOUND_IMAGES_STORE"].endswith("/ostree/bootc/storage")
    with hooked.root() as root:
        assert (root / "hello").read_text() == "hello\n"


@WAYS
def test_failing_pre_install_hook_leaves_the_disk_alone(hooked: Scene, *, inside: bool) -> None:
    hooked.hooks("50-mine", "exit 3", phase=Phase.PRE_INSTALL)
    before = edges(hooked.disk)
    hooked.install(inside=inside, ok=7)
    assert edges(hooked.disk) == before
    assert hooked.cleanup_ran()


def test_masked_verification_is_refused_unless_the_risk_is_taken(hooked: Scene) -> None:
    hooked.hooks.mask("50-verify", phase=Phase.VERIFY)
    before = edges(hooked.disk)
    done = hooked.install(ok=7)
    assert "--unsafe-skip-verify" in done.stderr
    assert edges(hooked.disk) == before
    assert hooked.cleanup_ran()
    done = hooked.install(own=("--unsafe-skip-verify",))
    assert "NOTHING PROVES WHAT IS ON THE TARGET" in done.stderr


def test_failing_cleanup_hook_fails_a_good_installation(hooked: Scene) -> None:
    hooked.hooks("10-mine", "exit 1", phase=Phase.CLEANUP)
    done = hooked.install(ok=7)
    assert "cleanup hook 10-mine" in done.stderr
    assert hooked.cleanup_ran()
    assert hooked.boots()


def test_second_image_is_copied_with_the_last_call(hooked: Scene) -> None:
    """During bootc's copying: hooks run once, whatever the number of images."""
    (hooked.container / "usr/share/containers/systemd/z.image").write_text(
        f"[Image]\nImage={SMALL}\n"
    )
    (hooked.container / "usr/lib/bootc/bound-images.d/z.image").symlink_to(
        "/usr/share/containers/systemd/z.image"
    )
    counter = hooked.directory / "count"
    hooked.hooks("40-mine", f"echo once >>{counter}")
    hooked.install()
    assert counter.read_text() == "once\n"
    assert hooked.installed() == sorted((APP, SMALL))
