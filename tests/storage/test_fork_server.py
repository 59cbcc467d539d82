"""The command that a fork server runs cannot be told from one that Python starts."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.commands import unshared
from tests.support.fork_server import forked_command
from tests.support.product import COMMAND

# The first program that the command starts looks at it.
LOSETUP = """#!/bin/sh -e
cd "$SEEN"
env | grep --text --invert-match -E '^(PWD|SEEN)=' | sort >environment
grep -E '^(Name|Umask|Uid|Gid|Threads|Shd|Sig(Blk|Ign|Cgt)|Cap)' /proc/$PPID/status >status
cp /proc/$PPID/limits limits
cut -d' ' -f4,5 /proc/$PPID/mountinfo >mounts
for link in cwd root exe fd/0 ns/net ns/pid; do readlink /proc/$PPID/$link; done >links
ls /proc/$PPID/fd >descriptors
exit 1
"""
PRELUDE = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/here
cd /mnt/here
umask 027
truncate --size=1M disk
"$@" || exit
"""


def call(command: Sequence[str], words: Sequence[str], env: dict[str, str]) -> tuple[int, str, str]:
    argv = unshared((*command, *words), prelude=PRELUDE)
    done = subprocess.run(
        argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def both(words: Sequence[str], env: dict[str, str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, which must not differ."""
    forked = call(forked_command(), words, env)
    assert forked == call(COMMAND, words, env)
    return forked


def test_has_the_same_place_and_settings(tmp_path: Path) -> None:
    losetup = tmp_path / "bin/losetup"
    losetup.parent.mkdir()
    losetup.write_text(LOSETUP)
    losetup.chmod(0o755)
    seen: list[dict[str, list[bytes]]] = []
    for command in (COMMAND, forked_command()):
        place = tmp_path / str(len(seen))
        place.mkdir()
        env = {
            "PATH": f"{losetup.parent}:{os.environ['PATH']}",
            "SEEN": str(place),
            "OWN": "\udcff",
        }
        assert call(command, ("verify", "disk"), env)[0] == 7
        seen.append({file.name: file.read_bytes().splitlines() for file in place.iterdir()})
    started, forked = seen
    assert forked == started
    assert b"OWN=\xff" in forked["environment"]
    assert b"Umask:\t0027" in forked["status"]
    assert b"/mnt/here" in forked["links"]
    assert b"/ /mnt" in forked["mounts"]


@pytest.mark.parametrize(
    ("words", "code"), [(("--help",), 0), (("list", "--no-such"), 2), (("list", "/nowhere"), 2)]
)
def test_says_and_returns_the_same(words: Sequence[str], code: int) -> None:
    assert both(words, {})[0] == code


def test_ends_by_the_same_signal_and_minds_what_python_reads_at_its_start(tmp_path: Path) -> None:
    kill = f"import os\nos.kill(os.getpid(), {signal.SIGKILL:d})\n"
    (tmp_path / "sitecustomize.py").write_text(kill)
    assert both(("--help",), {"PYTHONPATH": str(tmp_path)})[0] == 128 + signal.SIGKILL
