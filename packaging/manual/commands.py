"""What the pages of the commands say: the help of the program, in the sections of a manual."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from manual.blocks import (
    Block,
    Code,
    Definitions,
    Heading,
    Paragraph,
    Span,
    Style,
    Text,
    plain,
)
from manual.markdown import inline

_AS_IT_IS = "\b"
"""Begins a paragraph that click does not fill."""
_SECTIONS = {"Exit codes:": "EXIT STATUS"}
"""Lists of the help that have a section of their own in a manual."""
_ROW = re.compile(r" *(\S+)  +(\S.*)")
_METAVAR = re.compile(r"(--?[\w-]+)")


@dataclass(frozen=True, slots=True)
class Command:
    """A command that can be run, with the words that lead to it."""

    words: Sequence[str]
    context: click.Context

    @property
    def page(self) -> str:
        """Name of its page."""
        return "-".join(self.words)

    @property
    def summary(self) -> str:
        """What it does, for the line below NAME."""
        words = self.context.command.get_short_help_str(limit=1000).rstrip(".")
        summary = plain(inline(words))
        return summary[:1].lower() + summary[1:]


def commands(main: click.Command, program: str) -> list[Command]:
    """Return the program and then its commands; a group's own commands stand for it."""
    context = click.Context(main, info_name=program, **main.context_settings)
    return [Command((program,), context), *_below(context, (program,))]


def page_of(command: Command, others: Sequence[Command], documents: Sequence[str]) -> list[Block]:
    """Return the blocks of a command's page; the program's own names all others."""
    help_text, sections = _help(command.context.command)
    blocks: list[Block] = [
        Heading(1, [Span("NAME")]),
        name_line(command.page, command.summary),
        Heading(1, [Span("SYNOPSIS")]),
        Paragraph(_usage(command)),
        Heading(1, [Span("DESCRIPTION")]),
        *help_text,
    ]
    program, is_program = others[0], command is others[0]
    if is_program:
        entries = [
            (_reference(each.page, 1), [Paragraph(inline(each.summary))]) for each in others[1:]
        ]
        blocks += [Heading(1, [Span("COMMANDS")]), Definitions(entries)]
    blocks += [Heading(1, [Span("OPTIONS")]), Definitions(list(_options(command.context)))]
    blocks += sections
    related = [] if is_program else [_reference(program.page, 1)]
    related += [_reference(*name.rsplit(".", 1)) for name in documents]
    return [*blocks, *see_also(related)]


def name_line(name: str, summary: str) -> Paragraph:
    """Return the line below NAME, which apropos(1) reads: its dash has to be a minus."""
    return Paragraph([Span(name), Span(" "), Span("-", Style.BOLD), Span(f" {summary}")])


def see_also(references: Sequence[Text]) -> list[Block]:
    """Return the section that names other pages."""
    if not references:
        return []
    spans = [span for reference in references for span in (*reference, Span(", "))]
    return [Heading(1, [Span("SEE ALSO")]), Paragraph(spans[:-1])]


def _reference(page: str, section: int | str) -> list[Span]:
    return [Span(page, Style.BOLD), Span(f"({section})")]


def _below(parent: click.Context, words: Sequence[str]) -> Iterator[Command]:
    if not isinstance(parent.command, click.Group):
        return
    for name in parent.command.list_commands(parent):
        command = parent.command.get_command(parent, name)
        assert command is not None
        if command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
        if isinstance(command, click.Group):
            yield from _below(context, (*words, name))
        else:
            yield Command((*words, name), context)


def _usage(command: Command) -> list[Span]:
    spans = [Span(" ".join(command.words), Style.BOLD)]
    for piece in command.context.command.collect_usage_pieces(command.context):
        spans += (Span(" "), Span(piece, Style.ITALIC))
    return spans


def _help(command: click.Command) -> tuple[list[Block], list[Block]]:
    """Return what belongs below DESCRIPTION, and the sections after the options."""
    description: list[Block] = []
    sections: list[Block] = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        lines = part.splitlines()
        if lines and lines[0] == _AS_IT_IS:
            heading, *rows = lines[1:]
            found = [_ROW.fullmatch(row) for row in rows]
            if heading in _SECTIONS and all(found):
                entries = [
                    ([Span(row[1], Style.BOLD)], [Paragraph(inline(row[2]))])
                    for row in found
                    if row
                ]
                sections += [Heading(1, [Span(_SECTIONS[heading])]), Definitions(entries)]
            else:
                description.append(Code(lines[1:]))
        elif lines and all(line.startswith("    ") for line in lines):
            description.append(Code([line[4:] for line in lines]))
        else:
            description.append(Paragraph(inline(part)))
    return description, sections


def _options(context: click.Context) -> Iterator[tuple[Text, Sequence[Block]]]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or not isinstance(parameter, click.Option):
            continue
        # Two spaces stand before what click itself adds to a help text: the default.
        text, _, extra = record[1].partition("  ")
        said: list[Block] = [Paragraph(inline(text))] if text else []
        if extra:
            said = [Paragraph(inline(f"{text} {extra}".strip()))]
        yield _declaration(record[0]), said


def _declaration(declared: str) -> list[Span]:
    """`-j, --jobs N` with the names in bold and the value in italics."""
    spans = []
    for part in _METAVAR.split(declared):
        style = Style.BOLD if part.startswith("-") else Style.PLAIN
        for piece in re.split(r"([\w.|\[\]]+)", part) if style is Style.PLAIN else (part,):
            is_value = style is Style.PLAIN and piece.strip(", ")
            spans.append(Span(piece, Style.ITALIC if is_value else style))
    return [span for span in spans if span.text]
