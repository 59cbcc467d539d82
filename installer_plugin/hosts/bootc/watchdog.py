"""Keeps a target from booting without its images when the installation itself is killed.

While bootc may write boot entries and the images are not there, a record of the target is on file. The
installation and bootc hold a shared lock on it. A guard, a process of its own, waits for an exclusive
one: it comes to it when all of them have gone, and finds the record only if nobody has come to an end.
Should the guard be killed as well, the next call of ours does its work.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.block.owner_lock import opening, owned_prefix
from installer_plugin.errors import HostError, PreflightError
from installer_plugin.events import Events, after_failure
from installer_plugin.hosts.bootc.abandoned import (
    FAILURES,
    PATIENCE_SECONDS,
    PREFIX,
    over,
    settle,
)
from installer_plugin.hosts.bootc.boot_block import Unproven
from installer_plugin.hosts.bootc.boot_entries import STAGE, reason_of
from installer_plugin.process.runner import (
    LOCK,
    Command,
    CommandError,
    Runner,
    find_tool,
    our_program_argv,
    private_mounts_argv,
    sharing_lock_argv,
)
from installer_plugin.request import Context

PROGRAM = "installer_plugin.hosts.bootc.watchdog"
PAUSE_SECONDS = 0.5
# The file stays open in what comes after; what says a word too much has nobody to hear it.
WAIT = 'exec 9<"$1"; echo watching; shift; flock --exclusive 9; exec "$@" >/dev/null 2>&1'


@dataclass(frozen=True, slots=True)
class Guard:
    """Of one installation."""

    unproven: Unproven
    context: Context
    record: Path | None
    """None where the target may boot whatever happens."""

    def bound_argv(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """*argv*, told to end when we die, and so that the guard waits for its end too.

        In mounts of its own: bootc mounts over /tmp and more before it takes some for itself, takes none
        with ``--source-imgref``, and when it fails leaves the target mounted (install.rs).
        """
        bound = private_mounts_argv(argv)
        return bound if self.record is None else sharing_lock_argv(bound, self.record)

    def over(self) -> None:
        """Nothing more is to be done if we are killed: the boot entries are set aside."""
        if self.record is not None:
            over(self.record)

    @contextmanager
    def protected(self, *, once_more: bool = False) -> Iterator[None]:
        """Keep what bootc has written from booting when anything goes wrong.

        Unless the boot entries were set aside before, or *once_more*, when they have come back. What
        cannot be done now is left to the next call of ours.
        """
        try:
            yield
        except BaseException as failure:
            if self.record is not None and (once_more or self.record.exists()):
                self._keep_from_booting(reason_of(failure))
            raise

    def _keep_from_booting(self, reason: str) -> None:
        events = self.context.events
        target = self.unproven.before.target
        with after_failure(events, STAGE, f"{target}: its boot entries could not be set aside"):
            self.unproven.keep_from_booting(reason, self.context.runner, events)
            self.over()


@contextmanager
def guarding(unproven: Unproven, context: Context, *, keep: bool) -> Iterator[Guard]:
    """Have the target guarded until the context is left, unless it may boot anyway (*keep*).

    Raises PreflightError and HostError.
    """
    if keep:
        yield Guard(unproven, context, None)
        return
    if find_tool(LOCK) is None:
        message, hint = "not found in PATH, expected it there", "install util-linux"
        raise PreflightError.of(LOCK, message, hint=hint)
    with ExitStack() as stack:
        record = stack.enter_context(_recorded(unproven))
        program = our_program_argv(PROGRAM, str(record))
        argv = ("sh", "-e", "-c", WAIT, "guard", str(record), *program)
        try:
            stack.enter_context(context.runner.hold(Command(argv=argv, purpose="guard the target")))
        except CommandError as error:
            over(record)
            raise HostError(error.problem("guard", hint="see whether sh and flock run")) from error
        yield Guard(unproven, context, record)
        over(record)


@contextmanager
def _recorded(unproven: Unproven) -> Iterator[Path]:
    """*unproven* on file, locked by us until the context is left; what is to be done then stays.

    Raises HostError when it cannot be written whole: bootc has not begun then.
    """
    state = unproven.opening.state
    with opening(state), ExitStack() as stack:
        try:
            fd, name = tempfile.mkstemp(prefix=owned_prefix(PREFIX), dir=state)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_SH)
            _write_record(fd, Path(name), unproven.dump())
        except OSError as error:
            message = f"a record of the installation cannot be written: {error.strerror}"
            raise HostError.of(str(state), message, hint=f"see df {state}: make room") from error
        held = stack.pop_all()
    with held:
        yield Path(name)


def _write_record(fd: int, record: Path, content: bytes) -> None:
    """Write *record* whole, or remove it: half of one could not be acted on. Raises OSError."""
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except BaseException:
        over(record)
        raise


def main(argv: Sequence[str]) -> None:
    """What the guard does once it is alone: ``RECORD``."""
    record = Path(argv[0])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while record.exists():
        try:
            settle(record, record.parent, Runner(), Events())
        except FAILURES:
            if time.monotonic() > deadline:
                raise  # the next call of ours finds the record, and tells people
            time.sleep(PAUSE_SECONDS)
