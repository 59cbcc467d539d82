"""`image-builder ARGS...` with image-builder, osbuild and bootc themselves.

Three variables say where they are:

- ``OSBUILD_OS_IMAGE``: a bootc OS image in the machine's store that binds images of that store;
- ``OSBUILD_LIBDIR``: osbuild's library directory, else ``/usr/lib/osbuild``;
- ``OSBUILD_ENTER``: a command that others are appended to, where image-builder, osbuild and podman 5.8
  are in another root than the tests; the tests' directories have to be visible there.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from installer_plugin.hosts.image_builder.manifest import read_manifest
from installer_plugin.hosts.image_builder.prepare import inline_program
from installer_plugin.hosts.image_builder.rewrite import Mode, Plan, rewrite
from tests.hosts.image_builder.shapes import SHAPES, content
from tests.hosts.image_builder.test_rewrite import APP, WEB, plan
from tests.support.commands import run
from tests.support.left_out import OSBUILD_IMAGE
from tests.support.osbuild_sandbox import STAGES

pytestmark = [pytest.mark.real, pytest.mark.osbuild]
LIBRARY = os.environ.get("OSBUILD_LIBDIR", "/usr/lib/osbuild")
RECEIPT = ".bound-images.json"


def there(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command where the programs are."""
    enter = shlex.split(os.environ.get("OSBUILD_ENTER", "unshare --mount"))
    return run((*enter, *argv))


@pytest.fixture
def image() -> str:
    name = os.environ.get(OSBUILD_IMAGE)
    assert name, f"{OSBUILD_IMAGE} has to name a bootc OS image that binds images"
    return name


@pytest.fixture
def ours(program: Path) -> tuple[str, ...]:
    """The program: the Python that is there need not have it, nor click."""
    return ("python3", str(program))


def build(ours: Sequence[str], image: str, output: Path, *own: str, kind: str) -> Path:
    """Build a disk, and return it when it was proven once more from outside."""
    line = ("image-builder", "build", kind, "--bootc-ref", image, "--bootc-default-fs", "ext4")
    places = ("--output-dir", output, "--cache", output.with_name("cache"))
    done = there(
        *ours, line[0], "--osbuild-libdir", LIBRARY, *own, *line[1:], "--seed", "1", *places
    )
    shutil.rmtree(output.with_name("cache"))
    (receipt,) = output.glob(f"*{RECEIPT}")
    disk = receipt.with_name(receipt.name.removesuffix(RECEIPT))
    assert f"verified on {disk}" in done.stdout
    there(*ours, "verify", disk)
    return disk


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_a_disk_has_the_images_that_its_system_declares(
    kind: str, image: str, ours: tuple[str, ...], tmp_path: Path
) -> None:
    disk = build(ours, image, tmp_path / "out", kind=kind)
    receipt = json.loads(disk.with_name(disk.name + RECEIPT).read_text())
    listed = json.loads(there(*ours, "list", "--format=json", f"containers-storage:{image}").stdout)
    declared = {each["reference"] for each in listed["images"]}
    assert declared
    assert {each["reference"] for each in receipt["images"]} == declared
    assert str(tmp_path) not in json.dumps(receipt)


@pytest.mark.parametrize("when", ["stock", "after"])
def test_the_other_modes_bring_them_as_well(
    when: str, image: str, ours: tuple[str, ...], tmp_path: Path
) -> None:
    build(ours, image, tmp_path / "out", "--when", when, kind="raw")


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("name", SHAPES)
def test_osbuild_takes_a_rewritten_manifest_for_a_valid_one(
    name: str, mode: Mode, program: Path, tmp_path: Path
) -> None:
    library = tmp_path / "lib"
    there("cp", "-a", LIBRARY, library)
    for file in STAGES.iterdir():
        shutil.copy(file, library / "stages")
    for ending in ("", ".meta.json"):  # somebody's own stage that one of the shapes has
        noop = library / f"stages/org.osbuild.noop{ending}"
        shutil.copy(noop, noop.with_name(f"org.example.touch{ending}"))
    inline = inline_program(program.read_bytes()) if mode is Mode.STAGE else None
    how: Plan = plan(APP, WEB, mode=mode, program=inline)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(rewrite(read_manifest(content(SHAPES[name]), "m.json"), how))
    seen = there("osbuild", "--libdir", library, "--inspect", manifest)
    assert "pipelines" in json.loads(seen.stdout)
