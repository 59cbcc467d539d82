"""Which man pages there are, and what each is made of."""

from __future__ import annotations

import time as clock
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.cli.program import program
from manual.blocks import Block, Heading, Span, Style
from manual.commands import commands, name_line, page_of, see_also
from manual.markdown import MarkdownError, parse
from manual.roff import Title, page

PROGRAM = "bootc-bound-images"
MANUALS = {1: "User Commands", 5: "File Formats", 7: "Miscellanea"}


@dataclass(frozen=True, slots=True)
class Document:
    """A page that is made of a Markdown document."""

    name: str
    section: int
    summary: str
    source: str


DOCUMENTS = (
    Document(f"{PROGRAM}-hooks", 7, "programs that run during an installation", "hooks/README.md"),
    Document(
        f"{PROGRAM}-formats", 5, "documents and files that are read and written", "docs/formats.md"
    ),
)


@dataclass(frozen=True, slots=True)
class Page:
    """The source of a man page."""

    name: str
    section: int
    text: str


def pages(root: Path, version: str, time: int) -> list[Page]:
    """Make all pages of a tree; *time*, in seconds, is what they are dated with."""
    date = clock.strftime("%Y-%m-%d", clock.gmtime(time))
    there = [document for document in DOCUMENTS if source_of(root, document)]
    all_commands = commands(program, PROGRAM)
    made = [
        (c.page, 1, page_of(c, all_commands, [f"{d.name}.{d.section}" for d in there]))
        for c in all_commands
    ] + [(d.name, d.section, _document(root, d)) for d in there]
    return [
        Page(name, section, page(_title(name, section, date, version), blocks))
        for name, section, blocks in made
    ]


def source_of(root: Path, document: Document) -> Path | None:
    """Return the file that a page is made of, None where it is not there."""
    file = root / document.source
    return file if file.is_file() else None


def _title(name: str, section: int, date: str, version: str) -> Title:
    return Title(
        name=name,
        section=section,
        date=date,
        version=version.partition("+")[0],
        manual=MANUALS[section],
    )


def _document(root: Path, document: Document) -> list[Block]:
    """Return a document's blocks as sections; its own heading gives way to NAME."""
    source = source_of(root, document)
    assert source is not None
    try:
        blocks = parse(source.read_text(encoding="utf-8"))
    except MarkdownError as error:
        raise MarkdownError(f"{source}: {error}") from error
    body = blocks[1:] if blocks and isinstance(blocks[0], Heading) else blocks
    first = body and not isinstance(body[0], Heading)
    return [
        Heading(1, [Span("NAME")]),
        name_line(document.name, document.summary),
        *([Heading(1, [Span("DESCRIPTION")])] if first else []),
        *(_section(block) for block in body),
        *see_also([[Span(PROGRAM), Span("(1)")]]),
    ]


def _section(block: Block) -> Block:
    if isinstance(block, Heading) and block.level <= 2:
        # Capitals, as the sections of a manual have; what is typed keeps its own.
        text = [s if s.style is Style.CODE else Span(s.text.upper(), s.style) for s in block.text]
        return Heading(block.level, text)
    return block
