"""Which calls of podman the shim takes, and how it and the installation understand each other."""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from installer_plugin.errors import ExitCode, Problem
from installer_plugin.hooks.options import HookOptions
from installer_plugin.hosts.bootc.podman_shim import DESTINATION, main, pushed_image
from installer_plugin.hosts.bootc.shim_session import Outcome, Session

IMAGE = "quay.io/x/a:1"
PUSH = ["image", "push", "--remove-signatures", IMAGE, DESTINATION + IMAGE]


@pytest.mark.parametrize(
    "words", [PUSH, [*PUSH[:2], *PUSH[3:]]], ids=["now", "before signatures were removed"]
)
def test_the_copy_call_of_bootc_is_taken(words: list[str]) -> None:
    assert pushed_image(words) == IMAGE


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["images"],
        ["image", "push", IMAGE],
        [*PUSH, "--more"],
        [*PUSH[:3], "more", *PUSH[3:]],
        [*PUSH[:-1], DESTINATION + "quay.io/x/b:1"],
        [*PUSH[:-1], f"containers-storage:[overlay@/other+/run]{IMAGE}"],
        ["--root", "/run/bootc/storage", "--runroot", "/proc/self/fd/3", "images"],
        ["image", "push", IMAGE, "docker://registry/x"],
    ],
    ids=[
        "nothing",
        "list",
        "short",
        "longer",
        "more words",
        "other name",
        "other store",
        "init",
        "registry",
    ],
)
def test_every_other_call_is_the_real_podmans(words: list[str]) -> None:
    assert pushed_image(words) is None


def test_a_session_is_read_as_it_was_written(tmp_path: Path) -> None:
    session = Session(
        folder=tmp_path,
        owner=17,
        expected=(IMAGE,),
        keep=True,
        hooks=HookOptions(root=Path("/x"), unsafe_skip_verify=True, timeout=3.0),
        disk=Path("/dev/vda"),
    )
    session.save()
    assert Session.load(tmp_path) == session


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Outcome.load(tmp_path) is None
    outcome = Outcome(6, (Problem(subject="a", message="b", where="c", hint="d"),))
    outcome.save(tmp_path)
    assert Outcome.load(tmp_path) == outcome


@pytest.mark.parametrize("code", [0, 6])
def test_a_second_call_for_an_image_ends_as_the_installation_has(tmp_path: Path, code: int) -> None:
    """bootc pushes an image once for each link to it; what has failed does not become a success."""
    hooks = HookOptions(root=tmp_path)
    expected = (IMAGE, "quay.io/x/b:1")
    owner = os.getppid()
    Session(
        folder=tmp_path, owner=owner, expected=expected, keep=False, hooks=hooks, disk=None
    ).save()
    Outcome(code, ()).save(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), *PUSH])
    assert ended.value.code == code


def _full(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1024)):
            pass


def _gone(folder: Path) -> None:
    (folder / "shim.json").unlink()


@pytest.mark.real
@pytest.mark.parametrize(
    ("spoil", "why"),
    [(_full, "No space left on device"), (_gone, "No such file or directory")],
    ids=["full", "gone"],
)
def test_folder_that_cannot_be_used_is_an_error_in_words(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    why: str,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder), check=True)
    try:
        expected = (IMAGE, "quay.io/x/b:1")
        hooks = HookOptions(root=tmp_path)
        Session(
            folder=folder, owner=os.getppid(), expected=expected, keep=False, hooks=hooks
        ).save()
        spoil(folder)
        with pytest.raises(SystemExit) as ended:
            main([str(folder), *PUSH])
    finally:
        subprocess.run(("umount", folder), check=True)
    assert ended.value.code == ExitCode.HOST
    assert why in capfd.readouterr().err
