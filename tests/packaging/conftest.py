"""Trees to build from, and what was built of them once for all tests."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from backend.tree import files

from tests.support.commands import run
from tests.support.images import REPOSITORY

GIT = ("git", "-c", "user.name=Test", "-c", "user.email=test@localhost")

Build = Callable[..., Path]


def copy_tree(directory: Path) -> Path:
    """Copy this checkout's files, without what git ignores, and without git."""
    for name in files(REPOSITORY):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, directory / name)
    return directory


def commit(directory: Path, *tags: str) -> None:
    """Commit all there is, and tag it."""
    run((*GIT, "init", "--quiet", "."), cwd=directory)
    run((*GIT, "add", "--all"), cwd=directory)
    run((*GIT, "commit", "--quiet", "--allow-empty", "--message=All"), cwd=directory)
    for tag in tags:
        run((*GIT, "tag", tag), cwd=directory)


def build(tree: Path, out: Path, kind: str = "wheel", umask: int = 0o022) -> Path:
    """Build by the calls that a frontend makes, in a process of its own; return the file."""
    out.mkdir(parents=True, exist_ok=True)
    script = (
        "import os, sys\n"
        f"os.umask({umask})\n"
        "sys.path.insert(0, 'packaging')\n"
        "import backend\n"
        f"print(backend.build_{kind}({str(out)!r}))\n"
    )
    return out / run((sys.executable, "-B", "-c", script), cwd=tree).stdout.strip()


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed copy of this checkout; never to be changed by a test."""
    copy = copy_tree(tmp_path_factory.mktemp("tree"))
    commit(copy)
    return copy


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, tmp_path_factory.mktemp("sdist"), "sdist")
