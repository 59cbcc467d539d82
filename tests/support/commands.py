"""Runs real commands for the fixtures, in a private mount namespace where they mount."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

Argv = Sequence[str | os.PathLike[str]]

# skopeo writes its blob cache below /var/lib/containers whatever its options say, and every
# container tool leaves a mount on its store: neither may be seen outside.
_HIDE_MACHINE_STORE = (
    "mkdir -p /var/lib/containers\n"
    "mount -t tmpfs tmpfs /var/lib/containers\n"
    'exec "$@"\n'
)  # fmt: skip


# Nothing takes nearly as long; what hangs is to be an error, with what it has said.
_PATIENCE_SECONDS = 600


class CommandError(AssertionError):
    """A command that a fixture or test needs has failed; the message has its output."""


def run(
    argv: Argv,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ok: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    """Run a command without input; raise CommandError unless its exit code is in `ok`."""
    shown = " ".join(os.fspath(word) for word in argv)
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=_PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        message = f"not done after {late.timeout:.0f} s: {shown}\n{late.stdout!r}{late.stderr!r}"
        raise CommandError(message) from late
    if done.returncode not in ok:
        message = f"exit code {done.returncode}: {shown}\n{done.stdout}{done.stderr}"
        raise CommandError(message)
    return done


def unshared(argv: Argv, *, prelude: str = _HIDE_MACHINE_STORE) -> tuple[str, ...]:
    """Wrap a command so that its mounts, and those of the shell `prelude`, end with it."""
    script = f"set -e\n{prelude}"
    return ("unshare", "--mount", "sh", "-c", script, "sh", *(os.fspath(word) for word in argv))
