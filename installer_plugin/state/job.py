"""What every stage works on, and what it may take over from the stages before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from installer_plugin.errors import ConfigError, DataError, PreflightError, Problem
from installer_plugin.model import CopiedImage, ResolvedImage
from installer_plugin.pipeline import require_target
from installer_plugin.request import Context, Request
from installer_plugin.stages import report
from installer_plugin.state import codec
from installer_plugin.state.codec import Json
from installer_plugin.state.state_directory import Stage, StateDirectory
from installer_plugin.storage.store.target_store import TargetStore

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Staged:
    """What a stage has to say when it is done."""

    text: str
    document: Json


@dataclass(frozen=True, slots=True)
class Job:
    """What every stage is handed."""

    state: StateDirectory
    request: Request
    context: Context

    @property
    def asked(self) -> tuple[Request, Context]:
        """As the recipe's parts want it."""
        return self.request, self.context


def out_of_order(stage: Stage, missing: Stage) -> ConfigError:
    """What to raise when *stage* is to run and *missing* has not."""
    return ConfigError.of(
        f"stage {stage}",
        f"comes after stage {missing}, which has not run on this state directory",
        hint=f"run 'bootc-bound-images stage {missing} --state DIR' first",
    )


def document_of(job: Job, stage: Stage, images: Sequence[Json], **fields: object) -> Json:
    """The document of *stage*; kept in the state directory, and shown."""
    return report.document(f"stage-{stage}", job.request.source, images=list(images), **fields)


def target_of(job: Job, stage: Stage) -> TargetStore:
    """The target store; raises ConfigError when no target was named."""
    if job.request.target is None:
        raise ConfigError.of(
            f"stage {stage}",
            "needs a target, and no stage so far was given one",
            hint="give --target DIR, where the target's root file system is mounted",
        )
    return require_target(job.request)


def copied_images(job: Job) -> tuple[CopiedImage, ...]:
    """What is on the target by now; where a hook has copied, what it was to copy."""
    if job.state.has(Stage.COPY):
        return tuple(_parsed(job, Stage.COPY, codec.parse_copied))
    planned = next((each for each in (Stage.PREFLIGHT, Stage.RESOLVE) if job.state.has(each)), None)
    if planned is None:
        raise out_of_order(Stage.VERIFY, Stage.RESOLVE)
    engine = f"hook {job.state.overridden().get(Stage.COPY, '')}".strip()
    return tuple(
        CopiedImage(resolved=image, engine=engine, already_there=False)
        for image in _parsed(job, planned, codec.parse_resolved)
    )


def _parsed(job: Job, stage: Stage, parse: Callable[[Json], Value]) -> Iterator[Value]:
    try:
        yield from map(parse, codec.objects(job.state.read(stage), "images"))
    except ValueError as error:
        file = job.state.path / f"{stage}.json"
        hint = "begin again with 'bootc-bound-images stage discover'"
        raise ConfigError(
            DataError(str(file), f"is damaged: {error}").problem(hint=hint)
        ) from error


def require_unchanged(job: Job, stage: Stage, images: Sequence[ResolvedImage]) -> None:
    """The images are those that *stage* found; raises PreflightError."""
    if not job.state.has(stage):
        return  # a hook stands in for it
    approved = {
        image.bound.reference: image.image_id for image in _parsed(job, stage, codec.parse_resolved)
    }
    now = {image.bound.reference: image.image_id for image in images}
    problems = [
        Problem(
            subject=reference,
            message=f"is {now.get(reference, 'not declared')} now, "
            f"was {approved.get(reference, 'not declared')} at stage {stage}",
            hint="the source has changed meanwhile: begin again with stage discover",
        )
        for reference in dict.fromkeys((*approved, *now))
        if approved.get(reference) != now.get(reference)
    ]
    if problems:
        raise PreflightError(*problems)
