"""The README tells the truth about what can be compared with the code."""

import re
from pathlib import Path

import click
import pytest

from installer_plugin.cli import main
from installer_plugin.errors import BoundImagesError, ExitCode, InterruptedBySignal
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.stages.discover import discover, require_sound
from installer_plugin.stages.label import CHECK
from installer_plugin.stages.verify import CHECKS
from installer_plugin.storage.engine.select import EngineChoice
from tests.support.sources import SourceRootBuilder

UNIT = re.compile(r"```ini\n# (\S+)\n(.*?)```", re.DOTALL)
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
    help_text = main.get_help(click.Context(main))
    shown = re.findall(r"^ +(\d+)  \w", help_text, re.MULTILINE)
    assert [int(code) for code in shown] == [int(code) for code in ExitCode]


def test_commands_are_those_of_the_program() -> None:
    named = {re.match(r"\w+", row[0])[0] for row in rows("Commands")}  # type: ignore[index]
    assert named == set(main.commands)


def test_engines_are_those_of_the_program() -> None:
    named = {row[0].split("`")[0] for row in rows("How images are copied: `--engine`")}
    assert named == set(EngineChoice)


def test_checks_are_those_that_receipts_list() -> None:
    assert [row[0] for row in rows("What is proven")] == [*CHECKS, CHECK]


def test_units_of_the_example_do_at_boot_what_they_should(source_root: SourceRootBuilder) -> None:
    """Built as the example's Dockerfile says, nothing is found but tags that can be moved."""
    units = dict(UNIT.findall(README))
    copied = re.findall(r"^COPY (.+) (/\S+/)$", README, re.MULTILINE)
    places = {name: folder for names, folder in copied for name in names.split()}
    files = {f"{places[name]}{name}": text for name, text in units.items()}
    linked = re.findall(
        r"/\S+\.(?:container|image)\b", README.split("ln -s", 1)[1].split(" .\n")[0]
    )
    root = source_root(files, links={Path(path).name: path for path in linked})
    with Rootfs.open(root) as opened:
        images = require_sound(discover(opened))
    assert len(images) == len(units)
    assert {finding.code for image in images for finding in image.findings} == {"floating-tag"}
