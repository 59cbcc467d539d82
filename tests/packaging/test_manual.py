"""The man pages: what Markdown is understood, and that a page says what its source says."""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from manual.blocks import (
    Block,
    Bullets,
    Code,
    Definitions,
    Heading,
    Paragraph,
    Span,
    Style,
    Table,
    plain,
)
from manual.commands import commands
from manual.markdown import MarkdownError, inline, parse
from manual.pages import DOCUMENTS, Page, pages, source_of
from manual.roff import Title, page

from installer_plugin.cli.program import program
from tests.support.commands import run
from tests.support.images import REPOSITORY

PAGES = {f"{each.name}.{each.section}": each for each in pages(REPOSITORY, "1.2.3+g01", 86400)}
COMMANDS = commands(program, "bootc-bound-images")
THERE = [document for document in DOCUMENTS if source_of(REPOSITORY, document)]


CODE = Span("x|y", Style.CODE)


def text(words: str) -> list[Span]:
    return [Span(words)]


def p(words: str) -> Paragraph:
    return Paragraph(text(words))


def items(*entries: Sequence[Block]) -> Bullets:
    return Bullets(list(entries))


# --- Markdown --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "spans"),
    [
        ("plain words", [("plain words", "plain")]),
        ("a `code span` here", [("a ", "plain"), ("code span", "code"), (" here", "plain")]),
        ("`` a ` in it ``", [("a ` in it", "code")]),
        ("`over two\nlines`", [("over two lines", "code")]),
        ("`**not bold**`", [("**not bold**", "code")]),
        ("**bold** and *it*", [("bold", "bold"), (" and ", "plain"), ("it", "italic")]),
        ("_it_", [("it", "italic")]),
        ("**bold `code`**", [("bold ", "bold"), ("code", "code")]),
        ("BOUND_IMAGES_STATE", [("BOUND_IMAGES_STATE", "plain")]),
        ("2 * 3 * 4", [("2 * 3 * 4", "plain")]),
        (r"\*as it is\* \`", [("*as it is* `", "plain")]),
        ("[here](docs/x.md#y)", [("here", "plain")]),
        (
            "[there](https://x.example/)",
            [("there (", "plain"), ("https://x.example/", "italic"), (")", "plain")],
        ),
        ("<https://x.example/>", [("https://x.example/", "italic")]),
        ("a < b, x <name> y", [("a < b, x <name> y", "plain")]),
        ("an [index] alone", [("an [index] alone", "plain")]),
    ],
)
def test_inline(source: str, spans: Sequence[tuple[str, str]]) -> None:
    assert inline(source) == [Span(words, Style(style)) for words, style in spans]


@pytest.mark.parametrize(
    ("source", "blocks"),
    [
        ("# A title\n\nIn two\nlines.\n", [Heading(1, text("A title")), p("In two\nlines.")]),
        ("text\n## Next\ntext", [p("text"), Heading(2, text("Next")), p("text")]),
        ("```sh\n# no heading\n\n  x\n```\n", [Code(["# no heading", "", "  x"])]),
        ("~~~\n```\n~~~", [Code(["```"])]),
        (
            "- one\n- two\n  goes on\n* three",
            [items([p("one")], [p("two\ngoes on")], [p("three")])],
        ),
        ("1. one\n2. two", [Bullets([[p("one")], [p("two")]], numbered=True)]),
        (
            "- one\n\n  more\n\n  ```\n  code\n    in\n  ```\n\nafter",
            [items([p("one"), p("more"), Code(["code", "  in"])]), p("after")],
        ),
        ("- one\n  - inner\n- two", [items([p("one"), items([p("inner")])], [p("two")])]),
        ("- one\nlazy", [items([p("one\nlazy")])]),
        (
            "| a | b |\n|---|:-:|\n| 1 | `x\\|y` |\n| | 2 |\n",
            [Table([text("a"), text("b")], [[text("1"), [CODE]], [[], text("2")]])],
        ),
        ("word:\n- one", [p("word:"), items([p("one")])]),
        ("a\n\n<!-- comment -->\nb\n\n<!--\n> too\n-->\n", [p("a"), p("b")]),
        ("-x is not a list\n", [p("-x is not a list")]),
        ("", []),
    ],
)
def test_blocks(source: str, blocks: Sequence[Block]) -> None:
    assert parse(source) == blocks


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x\n\n<b>html</b>", "line 3: .*<b>html</b>"),
        ("<!-- a comment\n\nwithout end", "line 1: a comment has to end"),
        ("<!-- a comment --> and text", "line 1: a comment has to end"),
        ("> quoted", "line 1"),
        ("![image](x.png)", "line 1"),
        ("Title\n=====", "line 2"),
        ("Title\n-----", "line 2"),
        ("[label]: https://x.example/", "line 1"),
        ("- x\n\n  > quoted in a list", "line 3"),
        ("```\nnever closed", "line 1: .*never closed"),
        ("| a | b |\n| 1 | 2 |", "line 1: .*dashes"),
        ("| a | b |\n|---|---|\n| 1 |", "line 3: .*1 cells, the head has 2"),
    ],
)
def test_what_no_page_can_be_made_of_is_refused(source: str, message: str) -> None:
    with pytest.raises(MarkdownError, match=message):
        parse(source)


# --- roff ------------------------------------------------------------------------------------

TITLE = Title(name="x", section=7, date="1970-01-02", version="1", manual="Miscellanea")
DIFFICULT = [
    "'quoted' at the beginning",
    ".TH begins a line",
    r"C:\path\new \fB \(aq",
    "~user ^caret `tick` - minus -- two",
    '"double" and «guillemets» … €',
    "a\n.b\n'c",
]


def shown(source: str, program: Sequence[str], file: Path) -> str:
    """Return a page as it is seen, on one line; so wide that no word is broken."""
    file.write_text(source)
    wide = ("-Owidth=900",) if program[0] == "mandoc" else ()
    seen = run((*program, *wide, file), env={"MANWIDTH": "900", "LC_ALL": "C.UTF-8"}).stdout
    return " ".join(re.sub(".\x08", "", seen).split())


@pytest.mark.real
@pytest.mark.parametrize("program", [("mandoc", "-Tutf8"), ("man", "-l")], ids=lambda p: p[0])
@pytest.mark.parametrize("words", DIFFICULT)
def test_words_are_seen_as_they_are(words: str, program: Sequence[str], tmp_path: Path) -> None:
    code = [Span(words.replace("\n", " "), Style.CODE)]
    blocks: list[Block] = [
        Heading(1, text("NAME")),
        Paragraph(text("x - y")),
        Heading(1, text("ALL")),
        Paragraph(text(words)),
        Code(words.splitlines()),
        Bullets([[Paragraph(text(words)), Code([words.splitlines()[0]])]]),
        Definitions([(code, [Paragraph(text(words))])]),
        Table([text("a"), text("b"), text("c")], [[code, text(words), text("")]]),
    ]
    seen = shown(page(TITLE, blocks), program, tmp_path / "x.7")
    assert seen.count(" ".join(words.split())) >= 5


# --- the pages -------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("name", PAGES)
def test_linter_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(PAGES[name].text)
    assert run(("mandoc", "-Tlint", "-Wall", file)).stdout == ""
    warnings = run(("man", "--warnings=all", "-Tutf8", "-l", file), env={"MANPAGER": "cat"}).stderr
    assert warnings == ""


@pytest.mark.real
@pytest.mark.parametrize("name", PAGES)
def test_index_of_pages_finds_its_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(PAGES[name].text)
    assert f'"{PAGES[name].name} - ' in run(("lexgrog", file)).stdout


def test_every_command_has_a_page() -> None:
    def leaves(command: click.Command, words: tuple[str, ...]) -> set[str]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            names = command.list_commands(context)
            below = {n: command.get_command(context, n) for n in names}
            return {leaf for n, c in below.items() if c for leaf in leaves(c, (*words, n))}
        return {"-".join(words)}

    expected = leaves(program, ("bootc-bound-images",)) | {"bootc-bound-images"}
    assert {each.name for each in PAGES.values() if each.section == 1} == expected


@pytest.mark.real
@pytest.mark.parametrize("name", [c.page for c in COMMANDS])
def test_page_says_all_of_the_help(name: str, tmp_path: Path) -> None:
    (command,) = (c for c in COMMANDS if c.page == name)
    seen = _words(shown(PAGES[f"{name}.1"].text, ("man", "-l"), tmp_path / "x.1"))
    said = (command.context.command.help or "").replace("Exit codes:", "EXIT STATUS")
    for parameter in command.context.command.get_params(command.context):
        said += " ".join(("", *(parameter.get_help_record(command.context) or ())))
    assert [word for word in _words(said) if word not in seen] == []


@pytest.mark.real
@pytest.mark.parametrize("name", [each.name for each in THERE])
def test_page_says_all_of_its_document(name: str, tmp_path: Path) -> None:
    (found,) = (each for each in THERE if each.name == name)
    source = source_of(REPOSITORY, found)
    assert source
    made = PAGES[f"{name}.{found.section}"].text
    seen = _words(shown(made, ("man", "-l"), tmp_path / f"x.{found.section}").lower())
    said = " ".join(_said(parse(source.read_text())[1:])).lower()
    assert [word for word in _words(said) if word not in seen] == []


def _words(seen: str) -> list[str]:
    return seen.replace("`", "").replace("\b", "").split()


def _said(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading(text=said) | Paragraph(text=said):
                yield plain(said)
            case Code(lines=lines):
                yield from lines
            case Bullets(entries=entries):
                for entry in entries:
                    yield from _said(entry)
            case Table(head=head, rows=rows):
                # Two columns become tags and texts, without their head.
                for row in rows if len(head) == 2 else (head, *rows):
                    yield from (plain(cell) for cell in row)
            case Definitions():
                pytest.fail("no document has them")


def test_date_and_version_are_those_of_the_build() -> None:
    for each in PAGES.values():
        heading = each.text.splitlines()[1 if each.text.startswith("'") else 0]
        assert '"1970-01-02" "bootc-bound-images 1.2.3"' in heading


def test_document_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/formats.md").write_text("# Formats\n\n<b>\n")
    with pytest.raises(MarkdownError, match=r"docs/formats\.md: line 3"):
        pages(tmp_path, "1", 0)


def test_any_document_becomes_a_page(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(REPOSITORY / "README.md", tmp_path / "docs/formats.md")
    made: list[Page] = [each for each in pages(tmp_path, "1", 0) if each.section == 5]
    assert [each.name for each in made] == ["bootc-bound-images-formats"]
    assert "bit for bit" in made[0].text
