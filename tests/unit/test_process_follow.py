"""Programs whose output is taken line by line, and their end."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer_plugin.process import runner
from installer_plugin.process.pipes import LINE_LIMIT, Lines
from installer_plugin.process.procfs import lives
from installer_plugin.process.runner import Command, CommandError, Runner
from tests.support.kernel import orphans_come_to_us
from tests.support.waiting import SECONDS, meanwhile, wait_until

real = pytest.mark.real
GRACE = 0.3


def _sh(script: str, *args: str) -> Command:
    return Command(argv=("sh", "-c", script, "sh", *args), purpose="try a script")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\r\n", b"\n", b"c"], ["ab", "", "c"]),
        ([b"\xff\n"], ["�"]),
        ([b"x" * (LINE_LIMIT + 1)], ["x" * LINE_LIMIT, "x"]),
        ([b""], []),
    ],
    ids=["lines", "pieces", "no-utf-8", "endless", "nothing"],
)
def test_bytes_are_cut_into_lines(chunks: list[bytes], expected: list[str]) -> None:
    lines: list[str] = []
    cutter = Lines(lines.append)
    for chunk in chunks:
        cutter.add(chunk)
    cutter.close()
    assert lines == expected


@pytest.fixture
def nobody_collects_zombies() -> Iterator[None]:
    """We are what the first process of a container is, and do as little."""
    with orphans_come_to_us():
        yield


@real
@pytest.mark.usefixtures("nobody_collects_zombies")
def test_orphan_that_nobody_collects_is_not_waited_for() -> None:
    pids: list[str] = []
    began = time.monotonic()
    Runner(grace=300).follow(_sh("sleep 600 & echo $!"), pids.append)
    assert time.monotonic() - began < 300
    assert Path(f"/proc/{pids[0]}/stat").read_text().split()[2] == "Z"
    os.waitpid(int(pids[0]), 0)  # this one alone: other fixtures have children that live on


@real
def test_lines_of_both_outputs_come_while_it_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        go.touch()

    script = 'echo first >&2; while ! [ -e "$1" ]; do sleep 0.02; done; printf last; exit 77'
    code = Runner().follow(_sh(script, str(go)), take, ok=(0, 77), timeout=60)
    assert (code, lines) == (77, ["first", "last"])


@real
def test_much_goes_in_and_out_at_once() -> None:
    lines: list[str] = []
    data = b"".join(b"%d\n" % number for number in range(200_000))
    assert Runner().follow(_sh("cat"), lines.append, stdin=data, timeout=60) == 0
    assert len(lines) == 200_000
    assert lines[-1] == "199999"


@real
@pytest.mark.parametrize("script", ["exec true", "exec <&-; sleep 0.2"], ids=["ends", "closes"])
def test_program_that_reads_no_input_is_no_error(script: str) -> None:
    assert Runner().follow(_sh(script), print, stdin=b"x" * (1 << 20), timeout=60) == 0


@real
def test_program_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = 'exec >&- 2>&-; sleep 0.3; touch "$1"'
    assert Runner().follow(_sh(script, str(mark)), print) == 0
    assert mark.exists()


@real
def test_what_it_leaves_running_is_ended() -> None:
    lines: list[str] = []
    assert Runner().follow(_sh("sleep 600 & echo $!"), lines.append, timeout=60) == 0
    assert not lives(int(lines[0]))


@real
def test_place_and_umask_are_as_asked(tmp_path: Path) -> None:
    lines: list[str] = []
    command = Command(
        argv=("sh", "-c", "pwd; umask; echo $A"),
        purpose="x",
        env={"A": "b"},
        cwd=tmp_path,
        umask=0o027,
    )
    Runner().follow(command, lines.append)
    assert lines == [str(tmp_path), "0027", "b"]


@real
@pytest.mark.parametrize(
    ("script", "ending"),
    [("exit 3", "failed with exit code 3"), ("kill -KILL $$", "was ended by SIGKILL")],
    ids=["exit-code", "signal"],
)
def test_failure_has_the_end_of_what_was_said(script: str, ending: str) -> None:
    with pytest.raises(CommandError) as caught:
        Runner().follow(_sh(f"seq 100; {script}"), lambda line: None)
    assert caught.value.ending == ending
    assert caught.value.stderr.splitlines()[-1] == "100"
    assert len(caught.value.stderr.splitlines()) == runner.STDERR_TAIL_LINES


@real
@pytest.mark.parametrize("noise", ["", "while :; do echo x; done &"], ids=["silent", "noisy"])
def test_time_limit_ends_the_whole_group(noise: str) -> None:
    script = f"sh -c 'trap \"\" TERM; echo $$; sleep 600 & wait' & {noise} wait"
    limit, took = 0.25, 0.0
    pids: list[str] = []
    while not pids:  # a limit that was too short for the script to get there is doubled
        limit *= 2
        lines: list[str] = []
        began = time.monotonic()
        with pytest.raises(CommandError, match=f"did not end within {limit:g} s"):
            Runner(grace=GRACE).follow(_sh(script), lines.append, timeout=limit)
        took = time.monotonic() - began - limit
        pids = [line for line in lines if line.isdecimal()]
        assert pids or limit < SECONDS
    assert GRACE <= took < runner.END_GRACE_SECONDS
    assert not lives(int(pids[0]))


@real
def test_exception_ends_it() -> None:
    lines: list[str] = []

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def send() -> None:
        wait_until(lambda: lines, "its first line")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with meanwhile(send), pytest.raises(KeyboardInterrupt):
            Runner().follow(_sh("echo $$; sleep 600"), lines.append)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not lives(int(lines[0]))


@real
def test_program_that_is_missing_is_an_explained_failure() -> None:
    with pytest.raises(CommandError, match="could not be started"):
        Runner().follow(Command(argv=("no-such-program",), purpose="fail"), print)
