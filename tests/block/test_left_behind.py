"""Nothing is left behind: not by an error inside, not by a signal, not by a run that was killed."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from installer_plugin.block import owner_lock
from installer_plugin.block import undo_journal as journal_module
from installer_plugin.block.loop_ioctl import Backing
from installer_plugin.block.loops import attach
from installer_plugin.block.owner_lock import opening
from installer_plugin.block.undo_journal import (
    PREFIX,
    Journal,
    close_stale,
    private_directory,
)
from installer_plugin.block.undo_steps import (
    FlushStep,
    GroupStep,
    LoopStep,
    MappingStep,
    MountStep,
    NodeStep,
    ReadOnlyStep,
    Step,
    disk_sequence,
    dump_step,
    parse_steps,
)
from installer_plugin.errors import DataError, HostError
from installer_plugin.process.runner import Runner
from tests.block.scene import ROOT, SYSTEM, Opener, Part, attached, boot, make_disk
from tests.support.commands import run
from tests.support.leftovers import Machine
from tests.support.waiting import state_of, wait_until


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk with a system."""
    part = Part(kind="ext4", type=ROOT, holds=SYSTEM)
    return make_disk(tmp_path / "disk.img", boot(), part)


def left_of(image: Path) -> list[str]:
    """Loop devices and mounts of an image."""
    now = Machine.now()
    loops = [loop for loop in now.loops if str(image) in loop]
    nodes = [f" {loop.split()[0]}" for loop in loops]
    mounts = [mount for mount in now.mounts if any(node in mount for node in nodes)]
    return [*loops, *mounts, *(path.name for path in Path("/dev").glob("bound-images-*"))]


def wait_until_freed(image: Path) -> None:
    """Wait until the kernel has let go of an image."""
    wait_until(lambda: not left_of(image), f"the end of what uses {image}")


class Failed(Exception):  # noqa: N818 - what fails is the test's own business
    pass


def test_error_inside_closes_everything(image: Path, opener: Opener) -> None:
    with pytest.raises(Failed), opener(image):
        raise Failed
    assert left_of(image) == []
    assert opener.left() == []


def test_mounts_are_seen_by_nobody_else(image: Path, opener: Opener) -> None:
    with opener(image) as target:
        outside = Path("/proc/1/mountinfo").read_text()
        inside = Path("/proc/thread-self/mountinfo").read_text()
        assert str(target.physical_root) in inside
        assert str(target.physical_root) not in outside
        assert run(("stat", "-c", "%m", target.physical_root)).stdout.strip() == str(
            target.physical_root
        )
    assert str(target.physical_root) not in Path("/proc/thread-self/mountinfo").read_text()


def test_threads_that_live_on_do_not_keep_us_there(image: Path, opener: Opener) -> None:
    """As those that libblockdev starts when it is loaded while a target is open."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    before = Path("/proc/thread-self/ns/mnt").readlink()
    try:
        with opener(image):
            thread.start()
        assert Path("/proc/thread-self/ns/mnt").readlink() == before
    finally:
        over.set()
        thread.join()


def test_directory_we_work_in_survives(
    image: Path, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opener(Path(image.name)):
        assert Path.cwd() == tmp_path
    assert Path.cwd() == tmp_path


def test_target_that_is_still_used_is_no_success(
    image: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("installer_plugin.block.undo_steps.PATIENCE_SECONDS", 0.3)
    with pytest.raises(HostError, match="umount failed") as caught, opener(image) as target:
        user = subprocess.Popen(("sleep", "600"), cwd=target.physical_root)
    assert "the next call" in caught.value.problems[-1].hint
    assert len(opener.left()) == 1
    user.kill()
    user.wait()
    with opener(image) as target:  # which closes what was left first
        assert (target.physical_root / SYSTEM[0]).is_dir()
    wait_until_freed(image)


# --- killed ------------------------------------------------------------------------------------

_CHILD = """
import sys, time
from pathlib import Path
from installer_plugin.block.base import OpenOptions
from installer_plugin.block.target import make_writable, open_target
from installer_plugin.events import Events
from installer_plugin.process.runner import Runner
print("begun", flush=True)
options = OpenOptions(state=Path(sys.argv[2]))
with open_target(Path(sys.argv[1]), options, Runner(), Events()) as target:
    make_writable(target, Runner())
    (target.physical_root / "written").touch()
    print("opened", flush=True)
    time.sleep(600)
"""


@contextmanager
def child(image: Path, state: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a target open."""
    argv = (sys.executable, "-c", _CHILD, str(image), str(state))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


def test_kernel_frees_a_killed_runs_disk(image: Path, opener: Opener) -> None:
    with child(image, opener.state) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
        process.kill()
    wait_until_freed(image)
    assert len(opener.left()) == 1
    with opener(image) as target:
        assert (target.physical_root / "written").exists()
    assert opener.left() == []


def steps_taken(state: Path) -> int:
    """How many steps the journals of runs have."""
    files = [file for file in state.glob("target-*/steps") if file.exists()]
    return sum(file.read_bytes().count(b"\n") for file in files)


@pytest.mark.parametrize("pause", [0, 0.005, 0.015])
@pytest.mark.parametrize("steps", range(4))
def test_killed_at_any_moment(steps: int, pause: float, image: Path, opener: Opener) -> None:
    """When it has taken so many steps, or somewhere on the way to the next one."""
    with child(image, opener.state) as process:
        wait_until(lambda: steps_taken(opener.state) >= steps, f"step {steps}")
        time.sleep(pause)
        process.kill()
        process.wait()
    with opener(image) as target:
        assert (target.physical_root / SYSTEM[0]).is_dir()
    wait_until_freed(image)
    assert opener.left() == []


def test_two_runs_do_not_meet_on_one_disk(image: Path, opener: Opener) -> None:
    with child(image, opener.state) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
        with pytest.raises(HostError, match="is in use by /dev/loop"), opener(image):
            pass
        assert len(opener.left()) == 1, "what another run uses was taken away"
    with opener(image):
        pass


# --- what a journal says is taken back, and nothing else -----------------------------------------


def stale(state: Path, *steps: Step, text: str = "", owner: int = 0) -> Path:
    """A private directory of a run that is gone."""
    with opening(state):
        directory = state / f"{PREFIX}{owner}-stale"
        directory.mkdir()
        (directory / "steps").write_text("".join(map(dump_step, steps)) + text)
    return directory


def closed(state: Path) -> list[str]:
    with opening(state):
        return [str(problem) for problem in close_stale(state, Runner())]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], list[float]]]:
    """Hold a directory's lock until it has been waited for twice; gives the pauses of who waits."""
    with ExitStack() as stack:

        def hold(directory: Path) -> list[float]:
            file = os.open(directory, os.O_RDONLY)
            stack.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
            pauses: list[float] = []

            def pause(seconds: float) -> None:
                pauses.append(seconds)
                if len(pauses) == 2:
                    fcntl.flock(file, fcntl.LOCK_UN)

            ours = SimpleNamespace(monotonic=time.monotonic, sleep=pause)
            monkeypatch.setattr(owner_lock, "time", ours)
            return pauses

        yield hold


def test_lock_that_a_dead_owners_child_still_has_is_waited_for(
    tmp_path: Path, held: Callable[[Path], list[float]]
) -> None:
    """Killed between fork and exec, a run leaves a child that lets go a little later."""
    with subprocess.Popen(("true",)) as ended:
        pass
    directory = stale(tmp_path / "state", owner=ended.pid)
    pauses = held(directory)
    assert closed(tmp_path / "state") == []
    assert not directory.exists()
    assert len(pauses) == 2


@pytest.mark.parametrize("is_zombie", [False, True], ids=["alive", "zombie"])
def test_living_owner_is_not_waited_for(
    tmp_path: Path, held: Callable[[Path], list[float]], *, is_zombie: bool
) -> None:
    with subprocess.Popen(("sleep", "0" if is_zombie else "600")) as owner:
        if is_zombie:
            wait_until(lambda: state_of(owner.pid) == "Z", "its end")
        directory = stale(tmp_path / "state", owner=owner.pid)
        pauses = held(directory)
        told = closed(tmp_path / "state")
        owner.kill()
    assert told == []
    assert directory.exists() != is_zombie
    assert len(pauses) == (2 if is_zombie else 0)


def test_leftovers_are_taken_back_by_the_journal(image: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with opening(state), private_directory(state) as directory:
        journal = Journal(directory, Runner())
        loop = attach(Backing(path=image, read_only=False), journal)
        run(("partx", "--add", loop)) if not Path(f"{loop}p2").exists() else None
        point = directory / "root"
        point.mkdir()
        journal.plan(MountStep(str(point)))
        run(("mount", f"{loop}p2", point))
        for fd in journal.holds.values():
            os.close(fd)
    assert left_of(image) != []
    assert closed(state) == []
    wait_until_freed(image)
    assert list(state.glob("target-*")) == []


def test_loop_device_of_somebody_else_is_left_alone(image: Path, tmp_path: Path) -> None:
    loop = run(("losetup", "--find", "--show", image)).stdout.strip()
    try:
        seen = image.stat()
        disk, inode = seen.st_dev, seen.st_ino
        others = (
            LoopStep(loop, disk, inode + 1, 0),
            LoopStep(loop, disk, inode, 4096),
            LoopStep(loop, disk + 1, inode, 0),
        )
        stale(tmp_path / "state", *others)
        assert closed(tmp_path / "state") == []
        assert left_of(image) != []
    finally:
        run(("losetup", "--detach", loop))


@pytest.mark.parametrize("number", ["", "p2"], ids=["whole", "partition"])
def test_protection_is_taken_back(number: str, image: Path, tmp_path: Path) -> None:
    with attached(image) as loop:
        device = Path(f"{loop}{number}")
        run(("blockdev", "--setro", device))
        stale(tmp_path / "state", ReadOnlyStep(str(device), disk_sequence(device)))
        assert closed(tmp_path / "state") == []
        assert run(("blockdev", "--getro", device)).stdout.strip() == "0"


def test_protection_of_somebody_elses_partition_is_left_alone(image: Path, tmp_path: Path) -> None:
    """The device of a killed run has gone, and another run's has its name."""
    with attached(image) as loop:
        device = Path(f"{loop}p2")
        run(("blockdev", "--setro", device))
        stale(tmp_path / "state", ReadOnlyStep(str(device), disk_sequence(device) - 1))
        assert closed(tmp_path / "state") == []
        assert run(("blockdev", "--getro", device)).stdout.strip() == "1"


def test_steps_that_were_never_taken_are_no_problem(tmp_path: Path) -> None:
    steps = (
        FlushStep(str(tmp_path / "gone.img")),
        LoopStep("/dev/loop0", 1, 1, 0),
        ReadOnlyStep(str(tmp_path / "gone"), 0),
        NodeStep("/dev/bound-images-gone/loop0p1"),
        MappingStep("bound-images-gone"),
        GroupStep("vg", "uuid", [str(tmp_path / "gone")]),
        MountStep(str(tmp_path / "gone")),
    )
    directory = stale(tmp_path / "state", *steps)
    assert closed(tmp_path / "state") == []
    assert not directory.exists()


def test_step_that_was_being_written_was_not_taken(tmp_path: Path) -> None:
    directory = stale(tmp_path / "state", text='{"step": "MountStep", "poi')
    assert closed(tmp_path / "state") == []
    assert not directory.exists()


GARBAGE = {
    "no-json": "what?\n",
    "unknown-step": '{"step": "FormatStep", "device": "/dev/sda"}\n',
    "missing-field": '{"step": "LoopStep", "device": "/dev/loop0"}\n',
    "wrong-type": '{"step": "MountStep", "point": {"a": 1}}\n',
    "no-object": "[1]\n",
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_foreign_journal_is_told_and_kept(text: str, tmp_path: Path) -> None:
    directory = stale(tmp_path / "state", text=text)
    (told,) = closed(tmp_path / "state")
    assert "expected a step of ours" in told
    assert (directory / "steps").read_text() == text
    with pytest.raises(DataError, match="expected a step of ours"):
        parse_steps(text, "x")


def test_steps_survive_being_written_down() -> None:
    steps = (
        MountStep("/a b"),
        GroupStep("g", "u", ["/dev/a", "/dev/b"]),
        LoopStep("/d", 2, 3, 4),
    )
    assert parse_steps("".join(dump_step(step) for step in steps), "x") == steps
    assert all(json.loads(dump_step(step))["step"] == type(step).__name__ for step in steps)


def test_private_directory_is_never_deleted_through_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = stale(tmp_path / "state")
    (directory / "root").mkdir()
    (directory / "root/precious").touch()
    monkeypatch.setattr(journal_module, "mount_at", lambda path: path.name == "root")
    assert closed(tmp_path / "state") == []
    assert (directory / "root/precious").exists()


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_state_directory_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    with pytest.raises(HostError, match="only we can write"), opening(state):
        pass


def test_signal_while_closing_is_raised_when_all_is_closed(
    image: Path, opener: Opener, tmp_path: Path
) -> None:
    """The command's own handling, with a signal that arrives in the middle of unmounting."""
    script = (
        "import os, signal, sys\n"
        "from installer_plugin.block import undo_steps as steps\n"
        "undo = steps.MountStep.undo\n"
        "def late(self, runner):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    undo(self, runner)\n"
        "steps.MountStep.undo = late\n"
        "from installer_plugin.cli import main\n"
        "main(args=['verify', '--quiet', sys.argv[1]])\n"
    )
    argv = (sys.executable, "-c", script, str(image))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert left_of(image) == []
