"""Runs the command without a start of Python for each call: a process that has loaded it forks.

Python, our modules and those of coverage take longer to load than most calls take to do what they are
asked. A forked command has everything that `fork_client` has, but not its place among the processes:
what sends signals, or is about the start itself, uses `product.COMMAND`.
"""

import ctypes
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from marshal import loads
from pathlib import Path

import coverage

import installer_plugin

PACKAGE = installer_plugin.__name__
CLIENT = Path(__file__).with_name("fork_client.py")
REPOSITORY = Path(__file__).parents[2]
MEASURED = "--measured"


class _Server:
    process: "subprocess.Popen[str] | None" = None
    name = ""


def forked_command() -> tuple[str, ...]:
    """What stands for `python -m installer_plugin`; starts the server of these tests if need be."""
    if _Server.process is None:
        # Of the server itself, only what it loads is measured, by itself.
        env = {
            name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")
        }
        measured = (MEASURED,) if len(env) < len(os.environ) else ()
        _Server.process = subprocess.Popen(
            (sys.executable, "-m", __name__, *measured),
            cwd=REPOSITORY, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert _Server.process.stdout is not None
        _Server.name = _Server.process.stdout.readline().strip()
    return (sys.executable, "-I", "-S", str(CLIENT), _Server.name)


@contextmanager
def ended_at_last() -> Iterator[None]:
    """End the server, if there is one, after the body."""
    yield
    if _Server.process is not None:
        with _Server.process:  # closes its stdin, and waits
            _Server.process = None


# --- the server ------------------------------------------------------------------------------


def serve() -> None:
    """Fork for each call until stdin ends; in the fork, this returns when the command does."""
    measuring = coverage.Coverage(data_suffix=True) if MEASURED in sys.argv else None
    with measuring.collect() if measuring else nullcontext():
        _load()
    if measuring:
        measuring.save()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who take calls
    calls = socket.socket(socket.AF_UNIX)
    calls.bind("")  # the kernel gives it a name that no mount hides
    calls.listen()
    sys.stdout.write(f"{calls.getsockname()[1:].decode()}\n")
    sys.stdout.flush()
    while sys.stdin not in select.select((calls, sys.stdin), (), ())[0]:
        call, _ = calls.accept()
        if os.fork() == 0:
            calls.close()
            _take(call)
            return
        call.close()


def _load() -> None:
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]  # it is measured from its first line on
    for module in pkgutil.walk_packages(installer_plugin.__path__, f"{PACKAGE}."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


def _take(call: socket.socket) -> None:
    """Fork the command, wait, and answer with its exit code, negative for a signal."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, given, _, _ = socket.recv_fds(call, 1, 5)
    with call.makefile("rb") as rest:
        words, env, umask = loads(rest.read())  # noqa: S302 - from fork_client
    command = os.fork()
    if command == 0:
        call.close()
        start = _read_at_start(os.environ)
        _take_place(given, env, umask)
        if _read_at_start(os.environ) != start:
            os.execv(sys.executable, (sys.executable, "-m", PACKAGE, *words))  # noqa: S606
        _run(words)
        return
    for descriptor in given:
        os.close(descriptor)
    _, status = os.waitpid(command, 0)
    call.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _take_place(given: Sequence[int], env: Mapping[str, str], umask: int) -> None:
    """Get what the client has."""
    *streams, directory, mounts = given
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(mounts, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.fchdir(directory)
    for descriptor in given:
        os.close(descriptor)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()


def _run(words: Sequence[str]) -> None:
    """Be the command, as `python -m` makes it."""
    coverage.process_startup()
    sys.argv[1:] = words
    runpy.run_module(PACKAGE, run_name="__main__", alter_sys=True)


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    """Variables that Python and the C library read at their start, and never again."""
    names = ("PYTHON", "LC_", "LANG", "LD_")
    return {name: value for name, value in env.items() if name.startswith(names)}


if __name__ == "__main__":
    serve()
