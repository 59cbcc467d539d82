"""The one door to other programs: argv in, result or explained failure out, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import IO

from installer_plugin.errors import BoundImagesError, HostError, InterruptedBySignal, Problem
from installer_plugin.process.pipes import (
    LINE_LIMIT,
    OUTPUT_LIMIT,
    Conversation,
    FloodError,
    collect,
    converse,
)
from installer_plugin.process.procfs import living_in_group
from installer_plugin.process.signals import uninterrupted

END_GRACE_SECONDS = 10
"""How long a child may take to end after SIGTERM before its process group gets SIGKILL."""
STDERR_TAIL_LINES = 12
"""Lines of a failed program's stderr that an error shows."""
WRAPPER, LOCK = "setpriv", "flock"
FLOOD = f"said more than {OUTPUT_LIMIT >> 20} MiB"
PACKAGE_PLACE = Path(__file__).resolve().parents[2]
"""Where this package is found by those who import it."""
_OUR_PROGRAM = (
    "import sys; sys.path.append(sys.argv.pop(1)); from importlib import import_module; "
    "import_module(sys.argv.pop(1)).main(sys.argv[1:])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program call, built by a pure ``*_argv`` function; printed by dry runs and in errors."""

    argv: tuple[str, ...]
    purpose: str
    """What it is for, as an infinitive: "copy quay.io/x:1"."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables added to our own environment."""
    inherits: bool = True
    """Whether it gets our own environment at all."""
    cwd: Path | None = None
    """Its working directory; None for ours."""
    umask: int = -1
    """Its umask; -1 for ours."""

    @property
    def tool(self) -> str:
        """The program that does the work, behind :func:`private_mounts_argv` and ``sh -c``.

        A script that prepares a program names it as ``$0``.
        """
        wrapped = self.argv[0] in (WRAPPER, LOCK) and "--" in self.argv
        argv = self.argv[self.argv.index("--") + 1 :] if wrapped else self.argv
        return argv[3] if argv[:2] == ("sh", "-c") and len(argv) > 3 else argv[0]


class Streams(Enum):
    """What a child's standard streams are."""

    APART = auto()
    """Pipes to us."""
    TOGETHER = auto()
    """Pipes to us, one for both outputs."""
    OURS = auto()
    """Our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program that ended with an accepted exit code."""

    stdout: bytes
    stderr: str
    returncode: int


class CommandError(BoundImagesError):
    """A program could not be started, failed, or was ended by a signal.

    Low-level, as DataError is: the step that ran the program knows what that means.
    """

    def __init__(self, command: Command, ending: str, stderr: str) -> None:
        self.command = command
        self.ending = ending
        self.stderr = stderr
        super().__init__(self.problem(command.purpose, hint="see what the program says"))

    def __str__(self) -> str:
        """In one line, without what the program has said."""
        return f"{self.command.tool} {self.ending}, while trying to {self.command.purpose}"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as what it was made of."""
        return type(self), (self.command, self.ending, self.stderr)

    def retold(self, retell: Callable[[Problem], Problem]) -> BoundImagesError:
        """The failed program as an error of the host, in other words."""
        return HostError(*map(retell, self.problems))

    def problem(self, subject: str, *, hint: str = "") -> Problem:
        """The failure as a problem of *subject*, with the end of what the program said."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        said = "\n".join(lines[-STDERR_TAIL_LINES:])
        message = f"{self.command.tool} {self.ending}" + (f": {said}" if said else "")
        return Problem(subject=subject, message=message, hint=hint)


def private_mounts_argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    """*argv* in a mount namespace of its own, ended by the kernel when we die.

    containers/storage leaves a private bind mount on ``<graph root>/overlay`` in the caller's mount
    namespace (drivers/overlay/overlay.go, MakePrivate), which keeps the target busy; in a namespace
    that ends with the program, nothing is left. ``setpriv --pdeathsig`` covers our own SIGKILL.
    """
    return (
        WRAPPER, "--pdeathsig", "TERM",
        "unshare", "--mount", "--propagation", "private",
        "--", *argv,
    )  # fmt: skip


def bound_to_us_argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    """*argv*, told by the kernel to end when we die."""
    return (WRAPPER, "--pdeathsig", "TERM", "--", *argv)


def our_program_argv(module: str, *words: str) -> tuple[str, ...]:
    """The call of ``main(words)`` in a module of ours as a program of its own.

    Whatever the working directory is: nothing is imported from there (-P).
    """
    return (sys.executable, "-P", "-c", _OUR_PROGRAM, str(PACKAGE_PLACE), module, *words)


def sharing_lock_argv(argv: tuple[str, ...], file: Path) -> tuple[str, ...]:
    """*argv*, itself made by one of the functions above, with a shared lock on *file*.

    All that it starts may hold the lock too: who waits for an exclusive one waits for all of them.
    """
    return (LOCK, "--shared", "--no-fork", str(file), *argv)


def find_tool(name: str) -> str | None:
    """Path of the program *name*, or None."""
    import shutil  # noqa: PLC0415 - slow to load, and seldom needed

    return shutil.which(name)


class Runner:
    """Runs commands. Children get a session of their own, so that all they started can be ended.

    May be used from several threads; :meth:`end_all` is for the one that is told to stop. Who must not
    end what others have started has :meth:`another`.
    """

    def __init__(self, grace: float = END_GRACE_SECONDS) -> None:
        """*grace* is for children of a child: they end before that is killed itself."""
        self._grace = grace
        self._living: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def another(self) -> Runner:
        """A runner of the same kind, with children of its own."""
        return Runner(self._grace)

    def end_all(self) -> None:
        """End every child of every thread; their :meth:`run` calls raise CommandError."""
        with self._lock:
            for child in self._living:
                # The ID of one that was waited for may be another's by now; its thread ends the rest.
                if child.returncode is None:
                    _signal(child, signal.SIGKILL)

    @contextmanager
    def _started(
        self, command: Command, streams: Streams = Streams.APART
    ) -> Iterator[subprocess.Popen[bytes]]:
        child = self._begun(command, streams)
        try:
            yield child
        finally:
            self._forget(child)

    def _begun(self, command: Command, streams: Streams) -> subprocess.Popen[bytes]:
        """A child that is started; a signal in the midst of that leaves none behind."""
        child = None
        try:
            # One that has begun is never unknown to end_all, which waits for the lock.
            with uninterrupted(), self._lock:
                child = _start(command, streams)
                self._living.add(child)
        except InterruptedBySignal:
            if child is not None:
                _end(child, self._grace)
                self._forget(child)
            raise
        return child

    def _forget(self, child: subprocess.Popen[bytes]) -> None:
        with uninterrupted(), self._lock:
            self._living.discard(child)

    def run(
        self,
        command: Command,
        *,
        ok: Collection[int] = (0,),
        stdin: bytes = b"",
        timeout: float | None = None,
    ) -> Completed:
        """Run *command* to its end.

        Raises CommandError for an exit code not in *ok*, a signal, a missing program or after
        *timeout* seconds. Whatever exception passes through (a signal to us among them), the child
        and all it started have ended before it leaves.
        """
        with self._started(command) as child:
            until = time.monotonic() + timeout if timeout is not None else float("inf")
            try:
                out, err = _said(child, stdin, until)
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                _end(child, self._grace)
                raise CommandError(command, f"did not end within {timeout} s", "") from error
            except FloodError as error:
                _end(child, self._grace)
                raise CommandError(command, FLOOD, "") from error
            except BaseException:
                _end(child, self._grace)
                raise
        stderr = err.decode(errors="replace")
        if child.returncode not in ok:
            raise CommandError(command, _ending(child.returncode), stderr)
        return Completed(stdout=out, stderr=stderr, returncode=child.returncode)

    def follow(
        self,
        command: Command,
        line: Callable[[str], None],
        *,
        ok: Collection[int] = (0,),
        stdin: bytes = b"",
        timeout: float | None = None,
    ) -> int:
        """Run *command*, hand *line* what it says on stdout and stderr as it comes; its exit code.

        It is over when the program itself is: what that has left running is ended then. Raises as
        :meth:`run` does; the error's ``stderr`` is the end of what was said.
        """
        tail: deque[str] = deque(maxlen=STDERR_TAIL_LINES)

        def hear(said: str) -> None:
            tail.append(said)
            line(said)

        until = time.monotonic() + timeout if timeout is not None else float("inf")
        with self._started(command, Streams.TOGETHER) as child:
            try:
                talk = Conversation(*_pipes(child), stdin)
                ended = converse(talk, hear, lambda: child.poll() is not None, until)
            finally:
                _end(child, self._grace)
        if not ended:
            raise CommandError(command, f"did not end within {timeout:g} s", "\n".join(tail))
        if child.returncode not in ok:
            raise CommandError(command, _ending(child.returncode), "\n".join(tail))
        return child.returncode

    def attach(self, command: Command) -> int:
        """Run *command* on our own stdin, stdout and stderr; its exit code.

        For programs whose users are to see them as they are. It is over when the program itself is:
        what that has left running is ended then. Raises CommandError for a missing program and for one
        that a signal has ended.
        """
        with self._started(command, Streams.OURS) as child:
            try:
                child.wait()
            finally:
                _end(child, self._grace)
        if child.returncode < 0:
            raise CommandError(command, _ending(child.returncode), "")
        return child.returncode

    @contextmanager
    def hold(self, command: Command) -> Iterator[tuple[int, bytes]]:
        """Run *command* until its first line of output; it is ended when the context is left.

        Yields its process ID and that line. For programs that set something up, say so, and keep it
        while their stdin is open. Raises CommandError when it ends before it has said anything.
        """
        with self._started(command) as child:
            try:
                if child.stdout is None:
                    raise RuntimeError("started without a pipe")
                line = child.stdout.readline(LINE_LIMIT)
                if not line:
                    _, err = _said(child, b"", float("inf"))
                    stderr = err.decode(errors="replace")
                    raise CommandError(command, _ending(child.returncode), stderr)
                yield child.pid, line
            finally:
                _end(child, self._grace)


def _start(command: Command, streams: Streams) -> subprocess.Popen[bytes]:
    apart = None if streams is Streams.OURS else subprocess.PIPE
    try:
        return subprocess.Popen(
            command.argv,
            stdin=apart,
            stdout=apart,
            stderr=subprocess.STDOUT if streams is Streams.TOGETHER else apart,
            env={**(os.environ if command.inherits else {}), "LC_ALL": "C.UTF-8", **command.env},
            cwd=command.cwd,
            umask=command.umask,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(command, f"could not be started ({error.strerror})", "") from error


def _said(child: subprocess.Popen[bytes], stdin: bytes, until: float) -> tuple[bytes, bytes]:
    """All that *child* says until it ends; raises as :func:`collect` does, and TimeoutExpired."""
    if child.stderr is None:
        raise RuntimeError("started without pipes")
    said = collect(Conversation(*_pipes(child), stdin), child.stderr, until)
    child.wait(None if until == float("inf") else max(until - time.monotonic(), 0))
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    return said


def _pipes(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("started without pipes")
    return child.stdin, child.stdout


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    """End the child's whole session, politely first; closes its pipes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _session_lives(child):
            break
        _signal(child, number)
        deadline = time.monotonic() + grace
        while _session_lives(child) and time.monotonic() < deadline:
            time.sleep(0.02)
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):  # unsent input of a child that is gone
                pipe.close()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if child.pid <= 1:
        # killpg(1) is kill(-1): every process of the machine. No real child has such an ID.
        raise RuntimeError(f"{child.pid} is not a child of ours")
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _session_lives(child: subprocess.Popen[bytes]) -> bool:
    child.poll()
    try:
        os.killpg(child.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    # A signal reaches zombies as well, and the first process of a container need not collect them.
    return living_in_group(child.pid)


def _ending(returncode: int) -> str:
    if returncode < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"was ended by {names.get(-returncode, f'signal {-returncode}')}"
    return f"failed with exit code {returncode}"
