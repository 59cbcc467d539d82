"""Running single stages in their order, for a runner of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from installer_plugin.fields import Json
from installer_plugin.hooks.phases import OUR_STAGES
from installer_plugin.hooks.plan import PhasePlan
from installer_plugin.pipeline import DOING, Stage
from installer_plugin.request import Context, Request, Work
from installer_plugin.state import codec
from installer_plugin.state.job import Job, Staged, out_of_order
from installer_plugin.state.single_stages import STAGES
from installer_plugin.state.state_directory import StateDirectory


def run_stage(
    stage: Stage, state: StateDirectory, context: Context, *, own: bool = False
) -> Staged:
    """Run *stage* on the request in *state* and keep what it finds out.

    *own*: the directory is of this run, in one process or several, and what it holds needs no second
    look. Raises ConfigError when a stage before it has not run, and what the stage raises.
    """
    request = state.read_request()
    if request is None:
        raise out_of_order(stage, Stage.DISCOVER)
    _require_order(stage, state, request)
    state.forget(stage)
    job = Job(state, Work(request, context), own=own)
    if request.dry_run and stage in DOING:
        if stage is Stage.COPY:
            return STAGES[stage](job)
        text = f"dry run: stage {stage} has done nothing"
        return Staged(text, job.document(stage, []))
    done = STAGES[stage](job)
    state.write(stage, done.document)
    return done


def _require_order(stage: Stage, state: StateDirectory, request: Request) -> None:
    """The stage before has run, or a hook stands in for it; a dry run leaves no trace of some."""
    before = stage.before
    if request.dry_run and before in DOING:
        before = Stage.PREFLIGHT
    if before and not (state.has(before) or before in state.overridden()):
        raise out_of_order(stage, before)


def stage_calls(state: StateDirectory, context: Context) -> Mapping[str, Callable[[], None]]:
    """Our stages by their place in the order of hooks, to be run with the hooks around them."""

    def call(stage: Stage) -> Callable[[], None]:
        def run() -> None:
            run_stage(stage, state, context, own=True)

        return run

    return {name: call(_stage_of(name)) for names in OUR_STAGES.values() for name in names}


def note_overridden(state: StateDirectory, plans: Sequence[PhasePlan]) -> None:
    """Tell the stages which of them hooks stand in for, so that none waits for those."""
    overriding = {
        _stage_of(each.name): each.file
        for plan in plans
        for each in plan.hooks
        if each.is_ours and each.file is not None
    }
    state.write_overridden(overriding)


def hook_state(state: StateDirectory) -> Json:
    """What is known so far, for hooks; what is not known yet is null."""
    request = state.read_request()

    def images(stage: Stage) -> object:
        return state.read(stage).data.get("images") if state.has(stage) else None

    return {
        "request": codec.request_json(request) if request else None,
        "bound": images(Stage.DISCOVER),
        "resolved": images(Stage.RESOLVE),
        "copied": images(Stage.COPY),
        "verified": images(Stage.VERIFY),
    }


def _stage_of(name: str) -> Stage:
    return Stage(name.partition("-")[2])
