"""The one door to other programs: what comes back, and that nothing is left running."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from installer_plugin.errors import InterruptedBySignal
from installer_plugin.process import runner
from installer_plugin.process.pipes import LINE_LIMIT
from installer_plugin.process.procfs import lives
from installer_plugin.process.runner import (
    STDERR_TAIL_LINES,
    Command,
    CommandError,
    Runner,
    Streams,
    find_tool,
    private_mounts_argv,
)
from installer_plugin.process.signals import interruptible
from tests.support.waiting import SECONDS, meanwhile, wait_until

real = pytest.mark.real
GRACE = 0.3
"""Seconds that children get in most tests; one that is not taken shows in how long they take."""


def _sh(script: str, *args: str) -> Command:
    return Command(argv=("sh", "-c", script, "sh", *args), purpose="try a script")


def _pids(file: Path, count: int) -> list[int]:
    """Wait until a script has written this many process IDs."""
    lines = wait_until(lambda: _lines(file, count), f"{count} lines in {file}")
    return [int(line) for line in lines]


def _lines(file: Path, count: int) -> list[str]:
    """As many lines of a file, or none as long as they are not there."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return lines if len(lines) == count and lines[-1].endswith("\n") else []


def _ended_at_limit(script: str, file: Path, count: int) -> float:
    """Let a time limit end a script that has written `count` lines by then; how long that took.

    A limit that was too short for the script to get there is doubled.
    """
    limit = 0.25
    while True:
        began = time.monotonic()
        with pytest.raises(CommandError, match=f"did not end within {limit:g} s"):
            Runner(grace=GRACE).run(_sh(script, str(file)), timeout=limit)
        if _lines(file, count):
            return time.monotonic() - began - limit
        assert limit < SECONDS, f"{count} lines were never written to {file}"
        file.unlink(missing_ok=True)
        limit *= 2


FAMILY = """
echo $$ >>"$1"
sh -c '
    trap "" TERM INT HUP
    echo $$ >>"$1"
    sh -c "echo \\$\\$ >>\\"\\$1\\"; sleep 600" sh "$1" &
    sleep 600
' sh "$1" &
wait
"""
"""A child that waits, its child that ignores SIGTERM, and that one's child: three lines."""


@real
def test_output_is_bytes_and_stderr_text() -> None:
    done = Runner().run(_sh("printf '\\377'; printf 'x\\377' >&2"))
    assert done.stdout == b"\xff"
    assert done.stderr == "x�"
    assert done.returncode == 0


@real
def test_input_and_variables_reach_the_program() -> None:
    command = Command(
        argv=("sh", "-c", 'cat; echo "$ADDED $LC_ALL"'), purpose="echo", env={"ADDED": "yes"}
    )
    assert Runner().run(command, stdin=b"in ").stdout == b"in yes C.UTF-8\n"


@real
def test_program_that_reads_no_input_is_no_error() -> None:
    assert Runner().run(_sh("exec true"), stdin=b"x" * (1 << 20)).returncode == 0


@real
def test_program_has_a_session_of_its_own() -> None:
    out = Runner().run(_sh("cut -d' ' -f6 /proc/self/stat; echo $$")).stdout.split()
    assert out[0] == out[1]
    assert int(out[0]) != os.getsid(0)


@real
@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("exit 3", "failed with exit code 3"),
        ("kill -KILL $$", "was ended by SIGKILL"),
        ("kill -SEGV $$", "was ended by SIGSEGV"),
        ("kill -40 $$", "was ended by signal 40"),
    ],
    ids=["exit-code", "kill", "crash", "real-time-signal"],
)
def test_failure_says_how_the_program_ended(script: str, ending: str) -> None:
    with pytest.raises(CommandError) as caught:
        Runner().run(_sh(f"echo why >&2; {script}"))
    assert caught.value.ending == ending
    assert str(caught.value) == f"sh {ending}, while trying to try a script"
    assert caught.value.stderr == "why\n"


@real
def test_exit_code_that_is_accepted_is_a_result() -> None:
    assert Runner().run(_sh("exit 3"), ok=(0, 3)).returncode == 3


@real
@pytest.mark.parametrize(
    ("program", "why"),
    [("no-such-program", "No such file or directory"), ("/", "Permission denied")],
    ids=["missing", "directory"],
)
def test_program_that_cannot_be_started_is_an_explained_failure(program: str, why: str) -> None:
    with pytest.raises(CommandError, match=rf"could not be started \({why}\)"):
        Runner().run(Command(argv=(program,), purpose="fail"))


def test_problem_shows_the_end_of_what_was_said() -> None:
    said = "\n\n".join(f"line {number}" for number in range(40))
    error = CommandError(Command(argv=("tool",), purpose="x"), "failed with exit code 1", said)
    problem = error.problem("quay.io/x:1", hint="try again")
    lines = problem.message.splitlines()
    assert lines[0] == f"tool failed with exit code 1: line {40 - STDERR_TAIL_LINES}"
    assert len(lines) == STDERR_TAIL_LINES
    assert lines[-1] == "line 39"
    assert (problem.subject, problem.hint) == ("quay.io/x:1", "try again")


def test_problem_of_a_silent_program_is_its_ending() -> None:
    error = CommandError(Command(argv=("tool",), purpose="x"), "was ended by SIGKILL", " \n")
    assert error.problem("it").message == "tool was ended by SIGKILL"


@pytest.mark.parametrize(
    ("argv", "tool"),
    [
        (("skopeo", "copy"), "skopeo"),
        (("ssh", "--", "host", "podman"), "ssh"),
        (private_mounts_argv(("skopeo", "copy", "--", "x")), "skopeo"),
        (("sh", "-c", 'exec "$0"', "podman", "x"), "podman"),
        (private_mounts_argv(("sh", "-c", 'exec "$0"', "podman")), "podman"),
        (("sh", "-c", "true"), "sh"),
    ],
    ids=["plain", "dashes", "private", "script", "private-script", "shell"],
)
def test_tool_is_the_program_behind_wrappers(argv: tuple[str, ...], tool: str) -> None:
    assert Command(argv=argv, purpose="x").tool == tool


@real
def test_private_mounts_are_seen_by_nobody_and_go(tmp_path: Path) -> None:
    script = 'mount -t tmpfs tmpfs "$1" && touch "$1/inside" && ls "$1"'
    argv = private_mounts_argv(("sh", "-c", script, "sh", str(tmp_path)))
    assert Runner().run(Command(argv=argv, purpose="mount")).stdout == b"inside\n"
    assert not tmp_path.is_mount()
    assert list(tmp_path.iterdir()) == []


@real
def test_time_limit_ends_the_whole_family(tmp_path: Path) -> None:
    """With those who ignore SIGTERM: they are given the grace that was asked for, and no more."""
    took = _ended_at_limit(FAMILY, tmp_path / "pids", 3)
    assert GRACE <= took < runner.END_GRACE_SECONDS
    assert not any(map(lives, _pids(tmp_path / "pids", 3)))


@real
def test_exception_ends_the_whole_family(tmp_path: Path) -> None:
    """Also those who ignore SIGTERM, and those whose parent has gone."""
    file = tmp_path / "pids"

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def send() -> None:
        _pids(file, 3)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with meanwhile(send), pytest.raises(KeyboardInterrupt):
            Runner(grace=GRACE).run(_sh(FAMILY, str(file)))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not any(map(lives, _pids(file, 3)))


@real
def test_polite_program_may_clean_up_before_it_ends(tmp_path: Path) -> None:
    script = (
        'trap "echo cleaned >\\"$1.cleaned\\"; exit" TERM; echo ready >"$1"; '
        "while :; do sleep 0.05; done"
    )
    _ended_at_limit(script, tmp_path / "mark", 1)
    assert (tmp_path / "mark.cleaned").read_text() == "cleaned\n"


@real
def test_grace_is_ten_seconds_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock and the pauses are ours: a second passes at each look."""
    clock = itertools.count()
    started: list[subprocess.Popen[bytes]] = []
    signals: list[tuple[int, int]] = []
    start = runner._start

    def begin(command: Command, streams: Streams) -> subprocess.Popen[bytes]:
        started.append(start(command, streams))
        return started[0]

    def send(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
        signals.append((number, next(clock)))
        if number == signal.SIGKILL:
            child.kill()

    monkeypatch.setattr(runner, "_start", begin)
    monkeypatch.setattr(runner, "_signal", send)
    ours = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None)
    monkeypatch.setattr(runner, "time", ours)
    with pytest.raises(ValueError, match="inside"), Runner().hold(_sh("echo; exec sleep 600")):
        raise ValueError("inside")
    (term, asked), (kill, killed) = signals
    assert (term, kill) == (signal.SIGTERM, signal.SIGKILL)
    assert killed - asked - 2 == runner.END_GRACE_SECONDS == 10


@real
def test_all_children_of_all_threads_can_be_ended(tmp_path: Path) -> None:
    runner, endings = Runner(), []

    def work(name: str) -> None:
        try:
            runner.run(_sh('echo $$ >"$1"; exec sleep 600', str(tmp_path / name)))
        except CommandError as error:
            endings.append(error.ending)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("1", "2")]
    for thread in threads:
        thread.start()
    pids = [pid for name in ("1", "2") for pid in _pids(tmp_path / name, 1)]
    runner.end_all()
    for thread in threads:
        thread.join(timeout=20)
    assert endings == ["was ended by SIGKILL"] * 2
    assert not any(map(lives, pids))


@real
def test_child_is_ended_by_the_kernel_when_we_are_killed(tmp_path: Path) -> None:
    script = (
        "from installer_plugin.process.runner import *\n"
        "argv = private_mounts_argv(('sh', '-c', 'echo $$ >\"$1\"; exec sleep 600', 'sh', "
        f"{str(tmp_path / 'pid')!r}))\n"
        "Runner().run(Command(argv=argv, purpose='wait'))\n"
    )
    with subprocess.Popen((sys.executable, "-c", script)) as parent:
        (pid,) = _pids(tmp_path / "pid", 1)
        parent.kill()
    wait_until(lambda: not lives(pid), "its end")


# --- hold ------------------------------------------------------------------------------------


@real
def test_held_program_lives_until_the_context_ends(tmp_path: Path) -> None:
    with Runner().hold(_sh('echo ready; exec cat; touch "$1"', str(tmp_path / "x"))) as (pid, line):
        assert line == b"ready\n"
        assert lives(pid)
    assert not lives(pid)


@real
def test_held_program_is_ended_when_the_context_raises() -> None:
    pids = []

    def fail() -> None:
        with Runner().hold(_sh("echo $$; exec sleep 600")) as (pid, _):
            pids.append(pid)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert not lives(pids[0])


@real
@pytest.mark.parametrize(
    ("script", "ending"),
    [("echo no >&2; exit 4", "failed with exit code 4"), ("exec true", "failed with exit code 0")],
    ids=["failure", "silence"],
)
def test_held_program_that_says_nothing_is_a_failure(script: str, ending: str) -> None:
    with pytest.raises(CommandError) as caught, Runner().hold(_sh(script)):
        pytest.fail("was entered")
    assert caught.value.ending == ending


# --- tools -----------------------------------------------------------------------------------


def test_tool_is_found_through_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool("tool") is None
    tool.chmod(0o755)
    assert find_tool("tool") == str(tool)


@real
def test_signal_while_a_program_is_started_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs already, and nobody has it in hand yet."""
    started: list[subprocess.Popen[bytes]] = []
    start = runner._start

    def slowly(command: Command, streams: Streams) -> subprocess.Popen[bytes]:
        started.append(start(command, streams))
        os.kill(os.getpid(), signal.SIGTERM)
        return started[0]

    monkeypatch.setattr(runner, "_start", slowly)
    command = Command(argv=("sleep", "600"), purpose="x")
    with interruptible(), pytest.raises(InterruptedBySignal, match="SIGTERM"):
        Runner().run(command)
    assert started[0].returncode == -signal.SIGTERM


@pytest.mark.real
def test_program_that_cleans_up_after_an_interruption_heeds_signals() -> None:
    with interruptible():
        with pytest.raises(InterruptedBySignal):
            os.kill(os.getpid(), signal.SIGTERM)
        command = Command(argv=("grep", "SigIgn", "/proc/self/status"), purpose="x")
        ignored = int(Runner().run(command).stdout.split()[1], 16)
    assert not ignored & (1 << signal.SIGTERM - 1 | 1 << signal.SIGINT - 1)


# --- outputs without end ---------------------------------------------------------------------

ENDLESS = (
    "sh",
    "-c",
    "trap 'exit 3' TERM; while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done",
)


@pytest.mark.real
def test_program_that_says_too_much_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("installer_plugin.process.pipes.OUTPUT_LIMIT", 1 << 20)
    with pytest.raises(CommandError, match="said more than"):
        Runner().run(Command(argv=ENDLESS, purpose="say something"))


@pytest.mark.real
def test_only_the_end_of_long_complaints_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("installer_plugin.process.pipes.OUTPUT_LIMIT", 1 << 20)
    script = "head -c 9000000 /dev/zero >&2; echo the end >&2; echo done"
    done = Runner().run(Command(argv=("sh", "-c", script), purpose="complain"))
    assert done.stdout == b"done\n"
    assert done.stderr.endswith("the end\n")
    assert 1 << 20 <= len(done.stderr) < 2 << 20


@pytest.mark.real
def test_long_input_and_output_at_once_do_not_block_each_other() -> None:
    content = os.urandom(3 << 20)
    assert Runner().run(Command(argv=("cat",), purpose="repeat"), stdin=content).stdout == content
    ignored = Runner().run(Command(argv=("true",), purpose="ignore"), stdin=content)
    assert ignored.stdout == b""


@pytest.mark.real
def test_first_line_of_a_held_program_is_bounded() -> None:
    command = Command(argv=("sh", "-c", "cat /dev/zero"), purpose="hold")
    with Runner(0.1).hold(command) as (_, line):
        assert len(line) == LINE_LIMIT
