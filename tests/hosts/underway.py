"""Installations that are under way: waited for, interrupted, killed."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.scene import MARK, kill, processes
from tests.hosts.scene import Scene
from tests.support.waiting import wait_until


@contextmanager
def started(
    scene: Scene,
    *words: str | Path,
    inside: bool,
    own: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[str]"]:
    """The installation, under way; what is left of it is killed at the end."""
    env = {**os.environ, **scene.env(env, inside=inside), MARK: str(scene.directory)}
    argv = scene.argv(words, own=own, inside=inside)
    with (
        (scene.directory / "log").open("w") as log,
        subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            for each in processes(str(scene.directory)):
                kill(int(each.split()[0]))


def send(scene: Scene, number: signal.Signals) -> None:
    """Send a signal to the installation itself, to nobody else."""
    os.kill(int((scene.directory / "pid").read_text()), number)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait for a condition; while a process is to bring it about, as long as that lives."""

    def is_there() -> bool:
        # Asked first: it may bring it about and end between the two.
        ended = process is not None and process.poll() is not None
        if condition():
            return True
        assert not ended, "it has ended"
        return False

    wait_until(is_there)


def hanging_hook(scene: Scene) -> Path:
    """A post-install hook that hangs as long as the file `hang` is there; tells when it begins."""
    begun = scene.directory / "begun"
    (scene.directory / "hang").touch()
    scene.hooks(
        "40-mine", f"touch {begun}; while [ -e {scene.directory}/hang ]; do sleep 0.1; done"
    )
    return begun
