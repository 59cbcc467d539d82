"""README and the documents in docs/ agree with the code, where the two can be compared."""

import re
from pathlib import Path

import click
import pytest

from installer_plugin.cli.program import program
from installer_plugin.errors import BoundImagesError, DataError, ExitCode, InterruptedBySignal
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.hosts.bootc.boot_entries import ASIDE, KINDS, NOTE, PREFIXES
from installer_plugin.hosts.bootc.mode import When
from installer_plugin.model import SourceKind
from installer_plugin.process.runner import CommandError
from installer_plugin.stages.discover import discover, require_sound
from installer_plugin.stages.label import CHECK
from installer_plugin.stages.verify import CHECKS
from installer_plugin.storage.base import STORE_FORMS, EngineChoice
from installer_plugin.storage.engine.direct_guards import Guard
from installer_plugin.storage.source.store_option import parse_source_spec
from tests.support.documents import read, rows
from tests.support.sources import SourceRootBuilder

UNIT = re.compile(r"```ini\n# (\S+)\n(.*?)```", re.DOTALL)
README = read("README.md")
ENGINES = read("docs/engines.md")
BOOT_ENTRIES = read("docs/boot-entries.md")


def test_promise_and_set_up_are_at_the_top() -> None:
    """A reader on a small screen sees what it is and how to try it."""
    _, first, *_ = README.split("\n\n")
    assert first.startswith("Either ")
    assert first.count("\n") == 1
    assert {"$ vm-tests/run ", "$ tests/run "} <= {
        line.partition("#")[0].rstrip() + " " for line in README.splitlines()[:12]
    }


def test_exit_codes_are_those_of_the_code() -> None:
    assert [int(row[0]) for row in rows(README, "Exit codes")] == [int(code) for code in ExitCode]


def test_exit_codes_mean_in_the_help_what_they_mean_in_the_readme() -> None:
    help_text = program.get_help(click.Context(program))
    for code, meaning, _ in rows(README, "Exit codes"):
        (shown,) = re.findall(rf"^ +{code}  (\w.*)$", help_text, re.MULTILINE)
        assert meaning.startswith(shown)


LOW_LEVEL = (DataError, CommandError)
"""Raised by readers and runners; who asked them knows the class that fits."""


@pytest.mark.parametrize("code", [code for code in ExitCode if code is not ExitCode.DONE])
def test_every_exit_code_but_success_belongs_to_one_error(code: ExitCode) -> None:
    owners = [
        kind
        for kind in BoundImagesError.__subclasses__()
        if kind.exit_code is code and kind not in LOW_LEVEL
    ]
    owners += [InterruptedBySignal] if InterruptedBySignal.exit_code is code else []  # type: ignore[list-item]
    assert len(owners) == 1


def test_help_has_the_exit_codes_too() -> None:
    help_text = program.get_help(click.Context(program))
    shown = re.findall(r"^ +(\d+)  \w", help_text, re.MULTILINE)
    assert [int(code) for code in shown] == [int(code) for code in ExitCode]


def test_commands_are_those_of_the_program() -> None:
    named = {re.match(r"[\w-]+", row[0])[0] for row in rows(README, "Commands")}  # type: ignore[index]
    assert named == set(program.list_commands(click.Context(program)))


def test_engines_are_those_of_the_program() -> None:
    named = {row[0].split("`")[0] for row in rows(ENGINES, "Engines")}
    assert named == set(EngineChoice)
    section = README.split("`--engine`\n", 1)[1].split("\n#", 1)[0]
    assert set(EngineChoice) <= set(re.findall(r"`(\w+)`", section))


def test_guards_are_those_of_the_direct_engine() -> None:
    assert [row[0] for row in rows(ENGINES, "When the direct engine gives way")] == list(Guard)


def test_modes_are_those_of_install() -> None:
    named = {row[0].split("`")[0] for row in rows(README, "With `bootc install`")}
    assert named == set(When)


def test_store_forms_are_those_of_the_program() -> None:
    """Each form of the README is understood, and is in the help."""
    shown = [row[0] for row in rows(README, "Where images come from: `--store`")]
    forms = [form.strip("` ") for cell in shown for form in cell.split("`, `")]
    helped = STORE_FORMS.replace(" or ", ", ").split(", ")
    assert [form for form in forms if form.startswith(("[", "oci", "ssh"))] == helped[1:]
    plain = [re.sub(r"\[.*?\]", "", form) for form in forms]
    assert {parse_source_spec(form).kind for form in plain} == set(SourceKind)


def test_boot_entries_are_those_of_the_code() -> None:
    table = rows(BOOT_ENTRIES, "What is set aside")
    assert {below: files.removeprefix("*") for below, files, _ in table} == KINDS
    assert f"`NAME{ASIDE}`" in BOOT_ENTRIES
    assert f"`{NOTE}`" in BOOT_ENTRIES
    assert all(f"`{prefix}`" in BOOT_ENTRIES for prefix in PREFIXES if prefix)
    assert "`--on-failure=keep`" in BOOT_ENTRIES.replace("install --on-", "--on-")


def test_checks_are_those_that_receipts_list() -> None:
    assert [row[0] for row in rows(README, "What is proven")] == [*CHECKS, CHECK]


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
