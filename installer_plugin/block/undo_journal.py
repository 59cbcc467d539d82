"""Private directories with a journal of what was set up, closed by us or by whoever comes next.

A journal names each step before it is taken, so that a run that finds the directory of a killed one
takes back exactly what that run did. Who owns a directory holds a lock on it (see ``claim``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from installer_plugin.block.mountinfo import mount_at
from installer_plugin.block.owner_lock import claimed, owned_prefix
from installer_plugin.block.undo_steps import ExportStep, LoopStep, Step, dump_step, parse_steps
from installer_plugin.errors import (
    DataError,
    InterruptedBySignal,
    Problem,
)
from installer_plugin.process.runner import CommandError, Runner

PREFIX = "target-"
STEPS = "steps"
"""Name of the journal in a private directory."""
HINT = "end what is using it; the next call of bootc-bound-images will try again to close it"


@dataclass(slots=True)
class Journal:
    """What one run has set up, in a private directory of its own."""

    directory: Path
    runner: Runner
    steps: list[Step] = field(default_factory=list)
    holds: dict[str, int] = field(default_factory=dict)
    """Descriptors that keep loop devices, by device."""
    keepers: dict[str, ExitStack] = field(default_factory=dict)
    """What shows disk images of other formats, by lock file."""

    def plan(self, step: Step) -> None:
        """Write down a step that is about to be taken; raises OSError."""
        with (self.directory / STEPS).open("a") as file:
            file.write(dump_step(step))
        self.steps.append(step)

    def close(self) -> tuple[Problem, ...]:
        """Take back everything, last step first, and remove the directory; returns what failed.

        A step that cannot be taken back does not keep others from it, and stays written down.
        """
        try:
            return self._closed()
        except InterruptedBySignal:
            self._closed()  # signals come once only (cli.output)
            raise

    def _closed(self) -> tuple[Problem, ...]:
        problems = tuple(
            problem for step in reversed(self.steps) if (problem := self._undone(step))
        )
        if not problems:
            self._remove()
        return problems

    def _undone(self, step: Step) -> Problem | None:
        if isinstance(step, LoopStep) and step.device in self.holds:
            os.close(self.holds.pop(step.device))
        if isinstance(step, ExportStep) and step.path in self.keepers:
            self.keepers.pop(step.path).close()
        return _undone(step, self.runner)

    def _remove(self) -> None:
        # Whatever the journal says: nothing is deleted through a mount.
        if not any(mount_at(path) for path in self.directory.glob("*")):
            with suppress(FileNotFoundError):
                shutil.rmtree(self.directory)


def _undone(step: Step, runner: Runner) -> Problem | None:
    try:
        step.undo(runner)
    except CommandError as error:
        return error.problem(_subject(step), hint=HINT)
    except DataError as error:
        return error.problem(hint=HINT)
    except OSError as error:
        message = f"cannot be closed: {error.strerror}"
        return Problem(subject=_subject(step), message=message, hint=HINT)
    return None


def _subject(step: Step) -> str:
    for name in ("point", "device", "path", "name"):
        if name in step.__slots__:
            return str(getattr(step, name))
    raise RuntimeError(step)


def close_stale(state: Path, runner: Runner) -> tuple[Problem, ...]:
    """Close what runs that are gone have left; call inside :func:`owner_lock.opening`."""
    problems: list[Problem] = []
    for directory in sorted(state.glob(f"{PREFIX}*")):
        with suppress(FileNotFoundError, NotADirectoryError), claimed(directory, PREFIX) as ours:
            if ours:
                problems += _close_recorded(directory, runner)
    return tuple(problems)


def _close_recorded(directory: Path, runner: Runner) -> tuple[Problem, ...]:
    try:
        text = (directory / STEPS).read_text()
    except FileNotFoundError:
        text = ""
    try:
        steps = parse_steps(text, str(directory / STEPS))
    except DataError as error:
        return (error.problem(hint=f"close by hand what it names, then remove {directory}"),)
    return Journal(directory, runner, list(steps)).close()


@contextmanager
def private_directory(state: Path) -> Iterator[Path]:
    """A fresh directory, held by us; call inside :func:`owner_lock.opening`. The journal removes it."""
    directory = Path(tempfile.mkdtemp(prefix=owned_prefix(PREFIX), dir=state))
    with claimed(directory, PREFIX):
        yield directory
