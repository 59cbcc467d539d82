"""Running phases: our stages and hooks in their order, and the cleanup that nothing prevents."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TypeVar

from installer_plugin.errors import (
    BoundImagesError,
    DataError,
    HostError,
    InterruptedBySignal,
    Problem,
)
from installer_plugin.events import Events
from installer_plugin.files.rootfs import printable
from installer_plugin.hooks.argv import hook_argv
from installer_plugin.hooks.directories import entry_problems
from installer_plugin.hooks.options import TIMEOUT_SECONDS
from installer_plugin.hooks.phases import VERIFY_STAGE, Phase
from installer_plugin.hooks.plan import PhasePlan, Planned, require_allowed
from installer_plugin.process.runner import STDERR_TAIL_LINES, Command, CommandError, Runner
from installer_plugin.process.signals import handled_by

Known = TypeVar("Known")
STAGE = "hooks"
SCHEMA = "bootc-bound-images/hook-state/2"
NOT_APPLICABLE = 77
UMASK = 0o022
FIXED = MappingProxyType(
    {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
    }
)
"""Variables that are the same for every hook, whoever calls."""
KEPT = ("SOURCE_DATE_EPOCH", "TMPDIR")
"""Variables that a hook gets as the caller has them; it gets no others of the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What hooks are told in ``BOUND_IMAGES_*`` variables; what is not known yet is empty."""

    state_dir: Path
    """Where the stages keep what they know (``stage NAME --state``)."""
    source: str = ""
    """The OS image, or its root."""
    target: Path | None = None
    """The physical root."""
    store: Path | None = None
    """The target store's graph root."""
    backend: str = ""
    disk: Path | None = None
    """The disk or disk image, where the target is one."""

    def variables(self, phase: Phase) -> Mapping[str, str]:
        """The variables of a hook."""
        return {
            "BOUND_IMAGES_PHASE": phase,
            "BOUND_IMAGES_STATE": str(self.state_dir),
            "BOUND_IMAGES_SOURCE": self.source,
            "BOUND_IMAGES_TARGET": str(self.target or ""),
            "BOUND_IMAGES_STORE": str(self.store or ""),
            "BOUND_IMAGES_BACKEND": self.backend,
            "BOUND_IMAGES_DISK": str(self.disk or ""),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the hooks of a run share."""

    runner: Runner
    events: Events
    facts: Callable[[], Facts]
    """Asked before each hook, since more is known from stage to stage."""
    state: Callable[[], Mapping[str, object]]
    """The document that a hook gets on stdin, as far as it is known; asked before each hook."""
    least: Facts
    """What cleanup hooks are told when no more can be learned."""
    env: Mapping[str, str]
    """Our own environment, of which :data:`KEPT` is handed on."""
    timeout: float = TIMEOUT_SECONDS
    """Seconds that each hook may take."""


def run_phase(
    plan: PhasePlan, stages: Mapping[str, Callable[[], None]], around: Surroundings
) -> None:
    """Run everything in *plan*; *stages* are our own, by their ``NN-name``.

    Raises HostError when the plan has problems, before anything of it runs, and for the first hook
    that fails; and whatever a stage raises. Cleaning up is :func:`cleaned_up`'s.
    """
    if plan.phase is Phase.CLEANUP:
        raise RuntimeError("cleanup is not a phase to be run at will, see cleaned_up")
    _announce(plan, around.events)
    require_allowed(plan)
    for each in plan.hooks:
        if each.file is None:
            stages[each.name]()
        else:
            _run_hook(each, each.file, around)


@contextmanager
def cleaned_up(plan: PhasePlan, around: Surroundings) -> Iterator[None]:
    """Run all hooks of the cleanup phase when the context is left, however it is left.

    A failing one stops no other. When the body has raised, that goes on and their failures are
    warnings; otherwise HostError is raised with all of them. A signal that comes while they run is
    held back until they are through, and raised as InterruptedBySignal then.
    """
    cleanup = _Cleanup(plan, around)
    try:
        yield
    finally:
        try:
            cleanup.run()
        except (InterruptedBySignal, KeyboardInterrupt):
            cleanup.run()  # it came in the moment before signals are held back
            raise
    if cleanup.held:
        raise InterruptedBySignal(cleanup.held[0])
    if cleanup.failures:
        raise HostError(*cleanup.failures)


class _Cleanup:
    """The cleanup hooks, which run once."""

    def __init__(self, plan: PhasePlan, around: Surroundings) -> None:
        self.failures: list[Problem] = []
        self.held: list[str] = []
        self._plan = plan
        self._around = replace(
            around,
            facts=lambda: self._learned(around.facts, around.least),
            state=lambda: self._learned(around.state, {}),
        )
        self._begun = False

    def run(self) -> None:
        with _signals_held(self.held):
            if self._begun:
                return
            self._begun = True
            events = self._around.events
            _announce(self._plan, events)
            refused = {problem for each in self._plan.hooks for problem in each.problems}
            self._fail(*(each for each in self._plan.problems if each not in refused))
            for each in self._plan.hooks:
                if each.file is None:
                    continue
                try:
                    if each.problems:
                        raise HostError(*each.problems)
                    _run_hook(each, each.file, self._around)
                except BoundImagesError as error:
                    self._fail(*error.problems)

    def _learned(self, ask: Callable[[], Known], otherwise: Known) -> Known:
        """What a hook is to be told; that it cannot be learned keeps no hook from running."""
        try:
            return ask()
        except BoundImagesError as error:
            self._fail(*error.problems)
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            self._fail(Problem(subject=str(error.filename), message=message))
        return otherwise

    def _fail(self, *problems: Problem) -> None:
        new = [problem for problem in problems if problem not in self.failures]
        self.failures += new
        for problem in new:
            self._around.events.warn(Phase.CLEANUP, str(problem))


def _announce(plan: PhasePlan, events: Events) -> None:
    for path in plan.ignored:
        message = f"{printable(str(path))} is ignored: hooks are named NN-name"
        events.warn(STAGE, message)
    instead = plan.unproven_by
    if instead and not plan.problems:
        deed = f"{instead.deed} by {printable(str(instead.file))}"
        events.warn(STAGE, f"{VERIFY_STAGE} is {deed}: NOTHING PROVES WHAT IS ON THE TARGET")


def _run_hook(hook: Planned, file: Path, around: Surroundings) -> None:
    if hook.masked:
        around.events.step(STAGE, f"{hook.name} is masked by {file}")
        return
    if problems := entry_problems(file):  # again: the plan is as old as what ran before
        raise HostError(*problems)
    around.events.step(STAGE, f"{hook.phase}: {file}")

    def say(line: str) -> None:
        around.events.step(hook.name, printable(line))

    try:
        code = around.runner.follow(
            _command(hook, file, around),
            say,
            ok=(0, NOT_APPLICABLE),
            stdin=_document(hook, around),
            timeout=around.timeout,
        )
    except CommandError as error:
        raise HostError(_failed(hook, file, error)) from error
    if code == NOT_APPLICABLE:
        around.events.step(STAGE, f"{hook.name} says that it is not applicable (exit code {code})")


def _command(hook: Planned, file: Path, around: Surroundings) -> Command:
    facts = around.facts()
    kept = {name: around.env[name] for name in KEPT if around.env.get(name)}
    return Command(
        argv=hook_argv(hook, file, facts.target),
        purpose=f"run the {hook.phase} hook {hook.name}",
        env={**FIXED, **kept, **facts.variables(hook.phase)},
        inherits=False,
        cwd=Path("/"),
        umask=UMASK,
    )


def _document(hook: Planned, around: Surroundings) -> bytes:
    try:
        state = around.state()
    except DataError as error:
        raise HostError(*error.problems) from error
    return json.dumps({"schema": SCHEMA, "phase": hook.phase, **state}).encode()


def _failed(hook: Planned, file: Path, error: CommandError) -> Problem:
    said = "\n".join(printable(line) for line in error.stderr.splitlines()[-STDERR_TAIL_LINES:])
    return Problem(
        subject=f"{hook.phase} hook {hook.name}",
        where=str(file),
        message=f"{error.ending}, expected exit code 0, or {NOT_APPLICABLE} for not applicable"
        + (f": {said}" if said else ""),
        hint="correct it, or mask it with a link of its name to /dev/null in "
        f"/etc/bootc-bound-images/hooks.d/{hook.phase}.d",
    )


@contextmanager
def _signals_held(held: list[str]) -> Iterator[None]:
    """Note the names of signals that would end us instead of obeying them, in the main thread.

    They are not blocked: a hook would inherit that, and could not be ended by them.
    """

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        held.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handled_by(note):
        yield
