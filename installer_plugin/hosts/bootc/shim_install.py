"""The rest of an installation, while bootc waits for the last image that it pushes.

Loaded for that call alone: bootc calls podman for each image, and often for other things.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from installer_plugin.block.mountinfo import parse_mountinfo, roots_of_store
from installer_plugin.errors import HostError, InterruptedBySignal, Problem, caught
from installer_plugin.hooks.phases import Phase
from installer_plugin.hosts.bootc.abandoned import over
from installer_plugin.hosts.bootc.boot_entries import held_back
from installer_plugin.hosts.bootc.hook_phases import Phases, retarget
from installer_plugin.hosts.bootc.shim_session import ALIAS, EVENTS, Outcome, Session
from installer_plugin.process.procfs import has_started_us
from installer_plugin.process.runner import Runner
from installer_plugin.process.signals import interruptible
from installer_plugin.process.threads import alongside
from installer_plugin.request import Context
from installer_plugin.state.event_relay import written_to
from installer_plugin.state.state_directory import StateDirectory

STORE = "ostree/bootc/storage"
"""The store below the physical root; bootc's composefs backend, with another place, never comes here."""
WATCH_SECONDS = 0.5
GRACE_SECONDS = 4.0
"""For what we have started to end; the installation gives us more (process.END_GRACE_SECONDS)."""


def install(session: Session) -> Outcome:
    """The phases after bootc's own work; every failure becomes an outcome."""
    try:
        with written_to(session.folder / EVENTS) as events, _ended_with(session.owner):
            _run_phases(session, Context(Runner(GRACE_SECONDS), events, os.environ))
    except Exception as error:  # noqa: BLE001 - the door of this program: bootc sees only 0 or 1
        known = caught(error)
        return Outcome(known.exit_code, known.problems)
    except InterruptedBySignal as error:
        problem = Problem(subject="installation", message=f"interrupted by {error.signal_name}")
        return Outcome(error.exit_code, (problem,))
    return Outcome(0, ())


@contextmanager
def _ended_with(owner: int) -> Iterator[None]:
    """Raise InterruptedBySignal when we are told to end, and when bootc or the installation has ended."""

    def watch(over: Event) -> None:
        while not over.wait(WATCH_SECONDS):
            if not has_started_us(owner):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    with interruptible(), alongside(watch, "installation-watch"):
        yield


def _run_phases(session: Session, context: Context) -> None:
    state = StateDirectory.open(session.folder / "state")
    request = state.read_request()
    root = _physical_root()
    if request is None or root is None:
        raise HostError.of(
            ALIAS,
            f"no {STORE} of a mounted root is there, expected bootc to have done that",
            hint="use --when=after",
        )
    retarget(state, request, root)
    phases = Phases(state, session.hooks, context, session.disk)
    phases.require_allowed()
    with held_back((root,), context.events, keep=session.keep, spare=session.spare) as held:
        if held and session.record is not None:
            over(session.record)
        phases.run(Phase.POST_INSTALL)
        phases.run(Phase.VERIFY)


def _physical_root() -> Path | None:
    """The root whose store bootc has mounted at its alias."""
    mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    roots = roots_of_store(mounts, ALIAS, STORE)
    return next((root for root in roots if _is_same(root / STORE, ALIAS)), None)


def _is_same(one: Path, other: str) -> bool:
    """Whether both are the same directory: what was mounted there may be hidden by now."""
    return one.exists() and one.samefile(other)
