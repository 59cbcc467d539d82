"""What we believe of bootc's command line, compared with the bootc that is installed."""

import re
import shutil

import pytest

from installer_plugin.hosts.bootc.bootc_cli import WITH_VALUE, Verb, skip_spelling
from tests.support.commands import run

pytestmark = [pytest.mark.bootc, pytest.mark.real]

# clap's help: "      --karg <KARG>" or "  -r, --root-size <ROOT_SIZE>", flags without the last word.
OPTION = re.compile(r"^ +(?:-\w, )?(--[\w-]+)(?:[ =](<))?", re.MULTILINE)


@pytest.fixture(params=list(Verb))
def help_text(request: pytest.FixtureRequest) -> str:
    """bootc's own help of one verb."""
    bootc = shutil.which("bootc")
    assert bootc, "bootc is not in PATH"
    return run((bootc, "install", request.param, "--help")).stdout


def test_options_that_take_a_value_are_known(help_text: str) -> None:
    takes = {name: bool(value) for name, value in OPTION.findall(help_text)}
    assert takes, "no option was found in bootc's help"
    assert {name for name, value in takes.items() if value} <= WITH_VALUE
    assert not WITH_VALUE & {name for name, value in takes.items() if not value}


def test_it_can_be_told_to_skip_bound_images(help_text: str) -> None:
    skip_spelling(run(("bootc", "--version")).stdout, help_text)
