"""The RPMs, as far as Debian's rpmbuild goes: built, linted, compared with the wheel, run unpacked."""

import importlib.metadata
import os
import re
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tests.packaging.test_backend import data
from tests.support.commands import run
from tests.support.images import REPOSITORY

SITE = re.compile(r"/usr/lib/python3\.\d+/site-packages/")
ADDED = re.compile(r"/usr/bin/|/usr/share/doc/[^/]+/(README|CHANGELOG)\.md|.*\.dist-info")
"""What the wheel has in other places, or not at all."""


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All binary packages."""
    directory = tmp_path_factory.mktemp("rpm")
    run((tree / "packaging/build-rpm", directory))
    assert list(directory.glob("*.src.rpm"))
    return sorted(directory.glob("*.noarch.rpm"))


@pytest.fixture(scope="module")
def unpacked(built: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unpacked")
    for package in built:
        run(("sh", "-c", 'rpm2cpio "$1" | cpio --quiet -id', "sh", package), cwd=directory)
    return directory


def test_rpmlint_has_nothing_to_say(built: list[Path]) -> None:
    spec = REPOSITORY / "packaging/bootc-bound-images.spec"
    config = REPOSITORY / "packaging/rpm/rpmlint.toml"
    done = run(("rpmlint", "--config", config, spec, *built))
    assert "0 errors, 0 warnings" in done.stdout


def test_files_are_those_of_the_wheel(built: list[Path], wheel: Path, unpacked: Path) -> None:
    files = {
        f"/{path.relative_to(unpacked)}".removesuffix(".gz")
        for path in unpacked.rglob("*")
        if path.is_file()
    }
    modules = {SITE.sub("", file) for file in files if SITE.match(file) and not ADDED.match(file)}
    others = {file for file in files if not SITE.match(file) and not ADDED.match(file)}
    assert others == {f"/usr/{place}" for place in data(wheel)}
    assert modules == {n for n in _tracked(wheel) if n.startswith("installer_plugin/")}
    stages = [p for p in others if PurePosixPath(p).match("/usr/lib/osbuild/stages/*")]
    assert len(built) == (2 if stages else 1)


def _tracked(wheel: Path) -> list[str]:
    return run(("unzip", "-Z1", wheel)).stdout.splitlines()


def test_modes_are_those_of_the_wheel(wheel: Path, unpacked: Path) -> None:
    for place, entry in data(wheel).items():
        whole = unpacked / "usr" / place
        # Manual pages are packed when the package is built.
        (file,) = filter(Path.exists, (whole, whole.with_name(f"{whole.name}.gz")))
        assert file.stat().st_mode == entry.external_attr >> 16, place


def test_unpacked_files_do_their_work(unpacked: Path) -> None:
    (site,) = unpacked.glob("usr/lib/python3*/site-packages")
    program = unpacked / "usr/bin/bootc-bound-images"
    # As in a system of its own: its Python and click, nothing of this environment.
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    env = {"PYTHONPATH": os.fspath(site), "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    assert "do what they have to" in run((REPOSITORY / "packaging/smoke", program), env=env).stdout


def test_click_is_bundled_where_the_system_has_none(
    tree: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As on EL 9, with the Python that is here."""
    click = _click_wheel(tmp_path)
    directory = tmp_path_factory.mktemp("bundled")
    run(
        (tree / "packaging/build-rpm", directory, "--with", "bundled_click"),
        env={"CLICK": str(click)},
    )
    packages = [p for p in directory.glob("*.noarch.rpm") if "osbuild" not in p.name]
    run(("sh", "-c", 'rpm2cpio "$1" | cpio --quiet -id', "sh", *packages), cwd=tmp_path)
    needed = run(("rpm", "-qp", "--requires", *packages)).stdout
    assert "click" not in needed
    script = (tmp_path / "usr/bin/bootc-bound-images").read_text()
    private = "/usr/lib/bootc-bound-images"
    assert script.startswith("#!/usr/bin/python3")
    assert f'sys.path.insert(0, "{private}")' in script
    assert (tmp_path / f"{private[1:]}/click/core.py").is_file()


def _click_wheel(directory: Path) -> Path:
    """Return a wheel of the click that is installed here, made of its files."""
    found = importlib.metadata.distribution("click")
    wheel = directory / f"click-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in found.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                archive.write(str(found.locate_file(file)), str(file))
    return wheel
