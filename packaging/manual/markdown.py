"""Reads the Markdown that this project's documents are written in.

That is CommonMark's headings with `#`, paragraphs, fenced code, lists, emphasis, code spans, links and
comments, and GitHub's tables. What else there is (HTML, images, quotes, setext headings) is an error with
its line, so that no page is made which says something else than its source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from manual.blocks import (
    Block,
    Bullets,
    Code,
    Heading,
    Paragraph,
    Span,
    Style,
    Table,
    Text,
)

_HEADING = re.compile(r"(#{1,6}) +(.+?)( +#+)?")
_FENCE = re.compile(r"(`{3,}|~{3,})(.*)")
_ITEM = re.compile(r"(?P<mark>[-*+]|\d{1,9}[.)]) +(?=\S)")
_RULE = re.compile(r"\|?( *:?-+:? *\|)+( *:?-+:? *)?")
_REFUSED = re.compile(r"<[a-zA-Z/!?][^>]*(>|$)|!\[|>|={3,} *$|-{3,} *$|\[[^]]+\]: ")
_INLINE = re.compile(
    r"\\(?P<escaped>[!-/:-@\[-`{-~])"
    r"|(?P<ticks>`+)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)"
    r"|\[(?P<label>(?:[^]\\`]|\\.|`[^`]*`)+)\]\((?P<address>[^)\s]+)\)"
    r"|<(?P<bare>https?://[^>\s]+)>"
    r"|\*\*(?P<bold>(?=\S).+?(?<=\S))\*\*"
    r"|(?<![*\w])\*(?P<italic>(?=[^\s*]).*?(?<=[^\s*]))\*(?!\*)"
    r"|(?<!\w)_(?P<low>(?=[^\s_]).*?(?<=[^\s_]))_(?!\w)",
    re.DOTALL,
)

_EMPHASIS = {"bold": Style.BOLD, "italic": Style.ITALIC, "low": Style.ITALIC}


class MarkdownError(Exception):
    """The document has something that no page can be made of."""


@dataclass(slots=True)
class _Lines:
    """The document's lines, and where reading is."""

    lines: Sequence[str]
    first: int
    at: int = 0

    @property
    def line(self) -> str:
        return self.lines[self.at]

    @property
    def left(self) -> bool:
        return self.at < len(self.lines)

    def refuse(self, message: str) -> MarkdownError:
        return MarkdownError(f"line {self.first + self.at}: {message}: {self.line.strip()}")


def parse(document: str) -> list[Block]:
    """Return the blocks of a document; raises MarkdownError."""
    return list(_blocks(_Lines(document.expandtabs(4).splitlines(), first=1)))


def inline(text: str) -> list[Span]:
    """Return the spans of a paragraph's text; an address that a word leads to is left out."""
    spans: list[Span] = []
    end = 0
    for found in _INLINE.finditer(text):
        spans.append(Span(text[end : found.start()]))
        end = found.end()
        spans += _spans(found)
    spans.append(Span(text[end:]))
    return _joined(spans)


def _spans(found: re.Match[str]) -> Sequence[Span]:
    group = found.lastgroup or ""
    text = found[group]
    if group in _EMPHASIS:
        return _styled(inline(text), _EMPHASIS[group])
    if group == "address":
        return _link(inline(found["label"]), text)
    literal = {"escaped": Style.PLAIN, "code": Style.CODE, "bare": Style.ITALIC}[group]
    return [Span(_code(text) if literal is Style.CODE else text, literal)]


def _link(label: Sequence[Span], address: str) -> Sequence[Span]:
    if address.startswith(("http://", "https://")):
        return (*label, Span(" ("), Span(address, Style.ITALIC), Span(")"))
    return label  # another document or section: the reader of a page has no such files


def _code(code: str) -> str:
    """One space at both ends is there for backticks inside (CommonMark 6.1)."""
    code = code.replace("\n", " ")
    padded = code.startswith(" ") and code.endswith(" ") and code.strip()
    return code[1:-1] if padded else code


def _styled(spans: Sequence[Span], style: Style) -> Sequence[Span]:
    return [Span(s.text, style if s.style is Style.PLAIN else s.style) for s in spans]


def _joined(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].style is span.style:
            joined[-1] = Span(joined[-1].text + span.text, span.style)
        elif span.text:
            joined.append(span)
    return joined


def _blocks(lines: _Lines) -> Iterator[Block]:
    while lines.left:
        if not lines.line.strip():
            lines.at += 1
        elif lines.line.lstrip().startswith("<!--"):
            _skip_comment(lines)
        elif found := _HEADING.fullmatch(lines.line.rstrip()):
            lines.at += 1
            yield Heading(len(found[1]), inline(found[2]))
        elif found := _FENCE.match(lines.line.lstrip()):
            yield _fenced(lines, found[1])
        elif _ITEM.match(lines.line):
            yield _list(lines)
        elif lines.line.lstrip().startswith("|"):
            yield _table(lines)
        else:
            yield _paragraph(lines)


def _skip_comment(lines: _Lines) -> None:
    begin = lines.at
    while lines.left and "-->" not in lines.line:
        lines.at += 1
    if not lines.left or not lines.line.rstrip().endswith("-->"):
        lines.at = begin
        raise lines.refuse("a comment has to end, with its line")
    lines.at += 1


def _fenced(lines: _Lines, fence: str) -> Code:
    margin = len(lines.line) - len(lines.line.lstrip())
    begin = lines.at
    lines.at += 1
    while lines.left and not lines.line.strip().startswith(fence):
        lines.at += 1
    if not lines.left:
        lines.at = begin
        raise lines.refuse("this fence is never closed")
    lines.at += 1
    inner = lines.lines[begin + 1 : lines.at - 1]
    return Code([line[min(margin, len(line) - len(line.lstrip())) :] for line in inner])


def _list(lines: _Lines) -> Bullets:
    numbered = lines.line[0].isdigit()
    entries: list[list[Block]] = []
    while lines.left and (found := _ITEM.match(lines.line)):
        if found["mark"][0].isdigit() is not numbered:
            break
        entries.append(_entry(lines, len(found[0])))
    return Bullets(entries, numbered)


def _entry(lines: _Lines, width: int) -> list[Block]:
    """Read one entry: its first line, and the lines after it that are indented as its text is."""
    begin = lines.at
    inner = [lines.line[width:]]
    lines.at += 1
    while lines.left:
        line = lines.line
        indented = line.startswith(" " * width)
        lazy = bool(inner[-1].strip()) and bool(line.strip()) and not _begins_block(line)
        if line.strip() and not (indented or lazy):
            break
        inner.append(line[width:] if indented else line.strip())
        lines.at += 1
    return list(_blocks(_Lines(inner, first=lines.first + begin)))


def _begins_block(line: str) -> bool:
    stripped = line.lstrip()
    return bool(
        _HEADING.fullmatch(line.rstrip()) or _FENCE.match(stripped) or _ITEM.match(stripped)
    ) or stripped.startswith("|")


def _table(lines: _Lines) -> Table:
    rows: list[list[Text]] = []
    if lines.at + 1 >= len(lines.lines) or not _RULE.fullmatch(lines.lines[lines.at + 1].strip()):
        raise lines.refuse("a table needs a line of dashes below its head")
    width = len(_cells(lines.line))
    while lines.left and lines.line.lstrip().startswith("|"):
        if not _RULE.fullmatch(lines.line.strip()):
            cells = [inline(cell) for cell in _cells(lines.line)]
            if len(cells) != width:
                raise lines.refuse(f"this row has {len(cells)} cells, the head has {width}")
            rows.append(list(cells))
        lines.at += 1
    return Table(rows[0], rows[1:])


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    cells = re.split(r"(?<!\\)\|", inner)
    # GitHub takes the backslash away from an escaped bar before anything else, also in code.
    return [
        cell.replace(r"\|", "|").strip() for cell in cells[: -1 if not cells[-1].strip() else None]
    ]


def _paragraph(lines: _Lines) -> Paragraph:
    found: list[str] = []
    while lines.left and lines.line.strip() and not (found and _begins_block(lines.line)):
        if _REFUSED.match(lines.line.strip()) and not _INLINE.match(lines.line.strip()):
            raise lines.refuse("no page can be made of this")
        found.append(lines.line.strip())
        lines.at += 1
    return Paragraph(inline("\n".join(found)))
