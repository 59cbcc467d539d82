"""How long a command takes to start, and what it loads for that."""

import os
import re
import sys

from tests.support.commands import run

PROGRAM = ("-m", "installer_plugin")
CLICK = ("-c", "import click")


def seconds(*argv: str) -> float:
    """Return the processor time that Python takes, at best of several times."""
    best = float("inf")
    for _ in range(7):
        before = os.times()
        run((sys.executable, *argv))
        after = os.times()
        used = after.children_user + after.children_system
        best = min(best, used - before.children_user - before.children_system)
    return best


def loaded(*argv: str) -> set[str]:
    """Return the modules of ours that a command loads."""
    shown = run((sys.executable, "-X", "importtime", *argv)).stderr
    return set(re.findall(r"\| +(installer_plugin[\w.]*)$", shown, re.MULTILINE))


def test_version_takes_at_most_twice_what_click_takes() -> None:
    assert seconds(*PROGRAM, "--version") <= 2 * seconds(*CLICK)


def test_version_loads_nothing_but_the_program_itself() -> None:
    needed = {"installer_plugin", "installer_plugin.cli", "installer_plugin.cli.program"}
    assert loaded(*PROGRAM, "--version") <= needed
