"""What a stage in a process of its own works on, and what it takes over from the stages before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from installer_plugin.errors import ConfigError, PreflightError, Problem
from installer_plugin.fields import Fields, Json
from installer_plugin.image_json import parse_bound, parse_copied, parse_resolved
from installer_plugin.model import CopiedImage, ResolvedImage
from installer_plugin.opening import require_target
from installer_plugin.pipeline import Stage
from installer_plugin.request import Work
from installer_plugin.stages import report
from installer_plugin.stages.discover import Discovered
from installer_plugin.stages.resolve import Resolution
from installer_plugin.state.state_directory import StateDirectory, damaged_is_an_error
from installer_plugin.steps import Known
from installer_plugin.storage.store.target_store import TargetStore

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Staged:
    """What a stage has to say when it is done."""

    text: str
    document: Json


@dataclass(frozen=True, slots=True)
class Job:
    """One stage's work, and the directory in which stages keep what they know."""

    state: StateDirectory
    work: Work
    own: bool = False
    """Whether the directory is this run's own: what is in it is known, and not only approved."""

    def document(self, stage: Stage, images: Sequence[Json], **fields: object) -> Json:
        """The document of *stage*; kept in the state directory, and shown."""
        source = self.work.request.source
        return report.document(f"stage-{stage}", source, images=list(images), **fields)

    def target(self, stage: Stage) -> TargetStore:
        """The target store; raises ConfigError when no target was named."""
        if self.work.request.target is None:
            raise ConfigError.of(
                f"stage {stage}",
                "needs a target, and no stage so far was given one",
                hint="give --target DIR, where the target's root file system is mounted",
            )
        return require_target(self.work.request)

    def known(self) -> Known:
        """What the stages before have found out, as far as that need not be looked at again.

        In a directory of somebody else's run that is what was done to the target. The source may have
        changed meanwhile: it is read again, and held to what was approved.
        """
        known = Known(
            discovered=self._discovered() if self.own else None,
            resolution=self._resolution() if self.own else None,
            whole=self.state.whole() if self.own else {},
        )
        if not self.state.has(Stage.COPY):
            return known
        return replace(
            known,
            copied=tuple(self._parsed(Stage.COPY, parse_copied)),
            tools=self._tools(),
        )

    def _discovered(self) -> Discovered | None:
        if not self.state.has(Stage.DISCOVER):
            return None
        images = tuple(self._parsed(Stage.DISCOVER, parse_bound))
        return Discovered(images=images, problems=(), declared=bool(images))

    def _resolution(self) -> Resolution | None:
        if self.planned is None:
            return None
        return Resolution(self._resolved(self.planned), ())

    @property
    def planned(self) -> Stage | None:
        """The last stage that has looked at the images before they were copied."""
        stages = (Stage.PREFLIGHT, Stage.RESOLVE)
        return next((stage for stage in stages if self.state.has(stage)), None)

    def _resolved(self, stage: Stage) -> tuple[ResolvedImage, ...]:
        return tuple(self._parsed(stage, parse_resolved))

    def copied_by_hook(self) -> tuple[CopiedImage, ...]:
        """What a hook that stands in for stage copy was to copy; raises ConfigError.

        Nobody has looked at the store before the hook: all of it counts as having been there, so that
        nothing is removed that is not this run's.
        """
        if self.planned is None:
            raise out_of_order(Stage.VERIFY, Stage.RESOLVE)
        engine = f"hook {self.state.overridden().get(Stage.COPY, '')}".strip()
        return tuple(
            CopiedImage(resolved=image, engine=engine, already_there=True)
            for image in self._resolved(self.planned)
        )

    def _tools(self) -> Mapping[str, str] | None:
        tools = self.state.read(Stage.COPY).data.get("tools")
        if not isinstance(tools, dict):
            return None
        return {str(name): str(version) for name, version in tools.items()}

    def require_unchanged(self, stage: Stage, images: Sequence[ResolvedImage]) -> None:
        """Compare *images* with those that *stage* has approved; raises PreflightError."""
        if not self.state.has(stage):
            return  # a hook stands in for it
        approved = {image.bound.reference: image.image_id for image in self._resolved(stage)}
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

    def _parsed(self, stage: Stage, parse: Callable[[Fields], Value]) -> Iterator[Value]:
        with damaged_is_an_error():
            yield from map(parse, self.state.read(stage).objects("images"))


def out_of_order(stage: Stage, missing: Stage) -> ConfigError:
    """What to raise when *stage* is to run and *missing* has not."""
    return ConfigError.of(
        f"stage {stage}",
        f"comes after stage {missing}, which has not run on this state directory",
        hint=f"run 'bootc-bound-images stage {missing} --state DIR' first",
    )
