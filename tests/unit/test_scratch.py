"""Scratch directories: always removed, stale ones too, and never one in use."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from installer_plugin.files.atomic import replace_file
from installer_plugin.files.scratch import PREFIX, remove_stale, scratch_directory

HOLD = (
    "import sys, pathlib\n"
    "from installer_plugin.files.scratch import scratch_directory\n"
    "with scratch_directory(pathlib.Path(sys.argv[1])) as path:\n"
    "    (path / 'deep/er').mkdir(parents=True)\n"
    "    print(path, flush=True)\n"
    "    sys.stdin.read()\n"
)


def _start(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that holds a scratch directory until its input ends."""
    process = subprocess.Popen(
        (sys.executable, "-c", HOLD, str(parent)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def _end(process: subprocess.Popen[str], by: signal.Signals | None = None) -> None:
    if by:
        process.send_signal(by)
    process.communicate()


def test_directory_is_private_and_goes_with_its_content(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as path:
        assert path.parent == tmp_path
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "a/b").mkdir(parents=True)
        (path / "a/link").symlink_to("/")
    assert list(tmp_path.iterdir()) == []


def test_directory_goes_when_its_user_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_directory(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_directory_of_a_killed_run_is_removed_by_the_next(tmp_path: Path) -> None:
    process, path = _start(tmp_path)
    _end(process, signal.SIGKILL)
    assert (path / "deep/er").is_dir()
    with scratch_directory(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.real
def test_directory_in_use_is_kept(tmp_path: Path) -> None:
    process, path = _start(tmp_path)
    try:
        remove_stale(tmp_path)
        with scratch_directory(tmp_path):
            assert (path / "deep/er").is_dir()
    finally:
        _end(process)
    assert list(tmp_path.iterdir()) == []


def test_what_only_looks_like_one_is_kept(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(outside)
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / "other").mkdir()
    remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{PREFIX}file", f"{PREFIX}link", "other", "outside",
    ]  # fmt: skip
    assert (outside / "file").exists()


def test_directory_that_another_run_takes_for_stale_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run comes between making the directory and locking it."""
    make: Callable[..., str] = tempfile.mkdtemp
    made = []

    def make_and_lose(prefix: str, dir: Path) -> str:  # noqa: A002
        made.append(make(prefix=prefix, dir=dir))
        if len(made) == 1:
            remove_stale(tmp_path)
        return made[-1]

    monkeypatch.setattr("tempfile.mkdtemp", make_and_lose)
    with scratch_directory(tmp_path) as path:
        assert str(path) == made[1]
        assert path.is_dir()


def test_stale_directory_that_another_run_removes_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / f"{PREFIX}stale"
    stale.mkdir()
    open_it = os.open

    def lose_and_open(path: Path, flags: int) -> int:
        stale.rmdir()
        return open_it(path, flags)

    monkeypatch.setattr("os.open", lose_and_open)
    remove_stale(tmp_path)
    assert not stale.exists()


def test_parent_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), scratch_directory(tmp_path / "absent"):
        pytest.fail("was entered")


# --- what is not ours ------------------------------------------------------------------------

NOBODY = 65534
HOLD_AS_NOBODY = HOLD.replace(
    "with ",
    f"import os, shutil, tempfile\nos.setgroups([])\nos.setgid({NOBODY})\nos.setuid({NOBODY})\nwith ",
    1,
)
"""Only what is imported by then: the interpreter may be where others cannot read."""


def _others_directory(parent: Path, mode: int) -> Path:
    """A stale scratch directory of another user, with something in it."""
    parent.chmod(0o1777)
    stale = parent / f"{PREFIX}theirs"
    (stale / "deep").mkdir(parents=True)
    stale.chmod(mode)
    return stale


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """A directory that every user reaches."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@pytest.mark.real
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o711], ids=oct)
def test_another_users_directory_is_none_of_our_business(shared_place: Path, mode: int) -> None:
    theirs = _others_directory(shared_place, mode)
    process = subprocess.run(
        (sys.executable, "-c", HOLD_AS_NOBODY, str(shared_place)),
        # Nobody cannot write what coverage would.
        env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(str(shared_place))
    assert list(shared_place.iterdir()) == [theirs]
    assert (theirs / "deep").is_dir()


@pytest.mark.real
def test_stale_directory_that_cannot_be_removed_does_not_matter(tmp_path: Path) -> None:
    busy = tmp_path / f"{PREFIX}busy"
    busy.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "tmpfs", busy), check=True)
    try:
        with scratch_directory(tmp_path) as path:
            assert path.is_dir()
        assert list(tmp_path.iterdir()) == [busy]
    finally:
        subprocess.run(("umount", busy), check=True)


@contextmanager
def _read_only_at_last(place: Path) -> Iterator[Callable[[], object]]:
    """A call that makes *place* read-only, as the kernel does with a damaged file system."""
    subprocess.run(("mount", "--bind", place, place), check=True)
    try:
        yield partial(subprocess.run, ("mount", "-o", "remount,bind,ro", place), check=True)
    finally:
        subprocess.run(("umount", place), check=True)


@pytest.mark.real
@pytest.mark.parametrize(
    "failure", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=repr
)
def test_error_of_the_body_stays_the_first(tmp_path: Path, failure: BaseException) -> None:
    place = tmp_path / "place"
    place.mkdir()

    def fail(close: Callable[[], object]) -> None:
        with scratch_directory(place):
            close()
            raise failure

    with _read_only_at_last(place) as close, pytest.raises(type(failure)) as caught:
        fail(close)
    assert caught.value is failure
    assert "cannot be removed: Read-only file system" in "".join(failure.__notes__)


@pytest.mark.real
def test_error_of_writing_a_file_stays_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails, then its file system is read-only: the temporary file cannot be removed."""
    place = tmp_path / "place"
    place.mkdir()
    with _read_only_at_last(place) as close:

        def fail(_from: Path, _to: Path) -> None:
            close()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="Input/output error"):
            replace_file(place / "file", b"x")
