"""What a phase will do: our stages and everybody's hooks in one order, with who overrides whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import HostError, Problem
from installer_plugin.files.rootfs import printable
from installer_plugin.hooks.directories import Entry, Listing, list_phase
from installer_plugin.hooks.phases import OUR_STAGES, VERIFY_STAGE, Phase

BUILT_IN = "built in"
UNSAFE_OPTION = "--unsafe-skip-verify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One name in the order of a phase."""

    phase: Phase
    name: str
    """``NN-name``."""
    file: Path | None
    """The hook, or the link that masks the name; None for a stage of our own."""
    masked: bool = False
    """Whether nothing runs under this name."""
    overrides: tuple[str, ...] = ()
    """What would run instead if *file* were not there, by precedence: files, BUILT_IN."""
    problems: tuple[Problem, ...] = ()
    """Why it may not be used."""

    @property
    def is_ours(self) -> bool:
        """Whether one of our stages has this name, overridden or not."""
        return self.file is None or BUILT_IN in self.overrides

    @property
    def deed(self) -> str:
        """What *file* does to what it overrides."""
        return "masked" if self.masked else "replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlan:
    """Everything that a phase will do, in order."""

    phase: Phase
    hooks: tuple[Planned, ...]
    ignored: tuple[Path, ...]
    """Files in its directories whose names are not of the form ``NN-name``."""
    problems: tuple[Problem, ...]
    """Why the phase will fail before its first hook; those of its hooks are among them."""

    @property
    def unproven_by(self) -> Planned | None:
        """The hook or mask that stands in the place of verification, if there is one."""
        if self.phase is not Phase.VERIFY:
            return None
        return next((each for each in self.hooks if each.name == VERIFY_STAGE and each.file), None)


def plan(
    directories: Sequence[Path], phase: Phase, *, unsafe_skip_verify: bool = False
) -> PhasePlan:
    """Read what *directories*, the one that precedes first, hold for *phase*.

    Nothing is raised: what forbids the phase is in the plan, see :func:`require_allowed`.
    """
    listings = [list_phase(directory, phase) for directory in directories]
    found: dict[str, list[Entry]] = {name: [] for name in OUR_STAGES[phase]}
    for listing in listings:
        for entry in listing.entries:
            found.setdefault(entry.file.name, []).append(entry)
    hooks = tuple(_planned(phase, name, found[name]) for name in sorted(found))
    result = PhasePlan(
        phase=phase,
        hooks=hooks,
        ignored=tuple(path for listing in listings for path in listing.ignored),
        problems=_problems(listings, hooks),
    )
    instead = result.unproven_by
    if instead is None or unsafe_skip_verify:
        return result
    refused = (*result.problems, _verification_must_stay(instead))
    return PhasePlan(phase=phase, hooks=hooks, ignored=result.ignored, problems=refused)


def plans(
    directories: Sequence[Path], *, unsafe_skip_verify: bool = False
) -> Mapping[Phase, PhasePlan]:
    """The plans of all phases."""
    return {
        phase: plan(directories, phase, unsafe_skip_verify=unsafe_skip_verify) for phase in Phase
    }


def require_allowed(*phase_plans: PhasePlan) -> None:
    """Raise HostError with everything that forbids *phase_plans*; for all of them before the first."""
    problems = dict.fromkeys(problem for each in phase_plans for problem in each.problems)
    if problems:
        raise HostError(*problems)


def _planned(phase: Phase, name: str, entries: Sequence[Entry]) -> Planned:
    ours = (BUILT_IN,) if name in OUR_STAGES[phase] else ()
    if not entries:
        return Planned(phase=phase, name=name, file=None)
    first, *others = entries
    return Planned(
        phase=phase,
        name=name,
        file=first.file,
        masked=first.masks,
        overrides=(*(str(other.file) for other in others), *ours),
        problems=first.problems,
    )


def _problems(listings: Sequence[Listing], hooks: Sequence[Planned]) -> tuple[Problem, ...]:
    """Each once: a directory's problems are those of its hooks too."""
    folders = (problem for listing in listings for problem in listing.problems)
    own = (problem for hook in hooks for problem in hook.problems)
    return tuple(dict.fromkeys((*folders, *own)))


def _verification_must_stay(instead: Planned) -> Problem:
    return Problem(
        subject=VERIFY_STAGE,
        where=printable(str(instead.file)),
        message=f"is {instead.deed}, so that nothing would prove what is on the target",
        hint=f"remove the file, or take the risk with {UNSAFE_OPTION}",
    )
