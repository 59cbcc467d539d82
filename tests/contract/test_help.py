"""What `--help` shows on a terminal of 80 columns is whole: nothing cut off, nothing run together."""

import re
from collections.abc import Iterator, Sequence

import click
import pytest
from click.testing import CliRunner

from installer_plugin.cli.program import program
from installer_plugin.errors import ExitCode

COLUMNS = 80


def command_lines(group: click.Group = program, words: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yield the words of every command and every group of commands."""
    yield list(words)
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from command_lines(command, (*words, name))
        else:
            yield [*words, name]


COMMANDS = list(command_lines())


def shown(*words: str) -> list[str]:
    """Lines of the help of a command."""
    done = CliRunner().invoke(program, [*words, "--help"], terminal_width=COLUMNS)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_each_exit_code_has_a_line_of_its_own() -> None:
    after = shown()[shown().index("  Exit codes:") + 1 :]
    table = after[: after.index("")]
    rows = [re.fullmatch(r" {2,}(\d+)  (\S.*)", line) for line in table]
    assert [int(row[1]) for row in rows if row] == [int(code) for code in ExitCode]
    assert len(rows) == len(table)
    assert len({row.end(1) for row in rows if row}) == 1, "the numbers stand below each other"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_and_has_no_stray_characters(words: list[str]) -> None:
    lines = shown(*words)
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert [line for line in lines if not line.isprintable() or "\\b" in line] == []
    commands = lines[lines.index("Commands:") :] if "Commands:" in lines else []
    assert [line for line in commands if line.endswith("...")] == [], "a summary is cut off"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_that_are_shown_can_be_copied(words: list[str]) -> None:
    """A call in the help is in one line, or it says that it goes on."""
    lines = shown(*words)
    calls = [n for n, line in enumerate(lines) if re.match(r" {3,}bootc-bound-images ", line)]
    assert [lines[n + 1] for n in calls if lines[n + 1].strip() and lines[n][-1] != "\\"] == []


def test_a_help_that_is_run_together_is_found() -> None:
    @click.command()
    def broken() -> None:
        r"""Do a thing.

        \b
        Exit codes:
            0  done
        """

    assert "\\b Exit codes:     0  done" in broken.get_help(click.Context(broken))
