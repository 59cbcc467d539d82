"""What copying and proving one image load and start: no more than they need."""

import json
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.commands import run, unshared
from tests.support.images import REPOSITORY, ImageSources
from tests.support.product import Lab

_WATCHED = """
import json, sys
started = []
def hear(event, arguments):
    if event == "subprocess.Popen":
        started.append([str(word) for word in arguments[1]])
sys.addaudithook(hear)
from installer_plugin.cli import main
try:
    main(sys.argv[2:])
finally:
    with open(sys.argv[1], "w") as file:
        json.dump({"modules": sorted(sys.modules), "started": started}, file)
"""
_WORKER = """
import json, sys
from installer_plugin.process import pool_worker
from installer_plugin.storage.engine import source_jobs
from installer_plugin.storage.layer import jobs
json.dump({"modules": sorted(sys.modules), "started": []}, sys.stdout)
"""
PYTHON = (sys.executable, "-S", "-c")
"""Without what is loaded for who measures coverage."""
PACKAGES = {"PYTHONPATH": f"{REPOSITORY}:{sysconfig.get_path('purelib')}"}
NOT_FOR_DIRECTORIES = (
    "installer_plugin.block.disk_target",
    "installer_plugin.block.opener",
    "installer_plugin.block.undo_journal",
)
NOT_FOR_LOCAL_STORES = (
    "installer_plugin.storage.source.archive",
    "installer_plugin.storage.source.layout_files",
    "installer_plugin.storage.source.layout_source",
    "sqlite3",
)
NOT_FOR_ONE_COMMAND = (
    "click.shell_completion",
    "csv",
    "installer_plugin.cli.image_builder",
    "installer_plugin.cli.install",
    "installer_plugin.hooks",
    "installer_plugin.hosts.booted",
    "installer_plugin.hosts.bootc.watchdog",
    "installer_plugin.state",
    "secrets",
)
NOT_FOR_PROOF = (
    "installer_plugin.pipeline",
    "installer_plugin.sources",
    "installer_plugin.storage.engine",
    "installer_plugin.storage.source",
    "tempfile",
    "tomllib",
)
NOT_FOR_WORKERS = ("click", "logging", "tempfile")


class Seen:
    """What a run has loaded and started."""

    def __init__(self, text: str) -> None:
        found = json.loads(text)
        self.modules: set[str] = set(found["modules"])
        self.programs: list[str] = [argv[0] for argv in found["started"]]

    @property
    def ours(self) -> int:
        """The number of modules of the program itself."""
        return sum(name.startswith("installer_plugin.") for name in self.modules)


def watched(lab: Lab, *args: str | Path) -> Seen:
    report = lab.directory / "seen.json"
    run(unshared((*PYTHON, _WATCHED, report, *args)), env={**lab.source.env, **PACKAGES})
    return Seen(report.read_text())


@pytest.fixture
def copied(lab: Lab, image_sources: ImageSources) -> Seen:
    root = lab.root(image_sources.app_a.name)
    return watched(lab, "copy", "--engine=direct", root, lab.target)


def test_copy_of_one_image_loads_what_it_needs(copied: Seen) -> None:
    others = {*NOT_FOR_DIRECTORIES, *NOT_FOR_LOCAL_STORES, *NOT_FOR_ONE_COMMAND}
    assert sorted(copied.modules & others) == []
    assert copied.ours <= 150


def test_copy_of_one_image_starts_nothing_but_what_flushes(copied: Seen) -> None:
    assert set(copied.programs) == {"sync"}


def test_proof_of_a_directory_loads_what_it_needs_and_starts_nothing(
    copied: Seen, lab: Lab
) -> None:
    assert copied.programs
    seen = watched(lab, "verify", lab.target)
    others = {*NOT_FOR_DIRECTORIES, *NOT_FOR_LOCAL_STORES, *NOT_FOR_ONE_COMMAND, *NOT_FOR_PROOF}
    assert sorted(seen.modules & others) == []
    assert seen.programs == []
    assert seen.ours <= 115


def test_workers_load_what_layers_need() -> None:
    seen = Seen(run((*PYTHON, _WORKER), env=PACKAGES).stdout)
    assert sorted(seen.modules & {*NOT_FOR_WORKERS}) == []
    assert seen.ours <= 45
