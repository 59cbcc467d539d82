"""Hooks as they run: what they are given, how they end, and that cleaning up always happens."""

import errno
import json
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from installer_plugin.errors import CopyError, DataError, HostError, InterruptedBySignal, Problem
from installer_plugin.hooks import running
from installer_plugin.hooks.phases import VERIFY_STAGE, Phase
from installer_plugin.hooks.running import (
    FIXED,
    NOT_APPLICABLE,
    SCHEMA,
    Facts,
    cleaned_up,
    run_phase,
)
from installer_plugin.process.procfs import lives
from installer_plugin.process.runner import END_GRACE_SECONDS
from installer_plugin.process.signals import interruptible
from tests.support.commands import run
from tests.support.hooked import Hooked
from tests.support.images import REPOSITORY
from tests.support.product import product

PROBLEM = Problem(subject="it", message="failed")


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    root = tmp_path / "root"
    root.mkdir()
    return Hooked(root)


def _run(hooked: Hooked, phase: Phase = Phase.POST_INSTALL, *, unsafe: bool = False) -> list[str]:
    """Run a phase and return what was said."""
    run_phase(hooked.plan(phase, unsafe=unsafe), hooked.stages(phase), hooked.around())
    return hooked.said.lines


def _refusal(hooked: Hooked, phase: Phase = Phase.POST_INSTALL) -> Problem:
    """Run a phase that fails and return its one problem."""
    with pytest.raises(HostError) as caught:
        _run(hooked, phase)
    (problem,) = caught.value.problems
    return problem


# --- order and what is said ------------------------------------------------------------------


def test_hooks_and_stages_run_in_one_order_and_speak_under_their_names(hooked: Hooked) -> None:
    hooked("10-first", "echo one; echo two >&2", place="usr/lib")
    between = hooked("25-between", place="run", script="printf 'no \\033[1m end'")
    hooked("99-last", "echo three")
    assert [line for line in _run(hooked) if not line.startswith("hooks:")] == [
        "10-first: one",
        "10-first: two",
        "ran: 20-copy",
        "25-between: no \\x1b[1m end",
        "ran: 30-label",
        "99-last: three",
    ]
    assert f"post-install: {between}" in hooked.said.by("hooks")


def test_hook_in_etc_replaces_our_stage(hooked: Hooked) -> None:
    hooked("20-copy", "echo lower", place="usr/lib")
    hooked("20-copy", "echo mine", place="etc")
    _run(hooked)
    assert hooked.said.by("ran") == ["30-label"]
    assert hooked.said.by("20-copy") == ["mine"]


def test_masked_names_are_told_and_not_run(hooked: Hooked) -> None:
    hooked("60-x", "exit 1", place="usr/lib")
    masks = [hooked.mask("20-copy"), hooked.mask("60-x")]
    _run(hooked)
    assert hooked.said.by("ran") == ["30-label"]
    assert hooked.said.by("hooks") == [f"{mask.name} is masked by {mask}" for mask in masks]


def test_not_applicable_is_told_and_the_phase_goes_on(hooked: Hooked) -> None:
    hooked("10-x", f"exit {NOT_APPLICABLE}")
    hooked("60-y", "echo here")
    _run(hooked)
    assert "10-x says that it is not applicable (exit code 77)" in hooked.said.by("hooks")
    assert hooked.said.by("ran") == ["20-copy", "30-label"]
    assert hooked.said.by("60-y") == ["here"]


def test_ignored_names_are_warned_of(hooked: Hooked) -> None:
    hooked("60-x~", "exit 1").chmod(0o666)
    file = hooked("README", "exit 1")
    assert [line for line in _run(hooked) if not line.startswith("ran:")] == [
        f"hooks: {file} is ignored: hooks are named NN-name"
    ]


# --- what a hook gets ------------------------------------------------------------------------


def test_hook_gets_phase_place_variables_and_state(
    hooked: Hooked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    hooked(
        "60-x",
        f'cd_was=$(pwd); cat >{out}/stdin; env >{out}/env; echo "$# $1 $cd_was $(umask)" >{out}/call',
    )
    facts = Facts(
        state_dir=Path("/state"), source="containers-storage:q.io/os:1", target=Path("/t"),
        store=Path("/t/ostree/bootc/storage"), backend="ostree", disk=Path("/dev/x"),
    )  # fmt: skip
    state = {"bound": [{"reference": "q.io/x:1"}], "copied": None}
    env = {"SOURCE_DATE_EPOCH": "12345"}
    around = hooked.around(facts=facts, state=lambda: state, env=env)
    before = os.umask(0o077)
    try:
        run_phase(hooked.plan(), hooked.stages(), around)
    finally:
        os.umask(before)
    assert (out / "call").read_text() == "1 post-install / 0022\n"
    assert json.loads((out / "stdin").read_text()) == {
        "schema": SCHEMA, "phase": "post-install", **state,
    }  # fmt: skip
    seen = dict(line.split("=", 1) for line in (out / "env").read_text().splitlines())
    ours = {name: value for name, value in seen.items() if name.startswith("BOUND_IMAGES_")}
    assert ours == {
        "BOUND_IMAGES_PHASE": "post-install",
        "BOUND_IMAGES_STATE": "/state",
        "BOUND_IMAGES_SOURCE": "containers-storage:q.io/os:1",
        "BOUND_IMAGES_TARGET": "/t",
        "BOUND_IMAGES_STORE": "/t/ostree/bootc/storage",
        "BOUND_IMAGES_BACKEND": "ostree",
        "BOUND_IMAGES_DISK": "/dev/x",
    }
    assert seen["SOURCE_DATE_EPOCH"] == "12345"
    assert (out / "stdin").stat().st_mode & 0o777 == 0o644


FOREIGN = {
    "BOUND_IMAGES_COPY_ENGINE": "podman",
    "BASH_ENV": "/no/such/file",
    "PYTHONPATH": "/somewhere",
    "REGISTRY_AUTH_FILE": "/secret/auth.json",
    "http_proxy": "http://user:password@proxy.example",
    "NOTIFY_SOCKET": "/run/systemd/notify",
}
"""What a caller may have, and no hook is to get."""


@pytest.mark.parametrize("phase", Phase)
def test_hook_gets_no_variable_that_is_not_listed(
    hooked: Hooked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    target = tmp_path / "target"
    target.mkdir()
    hooked("55-x", "tr '\\0' '\\n' </proc/$$/environ", phase=phase)
    facts = Facts(state_dir=Path("/state"), target=target)
    around = hooked.around(facts=facts, env={**os.environ, "TMPDIR": "/var/tmp"})  # noqa: S108
    if phase is Phase.CLEANUP:
        with cleaned_up(hooked.plan(phase), around):
            pass
    else:
        run_phase(hooked.plan(phase), hooked.stages(phase), around)
    seen = dict(line.split("=", 1) for line in hooked.said.by("55-x"))
    assert seen == {**FIXED, "TMPDIR": "/var/tmp", **facts.variables(phase)}  # noqa: S108


def test_program_of_that_name_in_the_callers_path_is_not_the_hooks(
    hooked: Hooked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bootc's own copying finds a podman of ours that way; a hook asks for the real one."""
    shim = tmp_path / "true"
    shim.write_text("#!/bin/sh\nexit 1\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    hooked("60-x", "exec env true")
    _run(hooked)


@pytest.mark.parametrize(
    ("phase", "name", "writes"),
    [
        (Phase.POST_INSTALL, "60-x", True),
        (Phase.VERIFY, "55-x", False),
        (Phase.VERIFY, "70-x", False),
        (Phase.VERIFY, "60-record", True),
    ],
    ids=str,
)
def test_target_is_read_only_for_hooks_that_look_at_what_is_proven(
    hooked: Hooked, tmp_path: Path, phase: Phase, name: str, *, writes: bool
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "there").write_text("seen\n")
    script = 'cat "$BOUND_IMAGES_TARGET/there"; touch "$BOUND_IMAGES_TARGET/new"; echo $?'
    hooked(name, script, phase=phase)
    around = hooked.around(facts=Facts(state_dir=Path("/state"), target=target))
    run_phase(hooked.plan(phase), hooked.stages(phase), around)
    seen, *_, code = hooked.said.by(name)
    assert seen == "seen"
    assert (target / "new").exists() == writes == (code == "0")


INNER = ("boot", "boot/efi", "var/lib/two words", "var/lib/b\\slash", "var/lib/ü\tx")
"""What is mounted in a target, from the outside in."""


@contextmanager
def _with_mounts(target: Path) -> Iterator[None]:
    """File systems in *target*, and a single file that is mounted from elsewhere."""
    points = [target / name for name in INNER]
    try:
        for point in points:
            point.mkdir(parents=True)
            run(("mount", "-t", "tmpfs", "-o", "nosuid,noexec", "tmpfs", point))
        file = target / "boot/file"
        file.touch()
        points.append(file)
        other = target.with_name("other")
        other.touch()
        run(("mount", "--bind", other, file))
        yield
    finally:
        for point in reversed(points):
            run(("umount", point), ok=(0, 1, 32))


WRITE_ALL = """
cd "$1"
shift
for place in . "$@"; do
    touch "$place/new" 2>/dev/null && echo "$place"
done
echo x 2>/dev/null >boot/file && echo file
grep -c "nosuid.*noexec" /proc/self/mountinfo
"""


def test_what_is_mounted_in_the_target_is_read_only_too(hooked: Hooked, tmp_path: Path) -> None:
    target = tmp_path / "target"
    places = " ".join(map(shlex.quote, INNER))
    script = WRITE_ALL.replace("cd", f'set -- "$BOUND_IMAGES_TARGET" {places}\ncd', 1)
    hooked("55-x", f"{script}\nexit 0", phase=Phase.VERIFY)
    with _with_mounts(target):
        facts = Facts(state_dir=Path("/state"), target=target)
        run_phase(
            hooked.plan(Phase.VERIFY), hooked.stages(Phase.VERIFY), hooked.around(facts=facts)
        )
        *written, _ = hooked.said.by("55-x")
        assert written == []
        for place in (".", *INNER):
            (target / place / "after").touch()  # the hook's mounts are its own


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["old kernel", "container"])
def test_each_mount_is_closed_where_the_kernel_does_not_do_it_at_once(
    tmp_path: Path, error: int
) -> None:
    program = (
        "import sys\n"
        "from installer_plugin.hooks import read_only\n"
        "def refused(_top):\n"
        f"    raise OSError({error}, 'refused')\n"
        "read_only._close_at_once = refused\n"
        "read_only.main(sys.argv[1:])\n"
    )
    target = tmp_path / "target"
    with _with_mounts(target):
        argv = (sys.executable, "-c", program, target, "/bin/sh", "-c", WRITE_ALL, "sh", target)
        alone = ("unshare", "--mount", "--propagation", "private", *argv, *INNER)
        *written, kept = run(alone).stdout.splitlines()
        assert written == []
        assert int(kept) >= 2 * len(INNER), "options of the mounts that they had before"


def test_hook_does_not_run_where_the_target_cannot_be_made_read_only(
    hooked: Hooked, tmp_path: Path
) -> None:
    hooked("55-x", "echo never", phase=Phase.VERIFY)
    facts = Facts(state_dir=Path("/state"), target=tmp_path / "absent")
    with pytest.raises(HostError, match="cannot be made read-only for the hook"):
        run_phase(
            hooked.plan(Phase.VERIFY), hooked.stages(Phase.VERIFY), hooked.around(facts=facts)
        )
    assert "never" not in hooked.said.by("55-x")


def test_hanging_hook_that_sees_a_read_only_target_is_ended(hooked: Hooked, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hooked("55-x", f"sleep 600 & echo $! >{pid}; wait", phase=Phase.VERIFY)
    facts = Facts(state_dir=Path("/state"), target=tmp_path / "target")
    (tmp_path / "target").mkdir()
    with pytest.raises(HostError, match="did not end within"):
        run_phase(
            hooked.plan(Phase.VERIFY),
            hooked.stages(Phase.VERIFY),
            hooked.around(facts=facts, timeout=1),
        )
    assert not lives(int(pid.read_text()))


def test_what_is_not_known_yet_is_empty(hooked: Hooked) -> None:
    hooked("60-x", 'set -u; echo "<$BOUND_IMAGES_TARGET$BOUND_IMAGES_STORE$BOUND_IMAGES_DISK>"')
    _run(hooked)
    assert hooked.said.by("60-x") == ["<>"]


def test_state_is_as_fresh_as_the_stage_before(hooked: Hooked) -> None:
    known: dict[str, object] = {}
    hooked("10-x", "grep -o '.copied[^,}]*' || echo none")
    hooked("25-y", "grep -o '.copied[^,}]*'")
    stages = hooked.stages()
    stages["20-copy"] = lambda: known.update(copied=7)
    run_phase(hooked.plan(), stages, hooked.around(state=lambda: known))
    assert (hooked.said.by("10-x"), hooked.said.by("25-y")) == (["none"], ['"copied": 7'])


# --- failing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("echo sorry >&2; exit 1", "failed with exit code 1"),
        ("echo sorry; kill -SEGV $$", "was ended by SIGSEGV"),
        ("echo sorry; exit 78", "failed with exit code 78"),
    ],
    ids=["exit-1", "signal", "exit-78"],
)
def test_failing_hook_fails_the_phase(hooked: Hooked, script: str, ending: str) -> None:
    file = hooked("25-bad", script)
    hooked("26-late", "echo never")
    problem = _refusal(hooked)
    assert (problem.subject, problem.where) == ("post-install hook 25-bad", str(file))
    assert problem.message.startswith(f"{ending}, expected exit code 0")
    assert problem.message.endswith(": sorry")
    assert "/etc/bootc-bound-images/hooks.d/post-install.d" in problem.hint
    assert hooked.said.by("ran") == ["20-copy"]
    assert hooked.said.by("26-late") == []


@pytest.mark.parametrize("code", [0, 77])
def test_no_hook_ends_a_phase_with_success(hooked: Hooked, code: int) -> None:
    hooked("01-x", f"exit {code}", phase=Phase.VERIFY)
    _run(hooked, Phase.VERIFY)
    assert hooked.said.by("ran") == [VERIFY_STAGE, "60-record"]


def test_hanging_hook_is_ended_with_its_grandchildren(hooked: Hooked) -> None:
    script = 'sh -c \'trap "" TERM; sh -c "echo \\$\\$; sleep 600" & echo $$; wait\' & wait'
    hooked("25-hang", script)
    began = time.monotonic()
    with pytest.raises(HostError) as caught:
        run_phase(hooked.plan(), hooked.stages(), hooked.around(timeout=1))
    assert time.monotonic() - began < 1 + END_GRACE_SECONDS
    assert "did not end within 1 s" in caught.value.problems[0].message
    pids = [int(line) for line in hooked.said.by("25-hang")]
    assert len(pids) == 2
    assert not any(map(lives, pids))


def test_what_a_hook_leaves_running_is_ended(hooked: Hooked) -> None:
    hooked("25-x", "sleep 600 & echo $!")
    _run(hooked)
    assert not lives(int(hooked.said.by("25-x")[0]))


@pytest.mark.parametrize(
    ("script", "why"),
    [("#!/no/such/shell\n", "No such file"), ("\0", "Exec format error")],
    ids=["interpreter", "format"],
)
def test_file_that_is_no_program_fails(hooked: Hooked, script: str, why: str) -> None:
    hooked("25-x").write_text(script)
    assert f"could not be started ({why}" in _refusal(hooked).message


def test_stage_that_fails_ends_the_phase_as_it_is(hooked: Hooked) -> None:
    hooked("25-x", "echo never")

    def fail() -> None:
        raise CopyError(PROBLEM)

    with pytest.raises(CopyError):
        run_phase(hooked.plan(), {**hooked.stages(), "20-copy": fail}, hooked.around())
    assert hooked.said.by("25-x") == []


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["foreign", "group-writable", "not-executable"])
def test_unsafe_hook_fails_the_phase_before_its_first(hooked: Hooked, way: str) -> None:
    file = hooked("99-x", "echo never")
    if way == "foreign":
        os.chown(file, 1000, 0)
    else:
        file.chmod(0o775 if way == "group-writable" else 0o644)
    assert _refusal(hooked).subject == str(file)
    assert hooked.said.lines == []


def test_hook_that_becomes_unsafe_meanwhile_is_not_run(hooked: Hooked) -> None:
    late = hooked("60-late", "echo never")
    hooked("10-x", f"chmod g+w {late}")
    assert _refusal(hooked).subject == str(late)
    assert hooked.said.by("60-late") == []


@pytest.mark.parametrize("way", ["masked", "replaced"])
def test_verification_stays_unless_the_risk_is_taken(hooked: Hooked, way: str) -> None:
    if way == "masked":
        file = hooked.mask(VERIFY_STAGE, phase=Phase.VERIFY)
    else:
        file = hooked(VERIFY_STAGE, phase=Phase.VERIFY)
    assert f"is {way}" in _refusal(hooked, Phase.VERIFY).message
    assert hooked.said.by("ran") == []
    _run(hooked, Phase.VERIFY, unsafe=True)
    assert hooked.said.by("ran") == ["60-record"]
    loud = f"{VERIFY_STAGE} is {way} by {file}: NOTHING PROVES WHAT IS ON THE TARGET"
    assert loud in hooked.said.by("hooks")


def test_cleanup_is_no_phase_to_be_run_at_will(hooked: Hooked) -> None:
    with pytest.raises(RuntimeError):
        run_phase(hooked.plan(Phase.CLEANUP), {}, hooked.around())


# --- cleanup ---------------------------------------------------------------------------------


def _cleanup_hooks(hooked: Hooked) -> None:
    hooked("10-a", "echo a", phase=Phase.CLEANUP)
    hooked("20-b", "echo b; exit 1", phase=Phase.CLEANUP)
    hooked("30-c", "echo c", phase=Phase.CLEANUP).chmod(0o775)
    hooked("40-d", "echo d", phase=Phase.CLEANUP)


def _cleaned(hooked: Hooked) -> list[str]:
    return [line for name in ("10-a", "20-b", "30-c", "40-d") for line in hooked.said.by(name)]


def test_every_cleanup_hook_runs_and_their_failures_fail_the_installation(hooked: Hooked) -> None:
    _cleanup_hooks(hooked)
    plan = hooked.plan(Phase.CLEANUP)
    with pytest.raises(HostError) as caught, cleaned_up(plan, hooked.around()):
        assert _cleaned(hooked) == []
    assert _cleaned(hooked) == ["a", "b", "d"]
    assert [problem.subject for problem in caught.value.problems] == [
        "cleanup hook 20-b", str(plan.hooks[2].file),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [CopyError(PROBLEM), RuntimeError("bug"), InterruptedBySignal("SIGTERM"), KeyboardInterrupt()],
    ids=["ours", "bug", "signal", "keyboard"],
)
def test_cleanup_runs_after_a_failure_and_does_not_hide_it(
    hooked: Hooked, error: BaseException
) -> None:
    _cleanup_hooks(hooked)
    around = hooked.around()
    with pytest.raises(type(error)) as caught, cleaned_up(hooked.plan(Phase.CLEANUP), around):
        raise error
    assert caught.value is error
    assert _cleaned(hooked) == ["a", "b", "d"]
    assert any("20-b" in line for line in hooked.said.by("cleanup"))


def test_unsafe_directory_stops_its_cleanup_hooks_only(hooked: Hooked) -> None:
    hooked("10-a", "echo a", phase=Phase.CLEANUP, place="run").parent.chmod(0o777)
    hooked("40-d", "echo d", phase=Phase.CLEANUP)
    with (
        pytest.raises(HostError) as caught,
        cleaned_up(hooked.plan(Phase.CLEANUP), hooked.around()),
    ):
        pass
    assert _cleaned(hooked) == ["d"]
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "error",
    [HostError(PROBLEM), DataError("state", "is damaged"), OSError(28, "No space left", "/run/x")],
    ids=["ours", "damaged", "full"],
)
def test_what_cannot_be_learned_stops_no_cleanup_hook(hooked: Hooked, error: Exception) -> None:
    _cleanup_hooks(hooked)

    def unknown() -> NoReturn:
        raise error

    around = replace(hooked.around(state=unknown), facts=unknown)
    with pytest.raises(HostError), cleaned_up(hooked.plan(Phase.CLEANUP), around):
        pass
    assert _cleaned(hooked) == ["a", "b", "d"]
    told = hooked.said.by("cleanup")
    assert len(told) == len(set(told))


def test_signal_ends_the_running_hook_and_cleanup_runs(hooked: Hooked) -> None:
    pid = hooked.root / "pid"
    hooked("25-x", f"echo $$ >{pid}; kill -TERM {os.getpid()}; sleep 600")
    _cleanup_hooks(hooked)
    around = hooked.around()
    with (
        pytest.raises(InterruptedBySignal),
        interruptible(),
        cleaned_up(hooked.plan(Phase.CLEANUP), around),
    ):
        run_phase(hooked.plan(), hooked.stages(), around)
    assert not lives(int(pid.read_text()))
    assert _cleaned(hooked) == ["a", "b", "d"]


@pytest.mark.parametrize("failing", [False, True], ids=["after-success", "after-failure"])
def test_signal_in_cleanup_waits_for_its_end(hooked: Hooked, *, failing: bool) -> None:
    hooked("10-a", f"echo a; kill -TERM {os.getpid()}; sleep 0.3; echo done", phase=Phase.CLEANUP)
    hooked("40-d", "trap 'echo ended; exit' TERM; echo d; kill -TERM $$", phase=Phase.CLEANUP)

    def body() -> None:
        if failing:
            raise CopyError(PROBLEM)

    with (
        pytest.raises(CopyError if failing else InterruptedBySignal),
        interruptible(),
        cleaned_up(hooked.plan(Phase.CLEANUP), hooked.around()),
    ):
        body()
    assert _cleaned(hooked) == ["a", "done", "d", "ended"]


def test_signal_in_the_moment_before_cleanup_does_not_prevent_it(
    hooked: Hooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked("10-a", "echo a", phase=Phase.CLEANUP)
    held = running._signals_held

    def interrupted(names: list[str]) -> AbstractContextManager[None]:
        monkeypatch.setattr(running, "_signals_held", held)
        raise InterruptedBySignal("SIGTERM")

    monkeypatch.setattr(running, "_signals_held", interrupted)
    with (
        pytest.raises(InterruptedBySignal),
        cleaned_up(hooked.plan(Phase.CLEANUP), hooked.around()),
    ):
        pass
    assert _cleaned(hooked) == ["a"]


def test_cleanup_runs_in_any_thread(hooked: Hooked) -> None:
    hooked("10-a", "echo a", phase=Phase.CLEANUP)

    def work() -> None:
        with cleaned_up(hooked.plan(Phase.CLEANUP), hooked.around()):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert _cleaned(hooked) == ["a"]


# --- the README and the command ----------------------------------------------------------------


def test_example_of_the_readme_works(hooked: Hooked, tmp_path: Path) -> None:
    readme = (REPOSITORY / "hooks/README.md").read_text()
    (script,) = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    (name,) = re.findall(r"`/etc/bootc-bound-images/hooks\.d/post-install\.d/([^`]+)`", readme)
    hooked(name).write_text(script)
    store = tmp_path / "store"
    facts = Facts(state_dir=tmp_path, target=tmp_path, store=store)
    run_phase(hooked.plan(), hooked.stages(), hooked.around(facts=facts))
    assert any("not applicable" in line for line in hooked.said.by("hooks"))
    (store / "sub").mkdir(parents=True)
    (store / "sub/file").touch()
    run_phase(hooked.plan(), hooked.stages(), hooked.around(facts=facts))
    assert (tmp_path / "image-store.files").read_text() == "./sub/file\n"
    assert hooked.said.by(name) == ["1 files listed"]


def test_list_shows_order_files_and_overrides(hooked: Hooked) -> None:
    file = hooked("20-copy")
    lower = hooked("60-x", place="usr/lib")
    mask = hooked.mask("60-x", place="run")
    ignored = hooked("README")
    done = product("hooks", "list", "--root", hooked.root, env={})
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert rows == [
        ["PHASE", "NO", "NAME", "FILE", "NOTE"],
        ["pre-install", "10", "discover", "built in"],
        ["pre-install", "20", "resolve", "built in"],
        ["pre-install", "30", "preflight", "built in"],
        ["post-install", "20", "copy", str(file), "overrides built in"],
        ["post-install", "30", "label", "built in"],
        ["post-install", "60", "x", str(lower), f"masked by {mask}"],
        ["verify", "50", "verify", "built in"],
        ["verify", "60", "record", "built in"],
    ]
    assert f"{ignored} is ignored" in done.stderr


def test_list_as_json_says_what_will_be_refused(hooked: Hooked) -> None:
    file = hooked("60-x")
    file.chmod(0o777)
    mask = hooked.mask(VERIFY_STAGE, phase=Phase.VERIFY)
    argv = ("hooks", "list", "--root", str(hooked.root), "--format=json")
    done = product(*argv, env={}, ok=(7,))
    seen = json.loads(done.stdout)
    assert seen["schema"] == "bootc-bound-images/hooks/1"
    assert [each["subject"] for each in seen["problems"]] == [str(file), VERIFY_STAGE]
    hooks = {(each["phase"], each["basename"]): each for each in seen["hooks"]}
    assert hooks["post-install", "60-x"] == {
        "phase": "post-install", "number": 60, "name": "x", "basename": "60-x", "file": str(file),
        "built_in": False, "masked": False, "refused": True, "overrides": [],
    }  # fmt: skip
    verify = hooks["verify", VERIFY_STAGE]
    assert (verify["file"], verify["masked"], verify["overrides"]) == (
        str(mask),
        True,
        ["built in"],
    )
    assert "--unsafe-skip-verify" in done.stderr
    file.chmod(0o755)
    product(*argv, "--unsafe-skip-verify", env={})
