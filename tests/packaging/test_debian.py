"""The Debian package: built and linted on this machine, used in fresh roots of the releases."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pip
import pytest

from tests.support.commands import run
from tests.support.debian import DebianRoot, Suite, cached_root
from tests.support.images import REPOSITORY

pytestmark = pytest.mark.xdist_group("debian")
SUITES = ["bookworm", "trixie", pytest.param("sid", marks=pytest.mark.moving)]


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with the package and its source package."""
    directory = tmp_path_factory.mktemp("deb")
    run((tree / "packaging/build-deb", directory))
    return directory


def one(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def test_lintian_has_nothing_to_say(built: Path) -> None:
    done = run(
        ("lintian", "--allow-root", "--display-info", "--pedantic",
         "--fail-on=error,warning,info,pedantic", one(built, "*.changes")),
    )  # fmt: skip
    assert done.stdout == ""


def test_package_is_the_same_bytes_from_its_source_package(built: Path, tmp_path: Path) -> None:
    run(("dpkg-source", "--extract", one(built, "*.dsc"), tmp_path / "source"), cwd=tmp_path)
    system = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    run(("dpkg-buildpackage", "--no-sign", "--build=binary"), cwd=tmp_path / "source", env=system)
    first, again = one(built, "*.deb"), one(tmp_path, "*.deb")
    assert (again.name, again.read_bytes()) == (first.name, first.read_bytes())


@pytest.fixture(scope="module")
def packages(
    built: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Path]]:
    """The package, the wheel and the single file, in one directory."""
    directory = tmp_path_factory.mktemp("packages")
    files = [Path(shutil.copy(file, directory)) for file in (one(built, "*.deb"), wheel)]
    program = directory / "bootc-bound-images"
    run((sys.executable, REPOSITORY / "packaging/build-single-file", program))
    yield [*files, program]
    shutil.rmtree(directory)


@pytest.mark.parametrize("suite", SUITES)
def test_fresh_root_installs_uses_and_removes_each_package(
    suite: Suite, packages: list[Path], tmp_path: Path
) -> None:
    root = DebianRoot(root=cached_root(suite), scratch=tmp_path)
    done = root.run(
        ("/checkout/tests/packaging/in-root", *(f"/packages/{file.name}" for file in packages)),
        ro={
            "/checkout": REPOSITORY,
            "/packages": packages[0].parent,
            "/pip/pip": Path(os.fspath(pip.__path__[0])),
        },
        env={"RESOLV": Path("/etc/resolv.conf").read_text()},
    )
    assert done.stdout.count("nothing left") == len(packages)
    sys.stdout.write(done.stdout)
