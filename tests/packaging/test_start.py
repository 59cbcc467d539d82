"""How long a command takes to start, and what it loads for that."""

import compileall
import re
import resource
import sys
from pathlib import Path
from statistics import median

import pytest

import installer_plugin
from tests.support.commands import run

PROGRAM = ("-m", "installer_plugin")
CLICK = ("-c", "import click")


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Modules are compiled when a package is installed, not whenever a command starts."""
    compileall.compile_dir(Path(installer_plugin.__file__).parent, quiet=1)


def seconds(*argv: str) -> float:
    """Return the processor time that Python takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run((sys.executable, *argv))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def times_click(*argv: str) -> float:
    """Return how many times as long as click alone a command takes, one right after the other.

    What else runs on the machine slows both down, and changes all the time.
    """
    return median(seconds(*argv) / seconds(*CLICK) for _ in range(11))


def loaded(*argv: str) -> set[str]:
    """Return the modules of ours that a command loads."""
    shown = run((sys.executable, "-X", "importtime", *argv)).stderr
    return set(re.findall(r"\| +(installer_plugin[\w.]*)$", shown, re.MULTILINE))


def test_version_takes_at_most_twice_what_click_takes() -> None:
    assert times_click(*PROGRAM, "--version") <= 2


def test_list_of_two_units_takes_at_most_three_times_what_click_takes(tmp_path: Path) -> None:
    units, links = tmp_path / "usr/share/containers/systemd", tmp_path / "usr/lib/bootc"
    units.mkdir(parents=True)
    (links / "bound-images.d").mkdir(parents=True)
    for name in ("a.image", "b.image"):
        (units / name).write_text(f"[Image]\nImage=registry.example/{name}:1\n")
        (links / "bound-images.d" / name).symlink_to(f"/usr/share/containers/systemd/{name}")
    assert times_click(*PROGRAM, "list", str(tmp_path)) <= 3


def test_list_of_a_directory_loads_nothing_of_stores_and_disks(tmp_path: Path) -> None:
    found = loaded(*PROGRAM, "list", str(tmp_path))
    parts = {name.split(".")[1] for name in found if "." in name}
    assert "declared" in parts
    assert not parts & {"opening", "pipeline", "steps", "hosts", "hooks", "state", "expectations"}
    deeper = [n for n in found if ".storage." in n or ".block." in n]
    assert set(deeper) <= {"installer_plugin.storage.base", "installer_plugin.block.base"}


def test_call_of_podman_that_is_passed_on_loads_nothing_of_an_installation() -> None:
    found = loaded("-c", "import installer_plugin.hosts.bootc.podman_shim")
    parts = {name.split(".")[1] for name in found if "." in name}
    assert parts == {"errors", "events", "files", "hooks", "hosts", "process"}
    assert not found & {f"installer_plugin.{name}" for name in ("hooks.running", "process.pool")}


def test_version_loads_nothing_but_the_program_itself() -> None:
    program = {"cli", "cli.program", "errors", "process", "process.signals"}
    needed = {"installer_plugin", *(f"installer_plugin.{name}" for name in program)}
    assert loaded(*PROGRAM, "--version") <= needed
