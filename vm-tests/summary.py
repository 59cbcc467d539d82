"""The table of what was proven, and how long each step took."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scene import Step

COLUMNS = 80
_INDENT = " " * 12
_KEEP = "\N{NO-BREAK SPACE}"
"""Where lines are not to be broken, until they are."""


@dataclass(frozen=True, slots=True)
class Told:
    """One case."""

    name: str
    about: str
    seconds: float
    steps: Sequence[Step]


def prepared_lines(steps: Sequence[Step]) -> Iterator[str]:
    """What all cases needed."""
    if steps:
        yield "\nprepared:"
    for step in steps:
        yield from _line(step.seconds, step.what)


def case_lines(title: str, cases: Sequence[Told]) -> Iterator[str]:
    """What was proven, or was not; cases that took steps of their own say which."""
    if cases:
        yield f"\n{title}"
    for case in cases:
        yield from _line(case.seconds, case.about)
        told = (f"{step.what} {step.seconds:.0f} s" for step in case.steps)
        steps = ", ".join(step.replace(" ", _KEEP) for step in told)
        yield from _wrapped(f"{_INDENT}{case.name}: {steps}" if steps else f"{_INDENT}{case.name}")


def left_out_lines(reasons: Mapping[str, str]) -> Iterator[str]:
    """Cases that were not run, and why."""
    if reasons:
        yield "\nleft out with bootc itself:"
    for name, reason in reasons.items():
        yield from _wrapped(f"  {name}: {reason}")


def _line(seconds: float, text: str) -> Iterator[str]:
    yield from _wrapped(f"  {seconds:6.1f} s  {text}")


def _wrapped(text: str) -> Iterator[str]:
    lines = textwrap.wrap(
        text, COLUMNS, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )
    yield from (line.replace(_KEEP, " ") for line in lines)
