r"""Syntax of unit files, as podman's generator reads them: text in, assignments out.

A line is stripped of white space first. ``#`` and ``;`` start a comment at the beginning of a line
and nowhere else. A line that ends in ``\`` goes on in the next one; comments and empty lines
between the two are ignored. Sections may come again and keys may be repeated.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from installer_plugin.errors import DataError

WHITESPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What Go and Rust strip from a line; Python's own idea of white space has four characters more."""
_ASCII_WHITESPACE = "\t\n\v\f\r "


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One ``Key=value`` and where it stands."""

    section: str
    key: str
    value: str
    """As written, continuation lines joined, white space around it gone; quotes are kept."""
    path: str
    line: int
    """First line of the assignment, from 1."""
    lines: int = 1
    """Lines that it takes, comments between continuation lines included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a unit file says, or several files merged in the order in which they apply."""

    path: str
    assignments: tuple[Assignment, ...]
    unfinished: tuple[str, ...] = ()
    """``file:line`` of lines that end in a backslash with nothing after it: they are dropped."""

    def last(self, section: str, key: str) -> Assignment | None:
        """The assignment that counts for a key with one value."""
        for assignment in reversed(self.assignments):
            if (assignment.section, assignment.key) == (section, key):
                return assignment
        return None

    def all(self, section: str, key: str) -> tuple[Assignment, ...]:
        """The assignments that count for a key with many values: an empty one starts again."""
        found: list[Assignment] = []
        for assignment in self.assignments:
            if (assignment.section, assignment.key) == (section, key):
                if assignment.value:
                    found.append(assignment)
                else:
                    found.clear()
        return tuple(found)

    def merged(self, drop_ins: Sequence[Unit]) -> Unit:
        """This unit with *drop_ins* applied, in order."""
        files = (self, *drop_ins)
        return Unit(
            path=self.path,
            assignments=tuple(a for file in files for a in file.assignments),
            unfinished=tuple(place for file in files for place in file.unfinished),
        )


@dataclass(frozen=True, slots=True)
class _Line:
    """A line after its continuation lines were joined to it."""

    text: str
    number: int
    count: int
    finished: bool = True


def parse_unit(text: str, path: str) -> Unit:
    """Read the unit file *text*, named *path*; raises DataError about the first malformed line."""
    assignments: list[Assignment] = []
    unfinished: list[str] = []
    section: str | None = None
    for line in _joined(text):
        if not line.finished:
            unfinished.append(f"{path}:{line.number}")
        elif _is_section(line.text):
            section = _section_name(line, path)
        else:
            assignments.append(_assignment(line, section, path))
    return Unit(path=path, assignments=tuple(assignments), unfinished=tuple(unfinished))


def _joined(text: str) -> Iterator[_Line]:
    lines = text.removesuffix("\n").split("\n")
    pending, start = "", 0
    for number, raw in enumerate(lines, 1):
        line = raw.strip(WHITESPACE)
        if _is_comment(line):
            continue
        if not pending:
            start = number
        if line.endswith("\\"):
            line = line[:-1]
            if number < len(lines):
                pending += line
                continue
        if pending + line:
            yield _Line(pending + line, start, number - start + 1)
        pending = ""
    if pending:
        yield _Line(pending, start, len(lines) - start + 1, finished=False)


def _is_comment(line: str) -> bool:
    return not line or line[0] in "#;"


def _is_section(line: str) -> bool:
    """``[name]`` alone; with anything else behind it the line is not a section header."""
    _, bracket, rest = line.partition("]")
    return line.startswith("[") and bool(bracket) and not rest.strip(" \t")


def _section_name(line: _Line, path: str) -> str:
    name = line.text[1:].partition("]")[0]
    if not name or "[" in name or any(unicodedata.category(char) == "Cc" for char in name):
        raise _malformed(line, path, "is not a section header, expected [Name]")
    return name


def _assignment(line: _Line, section: str | None, path: str) -> Assignment:
    key, equals, value = line.text.partition("=")
    key = key.rstrip(_ASCII_WHITESPACE)
    if not equals or not key:
        raise _malformed(
            line, path, "is not an assignment, expected Key=value, [Section] or a comment"
        )
    if section is None:
        raise _malformed(line, path, "stands before any section, expected [Section] first")
    return Assignment(
        section=section,
        key=key,
        value=value.lstrip(_ASCII_WHITESPACE).rstrip(WHITESPACE),
        path=path,
        line=line.number,
        lines=line.count,
    )


def _malformed(line: _Line, path: str, message: str) -> DataError:
    shown = line.text if len(line.text) <= 60 else line.text[:60] + "..."
    return DataError(f"{path}:{line.number}", f"{shown!r} {message}")
