"""Building the OS root says what is wrong, and a build that was cut short is thrown away."""

import os
from pathlib import Path

import osroot
import pytest

pytestmark = pytest.mark.real


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of mmdebstrap that fails as the test says."""
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(osroot, "NEEDED_BYTES", 0)
    return program


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("E: Could not connect to deb.debian.org:80", "mirror does not answer.*VM_TESTS_MIRROR"),
        ("E: Failed to fetch http://x  404", "mirror does not answer"),
        ("cp: write error: No space left on device", "no space left.*make room"),
        ("E: You don't have enough free space in x.", "no space left.*make room"),
        (
            r"E: something else\nE: mmdebstrap failed to run",
            "building the OS root failed: E: something else$",
        ),
    ],
    ids=["unreachable", "absent", "full", "fuller", "other"],
)
def test_failure_is_explained(output: str, message: str, bootstrap: Path, tmp_path: Path) -> None:
    bootstrap.write_text(
        f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"\nprintf "%b\\n" "{output}" >&2\nexit 1\n'
    )
    bootstrap.chmod(0o755)
    with pytest.raises(osroot.OsRootError, match=message):
        osroot.os_root(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").glob("os-*") if path.suffix != ".partial"]


def test_leftover_of_an_interrupted_build_is_removed(bootstrap: Path, tmp_path: Path) -> None:
    partial = tmp_path / "cache/os-abc.partial"
    (partial / "usr").mkdir(parents=True)
    bootstrap.write_text("#!/bin/sh\nexit 1\n")
    bootstrap.chmod(0o755)
    with pytest.raises(osroot.OsRootError):
        osroot.os_root(tmp_path / "cache")
    assert not partial.exists()


def test_lack_of_space_is_told_before_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(osroot, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(osroot.OsRootError, match=r"MiB free.*make room there"):
        osroot.os_root(tmp_path / "cache")


def test_small_root_has_the_places_of_a_bootc_image(tmp_path: Path) -> None:
    root = osroot.small_root(tmp_path / "root")
    assert (root / "ostree").readlink() == Path("sysroot/ostree")
    assert (root / "usr/lib/bootc/storage").is_symlink()
    assert not list((root / "usr/lib/bootc/bound-images.d").iterdir())
