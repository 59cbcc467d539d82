"""The wheel and the sdist: what is in them, where it goes, and that they are the same every time."""

import email
import os
import re
import stat
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backend.layout import place_of
from backend.project import ProjectError, read_project
from backend.tree import assigned_version, files, find_version, version_of, with_version

import installer_plugin
from tests.packaging.conftest import build, commit, copy_tree
from tests.support.commands import run
from tests.support.images import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def data(wheel: Path) -> dict[str, zipfile.ZipInfo]:
    """Map what a wheel installs below the prefix to its entries."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            entry.filename.partition(".data/data/")[2]: entry
            for entry in archive.infolist()
            if ".data/data/" in entry.filename
        }


def unpack(sdist: Path, directory: Path) -> Path:
    run(("tar", "--extract", "--file", sdist, "--directory", directory))
    (tree,) = directory.iterdir()
    return tree


# --- versions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planned", "described", "expected"),
    [
        ("1.0.0.dev0", "v0-94-g0123abcd", "1.0.0.dev94+g0123abcd"),
        ("1.0.0.dev0", "v1.0.0-0-g0123abcd", "1.0.0"),
        ("1.1.0.dev0", "v1.0.0-3-g0123abcd", "1.1.0.dev3+g0123abcd"),
        ("1.10.0.dev0", "v1.9.0-3-g0123abcd", "1.10.0.dev3+g0123abcd"),
        ("1.1.0.dev0", "v1.0.0-0-g0123abcd", "1.0.0"),
    ],
)
def test_version_is_that_of_the_tag_or_leads_to_the_next(
    planned: str, described: str, expected: str
) -> None:
    assert version_of(planned, described) == expected


@pytest.mark.parametrize(
    ("planned", "described", "message"),
    [
        ("1.0.0.dev0", "v1.0.0-3-g0123abcd", "not after it"),
        ("1.9.0.dev0", "v1.10.0-3-g0123abcd", "not after it"),
        ("1.0.0", "v0-1-g0123abcd", "no version"),
        ("1.0.0.dev0", "release-3", "no version"),
    ],
)
def test_version_that_would_sort_wrongly_is_refused(
    planned: str, described: str, message: str
) -> None:
    with pytest.raises(ProjectError, match=message):
        version_of(planned, described)


def test_version_of_a_commit_counts_from_the_last_tag(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    commit(tmp_path)
    planned = installer_plugin.__version__.removesuffix(".dev0")
    assert find_version(tmp_path).startswith(f"{planned}.dev1+g")
    commit(tmp_path, f"v{planned}", "v-something", "other")
    assert find_version(tmp_path) == planned
    file = tmp_path / "installer_plugin/__init__.py"
    file.write_text(with_version(file.read_text(), "99.0.0.dev0"))
    commit(tmp_path)
    commit(tmp_path)
    assert find_version(tmp_path).startswith("99.0.0.dev2+g")


def test_changelog_begins_with_the_version_that_is_worked_on() -> None:
    (first, *_) = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first == installer_plugin.__version__.removesuffix(".dev0")


# --- places ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("hooks/systemd/x.service", "lib/systemd/system/x.service"),
        ("hooks/osbuild/org.x.install", "lib/osbuild/stages/org.x.install"),
        ("hooks/osbuild/org.x.install.meta.json", "lib/osbuild/stages/org.x.install.meta.json"),
        ("hooks/osbuild/stages/org.x.install", "lib/osbuild/stages/org.x.install"),
        ("hooks/osbuild/README.md", "share/doc/bootc-bound-images/hooks/osbuild/README.md"),
        ("hooks/anaconda/post.ks", "share/bootc-bound-images/hooks/anaconda/post.ks"),
        ("hooks/bootc/verify.d/50-x", "share/bootc-bound-images/hooks/bootc/verify.d/50-x"),
        ("hooks/bootc/x.service", "share/bootc-bound-images/hooks/bootc/x.service"),
        ("tests/run", None),
        ("README.md", None),
        ("installer_plugin/hooks/plan.py", None),
    ],
)
def test_each_file_has_its_place(name: str, place: str | None) -> None:
    assert place_of(name) == place


def test_wheel_has_every_module_and_every_hook(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
        contents = {m: archive.read(m) for m in there if m.startswith("installer_plugin/")}
    modules = {n for n in files(REPOSITORY) if n.startswith("installer_plugin/")}
    assert contents.keys() == modules
    for name in modules - {"installer_plugin/__init__.py"}:
        assert contents[name] == (REPOSITORY / name).read_bytes()
    installed = data(wheel)
    hooks = [name for name in files(REPOSITORY) if name.startswith("hooks/")]
    assert hooks
    for name in hooks:
        mode = installed[str(place_of(name))].external_attr >> 16
        executable = bool((REPOSITORY / name).stat().st_mode & stat.S_IXUSR)
        assert mode == stat.S_IFREG | (0o755 if executable else 0o644), name


@pytest.mark.parametrize(
    "place",
    [
        "lib/systemd/system/bound-images-verify.service",
        "share/bash-completion/completions/bootc-bound-images",
        "share/fish/vendor_completions.d/bootc-bound-images.fish",
        "share/zsh/site-functions/_bootc-bound-images",
        "share/man/man1/bootc-bound-images.1",
        "share/man/man1/bootc-bound-images-hooks-list.1",
        "share/man/man7/bootc-bound-images-hooks.7",
    ],
)
def test_wheel_has_what_a_system_looks_for(wheel: Path, place: str) -> None:
    assert place in data(wheel)


# --- metadata --------------------------------------------------------------------------------


def test_metadata_is_all_of_pyproject(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        read = email.message_from_bytes(archive.read(name))
        licence = archive.read(name.replace("METADATA", "licenses/LICENSE"))
        module = archive.read("installer_plugin/__init__.py").decode()
    assert (read["Name"], read["Summary"]) == (PROJECT["name"], PROJECT["description"])
    assert read["Version"] == assigned_version(module)
    assert read["License-Expression"] == PROJECT["license"]
    assert read["Requires-Python"] == PROJECT["requires-python"]
    assert read.get_all("Classifier") == PROJECT["classifiers"]
    assert read.get_all("Provides-Extra") == list(PROJECT["optional-dependencies"])
    assert read.get_all("Project-URL") == [f"{k}, {v}" for k, v in PROJECT["urls"].items()]
    assert 'pyudev; extra == "block"' in read.get_all("Requires-Dist", ())
    assert read.get_payload(decode=True) == (REPOSITORY / "README.md").read_bytes()
    assert licence == (REPOSITORY / "LICENSE").read_bytes()


def test_key_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    changed = text.replace("[project.urls]", "[project.gui-scripts]\nx = 'y'\n[project.urls]")
    (tmp_path / "pyproject.toml").write_text(changed)
    with pytest.raises(ProjectError, match="gui-scripts"):
        read_project(tmp_path, "1")


def test_checkers_have_nothing_to_say(wheel: Path, sdist: Path) -> None:
    run((sys.executable, "-m", "twine", "check", "--strict", wheel, sdist))
    run(("check-wheel-contents", wheel))


# --- the same every time ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(sdist, tmp_path_factory.mktemp("unpacked"))


def test_wheel_is_the_same_bytes_anywhere(wheel: Path, tree: Path, tmp_path: Path) -> None:
    copy = copy_tree(tmp_path / "elsewhere")
    (tree / ".git").rename(copy / ".git")
    try:
        again = build(copy, tmp_path / "again", umask=0o077)
    finally:
        (copy / ".git").rename(tree / ".git")
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_wheel_of_the_sdist_is_that_of_the_tree(
    wheel: Path, unpacked: Path, tmp_path: Path
) -> None:
    again = build(unpacked, tmp_path)
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_sdist_of_the_sdist_is_the_sdist(sdist: Path, unpacked: Path, tmp_path: Path) -> None:
    again = build(unpacked, tmp_path, "sdist")
    assert (again.name, again.read_bytes()) == (sdist.name, sdist.read_bytes())


def test_sdist_has_all_files_with_their_modes(unpacked: Path) -> None:
    expected = {n: os.access(REPOSITORY / n, os.X_OK) for n in files(REPOSITORY)}
    found = {n: os.access(unpacked / n, os.X_OK) for n in files(unpacked)}
    assert found == expected | {"PKG-INFO": False}


def test_tree_is_built_where_there_is_no_git(tmp_path: Path) -> None:
    copy = copy_tree(tmp_path / "mounted")
    wheel = build(copy, tmp_path / "out")
    assert f"-{installer_plugin.__version__}-" in wheel.name
    assert {p.name for p in copy.rglob("*")}.isdisjoint(("build", "__pycache__", "dist"))


# --- installed -------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment that has click and nothing else."""
    directory = tmp_path / "venv"
    run((sys.executable, "-m", "venv", directory))
    (click,) = Path(sys.prefix).glob("lib/python3*/site-packages/click/__init__.py")
    (site,) = directory.glob("lib/python3*/site-packages")
    (site / "click.pth").write_text(f"{_only(click.parent, tmp_path / 'click')}\n")
    return directory


def _only(package: Path, directory: Path) -> Path:
    """Return a directory that has this package alone."""
    directory.mkdir()
    (directory / package.name).symlink_to(package)
    return directory


def _listing(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(directory).as_posix()


def test_wheel_is_installed_used_and_removed_by_pip(wheel: Path, environment: Path) -> None:
    before = set(_listing(environment))
    pip = (environment / "bin/python", "-m", "pip", "--disable-pip-version-check")
    run((*pip, "install", "--no-deps", "--no-index", wheel))
    added = set(_listing(environment)) - before
    assert set(data(wheel)) <= added
    shown = run((environment / "bin/bootc-bound-images", "--version")).stdout
    assert shown.split()[-1] == wheel.name.split("-")[1]
    run((*pip, "check"), ok=(0, 1))  # click came without its metadata
    run((*pip, "uninstall", "--yes", "bootc-bound-images"))
    assert set(_listing(environment)) == before


def test_editable_install_leads_to_the_tree(tree: Path, tmp_path: Path) -> None:
    wheel = build(tree, tmp_path, "editable")
    with zipfile.ZipFile(wheel) as archive:
        (link,) = (name for name in archive.namelist() if name.endswith(".pth"))
        assert archive.read(link).decode().strip() == str(tree)


def test_metadata_alone_is_that_of_the_wheel(wheel: Path, tree: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'packaging'); import backend; "
        f"print(backend.prepare_metadata_for_build_wheel({str(tmp_path)!r}))"
    )
    name = run((sys.executable, "-B", "-c", script), cwd=tree).stdout.strip()
    with zipfile.ZipFile(wheel) as archive:
        for file in (tmp_path / name).rglob("*"):
            if file.is_file():
                member = f"{name}/{file.relative_to(tmp_path / name)}"
                assert archive.read(member) == file.read_bytes()
