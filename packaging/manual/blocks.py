"""What a page consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Style(Enum):
    """How a run of text looks."""

    PLAIN = "plain"
    BOLD = "bold"
    ITALIC = "italic"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text in one style."""

    text: str
    style: Style = Style.PLAIN


Text = Sequence[Span]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the document's own."""

    level: int
    text: Text


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text that is filled."""

    text: Text


@dataclass(frozen=True, slots=True)
class Code:
    """Lines that stay as they are."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list: what is in each entry, and its number, or none."""

    entries: Sequence[Sequence[Block]]
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Definitions:
    """Tags with text below each."""

    entries: Sequence[tuple[Text, Sequence[Block]]]


@dataclass(frozen=True, slots=True)
class Table:
    """A head and rows of as many cells."""

    head: Sequence[Text]
    rows: Sequence[Sequence[Text]]


Block = Heading | Paragraph | Code | Bullets | Definitions | Table


def plain(text: Text) -> str:
    """Return text without its styles."""
    return "".join(span.text for span in text)
