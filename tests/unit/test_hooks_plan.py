"""Which hooks there are, in which order, what overrides what, and which are refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from installer_plugin.errors import HostError
from installer_plugin.hooks.directories import BACKUPS, hook_directories
from installer_plugin.hooks.phases import OUR_STAGES, VERIFY_STAGE, Phase
from installer_plugin.hooks.plan import BUILT_IN, PhasePlan, plans, require_allowed
from tests.support.hooked import Hooked

PLACES = ("etc", "run", "usr/local/lib", "usr/lib")


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    return Hooked(tmp_path)


def _names(plan: PhasePlan) -> list[str]:
    return [each.name for each in plan.hooks]


def test_directories_stand_by_precedence() -> None:
    assert [str(path) for path in hook_directories()] == [
        "/etc/bootc-bound-images/hooks.d",
        "/run/bootc-bound-images/hooks.d",
        "/usr/local/lib/bootc-bound-images/hooks.d",
        "/usr/lib/bootc-bound-images/hooks.d",
    ]


def test_without_hooks_our_stages_are_the_plan(hooked: Hooked) -> None:
    found = plans(hook_directories(hooked.root))
    assert {phase: tuple(_names(plan)) for phase, plan in found.items()} == OUR_STAGES
    require_allowed(*found.values())
    assert all(each.file is None for plan in found.values() for each in plan.hooks)


def test_one_order_over_all_directories_and_our_stages(hooked: Hooked) -> None:
    for number, place in zip((40, 25, 10, 99), PLACES, strict=True):
        hooked(f"{number}-x", place=place)
    assert _names(hooked.plan()) == ["10-x", "20-copy", "25-x", "30-label", "40-x", "99-x"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_directory_that_precedes_replaces(hooked: Hooked, count: int) -> None:
    files = [hooked("60-x", place=place) for place in PLACES[-count:]]
    (found,) = (each for each in hooked.plan().hooks if each.name == "60-x")
    assert found.file == files[0]
    assert found.overrides == tuple(map(str, files[1:]))


def test_a_hook_replaces_our_stage(hooked: Hooked) -> None:
    hooked("20-copy", place="usr/lib")
    file = hooked("20-copy", place="etc")
    first, second = hooked.plan().hooks
    assert (first.file, first.deed, first.is_ours) == (file, "replaced", True)
    assert first.overrides[-1] == BUILT_IN
    assert (second.name, second.file) == ("30-label", None)


def test_link_to_dev_null_masks(hooked: Hooked) -> None:
    hooked("60-x", place="usr/lib")
    mask = hooked.mask("60-x", place="run")
    ours = hooked.mask("30-label", place="usr/lib")
    plan = hooked.plan()
    require_allowed(plan)
    assert [(each.file, each.masked) for each in plan.hooks] == [
        (None, False), (ours, True), (mask, True),
    ]  # fmt: skip


def test_mask_below_a_hook_masks_nothing(hooked: Hooked) -> None:
    file = hooked("60-x", place="etc")
    hooked.mask("60-x", place="usr/lib")
    found = hooked.plan().hooks[-1]
    assert (found.file, found.masked) == (file, False)


def test_mask_by_a_link_to_a_link(hooked: Hooked) -> None:
    file = hooked.file("etc", Phase.POST_INSTALL, "60-x")
    (hooked.root / "none").symlink_to("/dev/null")
    file.symlink_to(hooked.root / "none")
    assert hooked.plan().hooks[-1].masked


@pytest.mark.parametrize("suffix", BACKUPS)
def test_backups_are_ignored_in_silence(hooked: Hooked, suffix: str) -> None:
    hooked(f"60-x{suffix}").chmod(0o666)
    plan = hooked.plan()
    assert _names(plan) == ["20-copy", "30-label"]
    assert (plan.ignored, plan.problems) == ((), ())


@pytest.mark.parametrize(
    "name", ["x", "6-x", "600-x", "60x", "60-", "60-.x", "README", ".gitkeep", "60-a b", "60-\x1b"]
)
def test_other_names_are_ignored_and_told(hooked: Hooked, name: str) -> None:
    file = hooked(name)
    plan = hooked.plan()
    assert _names(plan) == ["20-copy", "30-label"]
    assert (plan.ignored, plan.problems) == ((file,), ())


def test_hooks_of_one_phase_are_not_those_of_another(hooked: Hooked) -> None:
    hooked("50-verify", phase=Phase.POST_INSTALL)
    hooked("60-x", phase=Phase.CLEANUP)
    assert _names(hooked.plan(Phase.CLEANUP)) == ["60-x"]
    require_allowed(*plans(hook_directories(hooked.root)).values())


# --- verification stays ------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ["masked", "replaced"])
def test_verification_cannot_be_taken_out(hooked: Hooked, place: str, way: str) -> None:
    make = hooked.mask if way == "masked" else hooked
    file = make(VERIFY_STAGE, phase=Phase.VERIFY, place=place)
    with pytest.raises(HostError) as caught:
        require_allowed(hooked.plan(Phase.VERIFY))
    (problem,) = caught.value.problems
    assert (problem.subject, problem.where) == (VERIFY_STAGE, str(file))
    assert problem.message.startswith(f"is {way}, so that nothing would prove")
    assert "--unsafe-skip-verify" in problem.hint
    plan = hooked.plan(Phase.VERIFY, unsafe=True)
    require_allowed(plan)
    assert plan.unproven_by is not None
    assert plan.unproven_by.file == file


def test_unsafe_option_excuses_nothing_else(hooked: Hooked) -> None:
    hooked(VERIFY_STAGE, phase=Phase.VERIFY).chmod(0o775)
    with pytest.raises(HostError, match="0775"):
        require_allowed(hooked.plan(Phase.VERIFY, unsafe=True))


# --- security ------------------------------------------------------------------------------------


def _chown(path: Path) -> None:
    os.chown(path, 1000, 0)


def _replace(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "foreign": (_chown, "belongs to user 1000, expected root", "chown root "),
    "group-writable": (lambda p: p.chmod(0o775), "has the mode 0775, expected that only", "go-w"),
    "world-writable": (lambda p: p.chmod(0o757), "has the mode 0757, expected that only", "go-w"),
    "setuid": (lambda p: p.chmod(0o4755), "setuid or setgid", "chmod u-s,g-s"),
    "setgid": (lambda p: p.chmod(0o2755), "setuid or setgid", "chmod u-s,g-s"),
    "no-program": (lambda p: p.chmod(0o644), "expected an executable file", "chmod u+x"),
    "directory": (_replace(Path.mkdir), "is a directory, expected a regular file", "put"),
    "fifo": (_replace(os.mkfifo), "expected a regular file", "put"),
    "link": (_replace(lambda p: p.symlink_to("/bin/true")), "expected a regular file", "put"),
    "dangling": (_replace(lambda p: p.symlink_to("none")), "expected a regular file", "put"),
    "circle": (_replace(lambda p: p.symlink_to(p.name)), "expected a regular file", "put"),
}


@pytest.mark.parametrize(("change", "message", "hint"), REFUSED.values(), ids=REFUSED)
def test_unsafe_file_is_refused(
    hooked: Hooked, change: Callable[[Path], None], message: str, hint: str
) -> None:
    file = hooked("60-x")
    change(file)
    (problem,) = hooked.plan().problems
    assert problem.subject == str(file)
    assert message in problem.message
    assert hint in problem.hint


def test_mask_of_somebody_else_is_refused(hooked: Hooked) -> None:
    os.chown(hooked.mask("60-x"), 1000, 0, follow_symlinks=False)
    (problem,) = hooked.plan().problems
    assert "belongs to user 1000" in problem.message


@pytest.mark.parametrize("above", [0, 1, 2])
@pytest.mark.parametrize(
    ("change", "message"),
    [(_chown, "belongs to user 1000"), (lambda p: p.chmod(0o775), "has the mode 0775")],
    ids=["foreign", "group-writable"],
)
def test_unsafe_directory_is_refused_once(
    hooked: Hooked, change: Callable[[Path], None], message: str, above: int
) -> None:
    hooked("60-x")
    folder = hooked("70-y").parents[above]
    change(folder)
    plan = hooked.plan()
    (problem,) = plan.problems
    assert problem.subject == str(folder)
    assert message in problem.message
    assert [bool(each.problems) for each in plan.hooks] == [False, False, True, True]


def test_directory_that_is_a_file_is_refused(hooked: Hooked) -> None:
    folder = hooked("60-x").parent
    (folder / "60-x").unlink()
    folder.rmdir()
    folder.touch()
    assert "expected a directory" in hooked.plan().problems[0].message


def test_unsafe_file_that_is_overridden_is_not_run_and_not_refused(hooked: Hooked) -> None:
    hooked("60-x", place="usr/lib").chmod(0o777)
    hooked("60-x", place="etc")
    require_allowed(hooked.plan())


def test_all_refusals_are_told_together(hooked: Hooked) -> None:
    hooked("60-x").chmod(0o775)
    hooked("70-y", phase=Phase.CLEANUP).chmod(0o644)
    hooked.mask(VERIFY_STAGE, phase=Phase.VERIFY)
    with pytest.raises(HostError) as caught:
        require_allowed(*plans(hook_directories(hooked.root)).values())
    assert len(caught.value.problems) == 3
