"""A run of the VM cases cleans up after itself, and after one that was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import rundir

from tests.support.leftovers import SESSION_VARIABLE, Machine, _processes

pytestmark = pytest.mark.real

# A run that attaches a disk, starts a program, says so, and waits for its end.
KILLED = """
import os, subprocess, sys, time
from pathlib import Path
from rundir import run_directory
os.environ[sys.argv[2]] = "dead"
with run_directory(Path(sys.argv[1]), "run", "dead") as folder:
    disk = folder / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    subprocess.run(("losetup", "--find", disk), check=True)
    subprocess.Popen(("sleep", "600"))
    print("ready", flush=True)
    time.sleep(600)
"""


def loops_below(directory: Path) -> list[str]:
    return [loop for loop in Machine.now().loops if str(directory) in loop]


def test_directory_is_there_for_the_time_of_a_run(tmp_path: Path) -> None:
    with rundir.run_directory(tmp_path, "run", "a") as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_directory_goes_when_the_run_is_interrupted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), rundir.run_directory(tmp_path, "run", "a"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_kept_directory_stays_for_people(tmp_path: Path) -> None:
    with rundir.run_directory(tmp_path, "run", "a") as kept:
        rundir.keep(kept)
    with rundir.run_directory(tmp_path, "run", "b"):
        assert kept.is_dir()
    assert list(tmp_path.iterdir()) == [kept]


def test_directory_of_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    with (
        rundir.run_directory(tmp_path, "run", "a") as first,
        rundir.run_directory(tmp_path, "run", "b") as second,
    ):
        assert first.is_dir()
        assert second.is_dir()


def test_killed_run_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    place = str(Path(rundir.__file__).parent)
    with subprocess.Popen(
        (sys.executable, "-c", KILLED, str(tmp_path), SESSION_VARIABLE),
        env={**os.environ, "PYTHONPATH": f"{place}:{Path(__file__).parents[2]}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "ready\n"
        killed.send_signal(signal.SIGKILL)
    assert loops_below(tmp_path)
    assert _processes("dead")
    with rundir.run_directory(tmp_path, "run", "next") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert loops_below(tmp_path) == []
    assert _processes("dead") == []
