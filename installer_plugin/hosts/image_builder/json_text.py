"""JSON whose text can be changed in places, with every other byte left as it was (pure).

A manifest is what its author signs off and compares; one that was parsed and written again differs in
escapes, number forms and spaces everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = JSONDecoder()
STEP = "    "
"""Indentation of a level where the text does not show its own."""


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place in the text."""

    start: int
    end: int
    """Offset behind its last character."""
    members: dict[str, Node] | None = None
    """Of an object."""
    items: list[Node] | None = None
    """Of an array."""
    scalar: str | int | float | bool | None = None
    """Of anything else."""

    @property
    def text(self) -> str | None:
        """A string's value; None for anything else."""
        return self.scalar if isinstance(self.scalar, str) else None

    def get(self, *keys: str) -> Node | None:
        """What is at these keys, one object below the other; None where it is not."""
        node: Node | None = self
        for key in keys:
            node = node.members.get(key) if node and node.members is not None else None
        return node

    def get_text(self, *keys: str) -> str | None:
        """The string at these keys; None where there is none."""
        node = self.get(*keys)
        return node.text if node else None


@dataclass(frozen=True, slots=True)
class Edit:
    """Text that takes the place of a stretch of the old one; an insertion where *start* is *end*."""

    start: int
    end: int
    text: str


def parse_json(text: str) -> Node:
    """The document in *text*; raises ValueError that says the line and column of what is wrong."""
    try:
        node, end = _value(text, _skip(text, 0))
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    rest = _skip(text, end)
    if rest != len(text):
        raise JSONDecodeError("text behind the document", text, rest)
    return node


def _skip(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _value(text: str, start: int) -> tuple[Node, int]:
    match text[start : start + 1]:
        case "{":
            return _object(text, start)
        case "[":
            return _array(text, start)
        case _:
            try:
                value, end = _DECODER.scan_once(text, start)  # type: ignore[attr-defined]
            except StopIteration as error:
                raise JSONDecodeError("a value is missing", text, start) from error
            return Node(start, end, scalar=value), end


def _object(text: str, start: int) -> tuple[Node, int]:
    members: dict[str, Node] = {}
    place = _skip(text, start + 1)
    if text[place : place + 1] == "}":
        return Node(start, place + 1, members=members), place + 1
    while True:
        if text[place : place + 1] != '"':
            raise JSONDecodeError("a key in double quotes is missing", text, place)
        key, behind = _value(text, place)
        name = key.text or ""
        if name in members:
            raise JSONDecodeError(f"the key {name!r} is there twice", text, place)
        colon = _skip(text, behind)
        if text[colon : colon + 1] != ":":
            raise JSONDecodeError("a colon is missing", text, colon)
        members[name], end = _value(text, _skip(text, colon + 1))
        place, over = _next(text, _skip(text, end), "}")
        if over:
            return Node(start, place, members=members), place


def _array(text: str, start: int) -> tuple[Node, int]:
    items: list[Node] = []
    place = _skip(text, start + 1)
    if text[place : place + 1] == "]":
        return Node(start, place + 1, items=items), place + 1
    while True:
        item, end = _value(text, place)
        items.append(item)
        place, over = _next(text, _skip(text, end), "]")
        if over:
            return Node(start, place, items=items), place


def _next(text: str, place: int, closing: str) -> tuple[int, bool]:
    """Where to go on behind a member, and whether the container is over."""
    match text[place : place + 1]:
        case ",":
            return _skip(text, place + 1), False
        case found if found == closing:
            return place + 1, True
        case _:
            raise JSONDecodeError(f"a comma or {closing!r} is missing", text, place)


def with_members(text: str, node: Node, values: Mapping[str, object]) -> Edit:
    """Add members to the end of an object."""
    style = _style(text, node)
    colon = ":" if style.indent is None else ": "
    lines = [f"{json.dumps(key)}{colon}{style.dump(value)}" for key, value in values.items()]
    return _added(node, list((node.members or {}).values()), lines, style)


def with_items(text: str, node: Node, values: Sequence[object], after: int | None = None) -> Edit:
    """Add items to an array behind the item number *after*, or at its end."""
    style, items = _style(text, node), node.items or []
    before = items if after is None else items[: after + 1]
    return _added(node, before, [style.dump(value) for value in values], style)


def replaced(node: Node, value: object) -> Edit:
    """Another value in the place of a scalar."""
    return Edit(node.start, node.end, json.dumps(value))


@dataclass(frozen=True, slots=True)
class _Style:
    """How the members of a container stand in the text."""

    indent: str | None
    """What their lines begin with; None where all is on one line."""
    closing: str
    """What the line of the closing bracket begins with."""
    step: str

    def dump(self, value: object) -> str:
        """A member of the container."""
        if self.indent is None:
            return json.dumps(value, separators=(",", ":"))
        return json.dumps(value, indent=self.step).replace("\n", f"\n{self.indent}")

    @property
    def before(self) -> str:
        """What stands between members, beside the comma."""
        return "" if self.indent is None else f"\n{self.indent}"


def _style(text: str, node: Node) -> _Style:
    members = node.items if node.members is None else list(node.members.values())
    closing, step = _indent_of(text, node.start), _step(text)
    if members:
        on_lines = "\n" in text[node.start : members[0].start]
        return _Style(_indent_of(text, members[0].start) if on_lines else None, closing, step)
    return _Style(closing + step if "\n" in text.strip() else None, closing, step)


def _added(node: Node, before: Sequence[Node], members: Sequence[str], style: _Style) -> Edit:
    """*members* behind the last of *before*, in the container's own style."""
    new = ",".join(f"{style.before}{member}" for member in members)
    if before:
        return Edit(before[-1].end, before[-1].end, f",{new}")
    opening, end = "{}" if node.members is not None else "[]"
    closing = "" if style.indent is None else f"\n{style.closing}"
    return Edit(node.start, node.end, f"{opening}{new}{closing}{end}")


def _indent_of(text: str, place: int) -> str:
    """The white space that the line of *place* begins with."""
    start = text.rfind("\n", 0, place) + 1
    line = text[start:place]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _step(text: str) -> str:
    """How much deeper each level stands."""
    found = re.match(r"\s*[{\[]\n([ \t]+)", text)
    return found[1] if found else STEP


def spliced(text: str, edits: Sequence[Edit]) -> str:
    """*text* with all *edits* made; those at one place in the order in which they are given.

    Raises RuntimeError for edits that overlap.
    """
    return "".join(_pieces(text, sorted(edits, key=lambda edit: (edit.start, edit.end))))


def _pieces(text: str, edits: Sequence[Edit]) -> Iterator[str]:
    done = 0
    for edit in edits:
        if edit.start < done:
            raise RuntimeError(f"two changes of the same place: {edit}")
        yield text[done : edit.start]
        yield edit.text
        done = edit.end
    yield text[done:]
