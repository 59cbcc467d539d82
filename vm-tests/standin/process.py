"""Commands that the stand-in runs, and its one error."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

Argv = Sequence[str | os.PathLike[str]]


class InstallError(Exception):
    """The installation cannot go on; the message is for people."""


def run(argv: Argv, *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command without input and return its output; raises InstallError."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise InstallError(f"Failed to start {argv[0]}: {error.strerror}") from error
    if done.returncode:
        shown = " ".join(os.fspath(word) for word in argv)
        raise InstallError(f"{shown}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def say(message: str) -> None:
    """Tell progress at once, also into a pipe."""
    print(message, flush=True)
