"""Locks of containers-storage, against other processes that use the same calls."""

import os
import struct
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.locks import (
    IMAGES_LOCK,
    LAST_WRITE_SIZE,
    LAYERS_LOCK,
    LOCK_FILES,
    exclusive,
    shared,
)
from tests.support.waiting import SECONDS, is_waited_for, wait_until

TRY = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
kind = {"write": fcntl.LOCK_EX, "read": fcntl.LOCK_SH}[sys.argv[3]]
lock = {"fcntl": fcntl.lockf, "flock": fcntl.flock}[sys.argv[2]]
try:
    lock(fd, kind | fcntl.LOCK_NB)
except OSError:
    print("busy", flush=True)
else:
    print("free", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name in LOCK_FILES:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    return tmp_path


class Other(AbstractContextManager["Other"]):
    """Another process that tries to take a lock, and keeps it while the context lasts."""

    def __init__(self, file: Path, call: str, kind: str) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-c", TRY, str(file), call, kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.got = self._process.stdout.readline().strip()

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()


def _tried(file: Path, kind: str, call: str = "fcntl") -> str:
    with Other(file, call, kind) as other:
        return other.got


@pytest.mark.real
@pytest.mark.parametrize("name", LOCK_FILES)
@pytest.mark.parametrize(("kind", "got"), [("write", "busy"), ("read", "free")])
def test_shared_lock_keeps_writers_out(kind: str, got: str, name: str, store: Path) -> None:
    with shared(store):
        assert _tried(store / name, kind) == got
    assert _tried(store / name, kind) == "free"


@pytest.mark.real
@pytest.mark.parametrize("name", LOCK_FILES)
def test_shared_lock_is_kept_when_another_share_of_it_ends(name: str, store: Path) -> None:
    with shared(store):
        with shared(store):
            pass
        assert _tried(store / name, "write") == "busy"
    assert _tried(store / name, "write") == "free"


@pytest.mark.real
@pytest.mark.parametrize("kind", ["write", "read"])
def test_exclusive_lock_keeps_everybody_out(kind: str, store: Path) -> None:
    with exclusive(store, IMAGES_LOCK):
        assert _tried(store / IMAGES_LOCK, kind) == "busy"
        assert _tried(store / LAYERS_LOCK, kind) == "free"
    assert _tried(store / IMAGES_LOCK, kind) == "free"


@pytest.mark.real
def test_flock_of_others_does_not_count(store: Path) -> None:
    with Other(store / IMAGES_LOCK, "flock", "write") as other:
        assert other.got == "free"
        with exclusive(store, IMAGES_LOCK):
            assert _tried(store / IMAGES_LOCK, "write") == "busy"
            assert _tried(store / IMAGES_LOCK, "write", "flock") == "busy"
        with shared(store):
            assert _tried(store / IMAGES_LOCK, "read") == "free"


@pytest.mark.real
@pytest.mark.parametrize("way", ["shared", "exclusive"])
def test_lock_waits_for_a_writer(way: str, store: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from installer_plugin.storage.store.locks import *\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "with shared(path) if sys.argv[2] == 'shared' else exclusive(path, LAYERS_LOCK):\n"
        "    print('in', flush=True)\n"
    )
    with ExitStack() as stack:
        held = stack.enter_context(ExitStack())
        held.enter_context(exclusive(store, LAYERS_LOCK))
        waiting = stack.enter_context(
            subprocess.Popen(
                (sys.executable, "-c", script, str(store), way), stdout=subprocess.PIPE
            )
        )
        assert waiting.stdout is not None
        wait_until(lambda: is_waited_for(store / LAYERS_LOCK), "its wait for the lock")
        os.set_blocking(waiting.stdout.fileno(), False)
        assert waiting.stdout.read() is None
        held.close()
        assert waiting.wait(timeout=SECONDS) == 0
        assert waiting.stdout.read() == b"in\n"


@pytest.mark.real
def test_lock_goes_with_a_killed_holder(store: Path) -> None:
    other = Other(store / IMAGES_LOCK, "fcntl", "write")
    other._process.kill()
    other._process.communicate()
    with exclusive(store, IMAGES_LOCK):
        pass


def test_missing_lock_file_is_made_for_writing_and_passed_over_for_reading(store: Path) -> None:
    (store / IMAGES_LOCK).unlink()
    with shared(store):
        assert not (store / IMAGES_LOCK).exists()
    with exclusive(store, IMAGES_LOCK):
        assert (store / IMAGES_LOCK).stat().st_mode & 0o777 == 0o644


def test_last_write_token_is_new_every_time(store: Path) -> None:
    before = time.time_ns()
    tokens = []
    with exclusive(store, IMAGES_LOCK) as lock:
        for _ in range(2):
            lock.announce_write()
            tokens.append((store / IMAGES_LOCK).read_bytes())
    assert [len(token) for token in tokens] == [LAST_WRITE_SIZE] * 2
    first, second = (struct.unpack_from("<QQI", token) for token in tokens)
    assert before <= first[0] <= second[0] <= time.time_ns()
    assert (first[1], second[1]) == (1, 2)
    assert first[2] == os.getpid()
    assert tokens[0][20:] != tokens[1][20:]


@pytest.fixture(params=["link", "fifo", "directory"])
def strange(request: pytest.FixtureRequest, store: Path) -> Path:
    """A store whose images.lock is not a regular file."""
    lock = store / IMAGES_LOCK
    lock.unlink()
    if request.param == "link":
        lock.symlink_to(store / LAYERS_LOCK)
    elif request.param == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    return store


@pytest.mark.real
def test_strange_lock_file_neither_hangs_nor_is_followed(strange: Path) -> None:
    """What cannot be locked is an error with the store's name; a fifo is locked like any file."""
    if (strange / IMAGES_LOCK).is_symlink():
        with pytest.raises(OSError, match="symbolic link"), shared(strange):
            pytest.fail("was entered")
        with pytest.raises(OSError, match="symbolic link"), exclusive(strange, IMAGES_LOCK):
            pytest.fail("was entered")
        with GraphRoot.open(strange) as root, pytest.raises(DataError, match="cannot be locked"):
            root.load()
    else:
        with GraphRoot.open(strange) as root:
            assert root.load().images == ()
