"""The ``podman`` that bootc finds during an installation of ours: takes one call, passes on the rest.

bootc has no hook point. It copies each bound image by ``podman image push`` into its store, and finds
podman by name through PATH (bootc ``crates/lib/src/podstorage.rs``, pull_from_host_storage). This
program stands first in PATH for that one run; with the last image it runs the rest of the
installation's phases, which copy all of them, while bootc still holds the target mounted.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NoReturn

from installer_plugin.block.mountinfo import parse_mountinfo, roots_of_store
from installer_plugin.errors import (
    HostError,
    InterruptedBySignal,
    Problem,
    caught,
)
from installer_plugin.files.atomic import replace_file
from installer_plugin.files.outlet import say
from installer_plugin.hooks.phases import Phase
from installer_plugin.hosts.bootc.abandoned import over
from installer_plugin.hosts.bootc.boot_entries import Entries, held_back
from installer_plugin.hosts.bootc.hook_phases import HookOptions, Phases, retarget
from installer_plugin.process.procfs import find_process
from installer_plugin.process.runner import Runner, our_program_argv
from installer_plugin.process.signals import interruptible
from installer_plugin.process.threads import alongside
from installer_plugin.request import Context
from installer_plugin.stages.report import problem_json
from installer_plugin.state.event_relay import written_to
from installer_plugin.state.state_directory import StateDirectory

PROGRAM = "installer_plugin.hosts.bootc.podman_shim"
ALIAS = "/run/bootc/storage"
"""Where bootc bind-mounts the target store for podman."""
STORE = "ostree/bootc/storage"
"""The store below the physical root; bootc's composefs backend, with another place, never comes here."""
DESTINATION = f"containers-storage:[overlay@{ALIAS}+/proc/self/fd/3]"
PUSH = ("image", "push")
"""Followed by ``--remove-signatures`` since bootc 1.1.0."""
SESSION, OUTCOME, SEEN, EVENTS = "shim.json", "outcome.json", "seen.json", "events"
MAX_ANCESTORS = 32
WATCH_SECONDS = 0.5
GRACE_SECONDS = 4.0
"""For what we have started to end; the installation gives us more (process.END_GRACE_SECONDS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the installation tells its shim."""

    folder: Path
    """Private directory of the installation."""
    owner: int
    """Process ID of the installation; the shim serves nobody else."""
    expected: tuple[str, ...]
    """Images that bootc will push, by the names it uses."""
    keep: bool
    """Whether a target that failed may boot all the same."""
    hooks: HookOptions
    disk: Path | None = None
    """The disk that bootc installs to."""
    record: Path | None = None
    """Of the guard, to be closed once the boot entries are set aside."""
    spare: Entries = frozenset()
    """Boot entries that were there before bootc."""

    def save(self) -> None:
        """Write it where the shim finds it."""
        data = {
            "owner": self.owner,
            "expected": list(self.expected),
            "keep": self.keep,
            "hooks_root": str(self.hooks.root),
            "unsafe_skip_verify": self.hooks.unsafe_skip_verify,
            "hook_timeout": self.hooks.timeout,
            "disk": str(self.disk) if self.disk else None,
            "record": str(self.record) if self.record else None,
            "spare": sorted(self.spare),
        }
        replace_file(self.folder / SESSION, json.dumps(data).encode())

    @classmethod
    def load(cls, folder: Path) -> Session:
        """Read what :meth:`save` wrote."""
        data = json.loads((folder / SESSION).read_bytes())
        return cls(
            folder=folder,
            owner=data["owner"],
            expected=tuple(data["expected"]),
            keep=data["keep"],
            hooks=HookOptions(
                root=Path(data["hooks_root"]),
                unsafe_skip_verify=data["unsafe_skip_verify"],
                timeout=data["hook_timeout"],
            ),
            disk=Path(data["disk"]) if data["disk"] else None,
            record=Path(data["record"]) if data["record"] else None,
            spare=frozenset((path, size, time) for path, size, time in data["spare"]),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the images."""

    exit_code: int
    problems: tuple[Problem, ...]

    @classmethod
    def load(cls, folder: Path) -> Outcome | None:
        """What the shim left in *folder*; None when it did not come to an end."""
        file = folder / OUTCOME
        if not file.exists():
            return None
        data = json.loads(file.read_bytes())
        return cls(data["exit_code"], tuple(Problem(**each) for each in data["problems"]))

    def save(self, folder: Path) -> None:
        """Leave it for the installation."""
        data = {
            "exit_code": self.exit_code,
            "problems": [problem_json(problem) for problem in self.problems],
        }
        replace_file(folder / OUTCOME, json.dumps(data).encode())


def pushed_image(words: Sequence[str]) -> str | None:
    """The image of bootc's own copy call; None for any other call."""
    if tuple(words[: len(PUSH)]) != PUSH:
        return None
    arguments = [word for word in words[len(PUSH) :] if not word.startswith("--")]
    if len(arguments) != 2 or list(words[-2:]) != arguments:
        return None
    image, destination = arguments
    return image if destination == DESTINATION + image else None


def shim_script(folder: Path) -> str:
    """The program that PATH leads to."""
    return f'#!/bin/sh\nexec {shlex.join(our_program_argv(PROGRAM, str(folder)))} "$@"\n'


def main(argv: Sequence[str]) -> NoReturn:
    """Serve one call: ``FOLDER WORDS...``; without the folder's files it is the end of bootc's run."""
    folder, *words = argv
    try:
        session = Session.load(Path(folder))
        image = pushed_image(words)
        if image is None or image not in session.expected or not _is_ancestor(session.owner):
            _real_podman(Path(folder), words)
        code = _take_over(session, image)
    except OSError as error:
        known = caught(error)
        say(f"bootc-bound-images: {known}")
        code = known.exit_code
    sys.exit(code)


def _real_podman(folder: Path, words: Sequence[str]) -> NoReturn:
    places = [
        place for place in os.environ.get("PATH", "").split(":") if place != str(folder / "bin")
    ]
    os.environ["PATH"] = ":".join(places)
    try:
        os.execvp("podman", ["podman", *words])  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"podman: {error.strerror}")


def _take_over(session: Session, image: str) -> int:
    if done := Outcome.load(session.folder):
        return done.exit_code  # a second link to an image that was seen to
    seen = _seen(session.folder) | {image}
    replace_file(session.folder / SEEN, json.dumps(sorted(seen)).encode())
    if seen != set(session.expected):
        return 0  # the last call copies all of them, with the layers they share
    outcome = _install(session)
    outcome.save(session.folder)
    for problem in outcome.problems:
        say(str(problem))
    return outcome.exit_code


def _install(session: Session) -> Outcome:
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
    """Raise InterruptedBySignal when we are told to end, or bootc or the installation is no more."""

    def watch(over: Event) -> None:
        while not over.wait(WATCH_SECONDS):
            if not _is_ancestor(owner):
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


def _seen(folder: Path) -> set[str]:
    file = folder / SEEN
    return set(json.loads(file.read_bytes())) if file.exists() else set()


def _is_ancestor(pid: int) -> bool:
    """Whether the installation, still alive, has started us, at however many removes."""
    here = os.getppid()
    for _ in range(MAX_ANCESTORS):
        if here == pid:
            return True
        process = find_process(here)
        if process is None:
            return False
        here = process.parent
    return False
