"""Hooks below a root of the test's own, and the events that a run of them gives."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from installer_plugin.events import Event, Events, Progress
from installer_plugin.hooks.directories import FOLDER, hook_directories
from installer_plugin.hooks.phases import OUR_STAGES, Phase
from installer_plugin.hooks.plan import PhasePlan, plan
from installer_plugin.hooks.running import Facts, Surroundings
from installer_plugin.process.runner import Runner

GRACE = 0.3
"""Seconds that hooks get to end after SIGTERM."""


@dataclass
class Said:
    """Everything that was said, in order."""

    events: list[Event] = field(default_factory=list)

    def send(self, event: Event) -> None:
        self.events.append(event)

    @property
    def lines(self) -> list[str]:
        return [
            f"{each.stage}: {each.message}"
            for each in self.events
            if not isinstance(each, Progress)
        ]

    def by(self, stage: str) -> list[str]:
        """What one hook or stage has said."""
        lines = (line for line in self.lines if line.startswith(f"{stage}: "))
        return [line.removeprefix(f"{stage}: ") for line in lines]


@dataclass(frozen=True)
class Hooked:
    """A root with hooks."""

    root: Path
    said: Said = field(default_factory=Said)

    def file(self, place: str, phase: Phase, name: str) -> Path:
        """Path of a hook; its directories are made."""
        folder = self.root / place / FOLDER / f"{phase}.d"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def __call__(
        self,
        name: str,
        script: str = "exit 0",
        *,
        phase: Phase = Phase.POST_INSTALL,
        place: str = "etc",
    ) -> Path:
        """Write a hook in sh and return its path."""
        file = self.file(place, phase, name)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def mask(self, name: str, *, phase: Phase = Phase.POST_INSTALL, place: str = "etc") -> Path:
        """Write a mask and return its path."""
        file = self.file(place, phase, name)
        file.symlink_to(os.devnull)
        return file

    def plan(self, phase: Phase = Phase.POST_INSTALL, *, unsafe: bool = False) -> PhasePlan:
        """What a phase will do."""
        return plan(hook_directories(self.root), phase, unsafe_skip_verify=unsafe)

    def around(
        self,
        *,
        facts: Facts | None = None,
        state: Callable[[], Mapping[str, object]] = dict,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Surroundings:
        """What hooks are run with."""
        known = facts or Facts(state_dir=self.root / "state")
        return Surroundings(
            runner=Runner(grace=GRACE),
            events=Events([self.said]),
            facts=lambda: known,
            least=known,
            state=state,
            env=env or {},
            timeout=timeout,
        )

    def stages(self, phase: Phase = Phase.POST_INSTALL) -> dict[str, Callable[[], None]]:
        """Stages that do no more than say that they ran."""
        events = Events([self.said])

        def stage(name: str) -> Callable[[], None]:
            return lambda: events.step("ran", name)

        return {name: stage(name) for name in OUR_STAGES[phase]}
