"""An installation's phases: our stages with the hooks around them, on one state directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from installer_plugin.hooks.directories import hook_directories
from installer_plugin.hooks.options import HookOptions
from installer_plugin.hooks.phases import RECORD_STAGE, Phase
from installer_plugin.hooks.plan import PhasePlan, plans, require_allowed
from installer_plugin.hooks.running import (
    Facts,
    Surroundings,
    cleaned_up,
    run_phase,
)
from installer_plugin.opening import require_target
from installer_plugin.pipeline import Stage
from installer_plugin.request import Context, Request
from installer_plugin.stages.record import remove_receipt
from installer_plugin.state.run_stage import hook_state, note_overridden, stage_calls
from installer_plugin.state.state_directory import StateDirectory
from installer_plugin.storage.store.rollback import forget


class Phases:
    """The phases of one installation."""

    def __init__(
        self,
        state: StateDirectory,
        options: HookOptions,
        context: Context,
        disk: Path | None = None,
    ) -> None:
        """Read the hooks of all phases; see :meth:`require_allowed`."""
        self._state = state
        self._disk = disk
        self._context = context
        self._options = options
        self.plans: Mapping[Phase, PhasePlan] = plans(
            hook_directories(options.root), unsafe_skip_verify=options.unsafe_skip_verify
        )
        note_overridden(state, tuple(self.plans.values()))

    def require_allowed(self) -> None:
        """Raise HostError when a hook of any phase may not be used."""
        require_allowed(*self.plans.values())

    def run(self, phase: Phase) -> None:
        """Run *phase*; raises what its stages raise, and HostError for a hook."""
        calls = stage_calls(self._state, self._context)
        run_phase(self.plans[phase], calls, self._surroundings())
        if phase is Phase.VERIFY:
            self._settle()

    def _settle(self) -> None:
        """Leave nothing on the target that speaks of what was there before, whatever hooks stand in for.

        A later run must neither go back to that, nor be held to its receipt.
        """
        request = self._state.read_request()
        if request is None or request.target is None or request.dry_run:
            return
        target = require_target(request)
        forget(target)
        by_hook = any(
            each.name == RECORD_STAGE and each.file and not each.masked
            for each in self.plans[Phase.VERIFY].hooks
        )
        written = by_hook or (self._state.has(Stage.RECORD) and self._state.has(Stage.VERIFY))
        if not written and remove_receipt(target.receipt):
            message = f"{target.receipt}: the receipt of an earlier installation is removed"
            self._context.events.warn(Stage.RECORD, f"{message}, this one has written none")

    @contextmanager
    def cleaned_up(self) -> Iterator[None]:
        """Run the cleanup hooks when the context is left, whatever has happened in it."""
        with cleaned_up(self.plans[Phase.CLEANUP], self._surroundings()):
            yield

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            runner=self._context.runner,
            events=self._context.events,
            facts=self._facts,
            state=lambda: hook_state(self._state),
            least=Facts(state_dir=self._state.path, disk=self._disk),
            env=self._context.env,
            timeout=self._options.timeout,
        )

    def _facts(self) -> Facts:
        request = self._state.read_request()
        if request is None:
            return Facts(state_dir=self._state.path, disk=self._disk)
        if request.target is None:
            return Facts(state_dir=self._state.path, source=request.source, disk=self._disk)
        store = require_target(request)
        return Facts(
            state_dir=self._state.path,
            source=request.source,
            target=store.physical_root,
            store=store.graph_root,
            backend=store.backend,
            disk=self._disk,
        )


def retarget(state: StateDirectory, request: Request, target: Path) -> Request:
    """The same request on a target that is known by now, kept for the stages to come."""
    found = replace(request, target=target)
    state.write_request(found)
    return found
