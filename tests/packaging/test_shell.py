"""Every shell script of the tree is read by shellcheck, and every completion script by its shell."""

import re

import pytest
from backend.tree import files

from tests.support.commands import run
from tests.support.images import REPOSITORY

SHEBANG = re.compile(rb"#!.*\b(sh|bash)\n")


def is_shell(name: str) -> bool:
    if name.endswith((".sh", ".bash")):
        return True
    with (REPOSITORY / name).open("rb") as file:
        return SHEBANG.match(file.readline()) is not None


SCRIPTS = [name for name in files(REPOSITORY) if is_shell(name)]


def test_scripts_are_found() -> None:
    assert {"packaging/build-deb", "tests/run", ".ci/run"} <= set(SCRIPTS)
    assert "packaging/build-wheel" not in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    run(("shellcheck", "--external-sources", REPOSITORY / script))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_reads_its_completion_script(shell: str) -> None:
    run((shell, "-n", REPOSITORY / f"packaging/completion/bootc-bound-images.{shell}"))
