"""The `bootc` that an image's author may put before the real one."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults.scene import APP
from tests.hosts.scene import PRELUDE, STANDIN, TO_DISK, Scene, bind
from tests.support.commands import run, unshared
from tests.support.product import COMMAND

pytestmark = pytest.mark.real
FRONT = Path(__file__).parents[2] / "hooks/bootc/bootc"
SAY = '#!/bin/sh\necho "$(basename "$0") $*"\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Programs: the front first, then others that say how they were called."""
    for name in ("front", "other"):
        (tmp_path / name).mkdir()
    shutil.copy(FRONT, tmp_path / "front/bootc")
    for name in ("bootc", "bootc-bound-images"):
        (tmp_path / "other" / name).write_text(SAY)
        (tmp_path / "other" / name).chmod(0o755)
    return tmp_path


def call(
    place: Path, *words: str, env: Mapping[str, str] | None = None, ok: int = 0
) -> subprocess.CompletedProcess[str]:
    path = f"{place}/front:{place}/other:/usr/bin:/bin"
    return run((place / "front/bootc", *words), env={"PATH": path, **(env or {})}, ok=(ok,))


@pytest.mark.parametrize("verb", ["to-disk", "to-filesystem", "to-existing-root"])
def test_an_installation_goes_through_us_word_for_word(verb: str, place: Path) -> None:
    words = ("install", verb, "--karg", "a b", "/x")
    assert call(place, *words).stdout == f"bootc-bound-images install {verb} --karg a b /x\n"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("status",),
        ("upgrade", "--check"),
        ("install",),
        ("install", "--help"),
        ("install", "to-disk", "--help"),
        ("install", "print-configuration"),
        ("install", "finalize", "/x"),
        ("internals", "install", "to-disk"),
    ],
)
def test_everything_else_is_bootcs(words: tuple[str, ...], place: Path) -> None:
    assert call(place, *words).stdout.strip() == " ".join(["bootc", *words])


def test_inside_of_an_installation_it_is_bootc_itself(place: Path) -> None:
    inside = {"BOUND_IMAGES_BOOTC_FRONT": "1"}
    done = call(place, "install", "to-disk", "/x", env=inside)
    assert done.stdout == "bootc install to-disk /x\n"


def test_without_us_nothing_is_installed(place: Path) -> None:
    (place / "other/bootc-bound-images").unlink()
    done = call(place, "install", "to-disk", "/x", ok=4)
    assert "nothing is installed without its bound images" in done.stderr


def test_without_bootc_it_says_so_and_does_not_call_itself(place: Path) -> None:
    (place / "other/bootc").unlink()
    assert "no other bootc" in call(place, "status", ok=127).stderr


def test_bootcs_own_command_line_has_its_images(scene: Scene, tmp_path: Path) -> None:
    bind(scene.container, APP)
    programs = tmp_path / "programs"
    programs.mkdir()
    shutil.copy(FRONT, programs / "bootc")
    ours = programs / "bootc-bound-images"
    ours.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    ours.chmod(0o755)
    path = f"{programs}:{STANDIN}:{os.environ['PATH']}"
    argv = unshared(("bootc", "install", *TO_DISK, scene.disk), prelude=PRELUDE)
    run(argv, env=scene.env({"PATH": path}))
    assert APP in run(unshared((*COMMAND, "verify", scene.disk))).stdout
