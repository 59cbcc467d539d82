"""Waits for what has to happen, so that no test bets on the time that it takes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

SECONDS = 60.0
"""Nothing takes nearly as long, even where much else runs; only what never happens does."""
_PAUSE_SECONDS = 0.005

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str = "it", *, seconds: float = SECONDS) -> T:
    """Wait until a condition is true, and return its value; fail when it does not get true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(_PAUSE_SECONDS)
    return value


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Act in a thread of its own while the body runs; what goes wrong there fails the test."""
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised again, where the test sees it
            wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if wrong:
            raise wrong[0]


def state_of(pid: int) -> str:
    """The kernel's letter for what a process does: `S` sleeps, `T` is stopped, `Z` has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_locked(file: Path) -> bool:
    """Whether somebody has a lock on a file."""
    return any("->" not in line for line in _locks(file))


def is_waited_for(file: Path) -> bool:
    """Whether somebody waits for a lock on a file that another one has."""
    return any("->" in line for line in _locks(file))


def _locks(file: Path) -> list[str]:
    """What `/proc/locks` has about a file, which is known there by its inode number."""
    inode = f":{file.stat().st_ino} "
    return [line for line in Path("/proc/locks").read_text().splitlines() if inode in line]
