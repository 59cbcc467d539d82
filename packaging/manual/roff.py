"""Writes blocks as the source of a man page, with the macros of man(7) and tables of tbl(7)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from manual.blocks import (
    Block,
    Bullets,
    Code,
    Definitions,
    Heading,
    Paragraph,
    Style,
    Table,
    Text,
    plain,
)

_WIDTH = 76
"""Of a source line: longer ones are valid, and a blemish to linters."""
_FONTS = {Style.PLAIN: "", Style.BOLD: r"\fB", Style.ITALIC: r"\fI", Style.CODE: r"\fB"}
_ESCAPES = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
_TERM_WIDTH = 24
"""A tag up to this width has its text beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Title:
    """The head of a page."""

    name: str
    section: int
    date: str
    """YYYY-MM-DD."""
    version: str
    manual: str
    """What the page belongs to, at its top."""


def page(title: Title, blocks: Sequence[Block]) -> str:
    """Return a page's source."""
    tables = any(isinstance(block, Table) for block in _deep(blocks))
    quoted = (title.date, f"bootc-bound-images {title.version}", title.manual)
    head = f".TH {title.name.upper()} {title.section} " + " ".join(f'"{q}"' for q in quoted)
    # Lines that are justified, or broken inside an option, are hard to read and to copy.
    # The first line tells man which preprocessors the page needs.
    lines = [*(["'\\\" t"] if tables else []), head, ".nh", ".ad l", *_lines(blocks)]
    return "\n".join(lines) + "\n"


def styled(text: Text) -> str:
    """Return text with its fonts, on one line."""
    parts = []
    for span in text:
        literal = span.style is not Style.PLAIN
        escaped = escape(span.text, literal=literal)
        font = _FONTS[span.style]
        parts.append(f"{font}{escaped}\\fR" if font else escaped)
    return "".join(parts)


def escape(text: str, *, literal: bool) -> str:
    r"""Return text that roff prints as it is; in literal text a dash is a minus, as options need."""
    escaped = "".join(
        _ESCAPES.get(char, char) if literal or char in "\\`^~" else char for char in text
    )
    return "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in escaped)


def _deep(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        match block:
            case Bullets(entries=entries):
                for entry in entries:
                    yield from _deep(entry)
            case Definitions(entries=entries):
                for _, entry in entries:
                    yield from _deep(entry)
            case _:
                pass


def _lines(blocks: Sequence[Block]) -> Iterator[str]:
    for index, block in enumerate(blocks):
        # A heading makes its own space; mandoc calls a paragraph right after it superfluous.
        first = index == 0 or isinstance(blocks[index - 1], Heading)
        match block:
            case Heading(level=level, text=text):
                yield f".{'SH' if level <= 2 else 'SS'} {_argument(text)}"
            case Paragraph(text=text):
                yield from () if first else (".PP",)
                yield from _filled(text)
            case Code(lines=lines):
                yield from _code(lines, first=first)
            case Bullets():
                yield from _bullets(block)
            case Definitions(entries=entries):
                yield from _definitions(entries)
            case Table():
                yield from _table(block)


def _argument(text: Text) -> str:
    return '"' + escape(plain(text), literal=False).replace('"', r"\(dq") + '"'


def _filled(text: Text) -> Iterator[str]:
    """Yield source lines of text; a break in it is where a line ends, a word of roff never begins one."""
    for line in textwrap.wrap(styled(text), _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield _safe(line)


def _safe(line: str) -> str:
    return rf"\&{line}" if line.startswith((".", "'")) else line


def _code(lines: Sequence[str], *, first: bool) -> Iterator[str]:
    yield from () if first else (".PP",)
    yield from (".RS 4", ".nf")
    for line in lines:
        yield _safe(escape(line.rstrip(), literal=True)) if line.strip() else r"\&"
    yield from (".fi", ".RE")


def _bullets(block: Bullets) -> Iterator[str]:
    for number, entry in enumerate(block.entries, 1):
        yield f'.IP "{number}." 4' if block.numbered else r".IP \(bu 3"
        yield from _inner(entry)


def _definitions(entries: Sequence[tuple[Text, Sequence[Block]]]) -> Iterator[str]:
    for tag, entry in entries:
        yield ".TP"
        yield _safe(styled(tag))
        yield from _inner(entry)


def _inner(entry: Sequence[Block]) -> Iterator[str]:
    """Yield what is in an entry of a list: the first paragraph beside its tag, the rest below."""
    if not entry:
        yield r"\&"
        return
    match entry[0]:
        case Paragraph(text=text):
            yield from _filled(text)
            rest = entry[1:]
        case _:
            yield r"\&"
            rest = entry
    if rest:
        yield ".RS"
        yield from _lines([Paragraph([]), *rest] if _is_text(rest[0]) else rest)
        yield ".RE"


def _is_text(block: Block) -> bool:
    return isinstance(block, Paragraph | Code)


def _table(table: Table) -> Iterator[str]:
    """Yield a table: two columns as tags with text, which reads better, more of them by tbl(7)."""
    if len(table.head) == 2:
        yield from _definitions([(row[0], [Paragraph(row[1])]) for row in table.rows])
        return
    yield from (".PP", ".TS", "tab(@);")
    widths = [
        max(len(plain(row[i])) for row in (table.head, *table.rows)) for i in range(len(table.head))
    ]
    yield " ".join("lb" for _ in widths)
    yield " ".join(_column(width) for width in widths) + "."
    yield "@".join(_cell(cell, widths[i]) for i, cell in enumerate(table.head))
    for row in table.rows:
        yield "@".join(_cell(cell, widths[i]) for i, cell in enumerate(row))
    yield ".TE"


def _column(width: int) -> str:
    return "l" if width <= _TERM_WIDTH else "lx"


def _cell(cell: Text, width: int) -> str:
    """Return a cell; one of a wide column is a block that is filled."""
    if width <= _TERM_WIDTH:
        return styled(cell)
    return "T{\n" + "\n".join(_filled(cell)) + "\nT}"
