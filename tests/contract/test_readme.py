"""The README tells the truth about what can be compared with the code."""

import re
from pathlib import Path

import pytest

from installer_plugin.cli import main
from installer_plugin.errors import BoundImagesError, ExitCode, InterruptedBySignal
from installer_plugin.stages.label import CHECK
from installer_plugin.stages.verify import CHECKS
from installer_plugin.storage.engine.select import EngineChoice

README = (Path(__file__).parents[2] / "README.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table after *heading*, without its head."""
    section = README.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_exit_codes_are_those_of_the_code() -> None:
    assert [int(row[0]) for row in rows("Exit codes")] == [int(code) for code in ExitCode]


@pytest.mark.parametrize("code", [code for code in ExitCode if code is not ExitCode.DONE])
def test_every_exit_code_but_success_belongs_to_one_error(code: ExitCode) -> None:
    owners = [kind for kind in BoundImagesError.__subclasses__() if kind.exit_code is code]
    owners += [InterruptedBySignal] if InterruptedBySignal.exit_code is code else []  # type: ignore[list-item]
    assert len(owners) == 1


def test_help_has_the_exit_codes_too() -> None:
    shown = re.findall(r"^ +(\d+)  \w", main.help or "", re.MULTILINE)
    assert [int(code) for code in shown] == [int(code) for code in ExitCode]


def test_commands_are_those_of_the_program() -> None:
    named = {re.match(r"\w+", row[0])[0] for row in rows("Commands")}  # type: ignore[index]
    assert named == set(main.commands)


def test_engines_are_those_of_the_program() -> None:
    named = {row[0].split("`")[0] for row in rows("How images are copied: `--engine`")}
    assert named == set(EngineChoice)


def test_checks_are_those_that_receipts_list() -> None:
    assert [row[0] for row in rows("What is proven")] == [*CHECKS, CHECK]
