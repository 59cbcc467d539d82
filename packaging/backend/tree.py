"""The tree that is built: its files, its version and its time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from backend.project import ProjectError

PACKAGE = "installer_plugin"
TAGS = "v[0-9]*"
"""Releases are tagged v1.2.3."""
_ASSIGNED = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_DESCRIBED = re.compile(r"v(?P<tag>[0-9.]+)-(?P<commits>\d+)-g(?P<commit>[0-9a-f]+)")
_NEXT = re.compile(r"(?P<release>\d+(\.\d+)*)\.dev0")
_LITTER = frozenset((".git", ".venv", ".cache", "__pycache__", "dist"))


def files(root: Path) -> list[str]:
    """Return the tree's files, relative, sorted: what git knows or would add, else all there are."""
    if has_git(root):
        listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        names = {name for name in listed.split("\0") if name}
        return sorted(name for name in names if (root / name).is_file())
    return sorted(path.relative_to(root).as_posix() for path in _walk(root))


def has_git(root: Path) -> bool:
    """Whether git can be asked about the tree; a container in which it is built may have none."""
    return (root / ".git").exists() and shutil.which("git") is not None


def is_sdist(root: Path) -> bool:
    """Whether the tree was unpacked from an sdist."""
    return (root / "PKG-INFO").is_file()


def find_version(root: Path) -> str:
    """Return the version: the sdist's, or by git's tags, or the one that is being worked on.

    A commit with a tag v1.2.3 has that version. Another one has the version that is being worked on,
    `__version__` of the package, with the number of commits since the last tag (or since the first
    commit) in the place of its 0: 1.3.0.dev42+g0123abcd.
    """
    if is_sdist(root):
        (version,) = re.findall(r"^Version: (.+)$", (root / "PKG-INFO").read_text(), re.MULTILINE)
        return str(version)
    planned = assigned_version((root / PACKAGE / "__init__.py").read_text())
    if not has_git(root):
        return planned
    return version_of(planned, _describe(root))


def version_of(planned: str, described: str) -> str:
    """Return the version of a commit that git describes as v1.2.3-COMMITS-gHASH."""
    found = _DESCRIBED.fullmatch(described)
    following = _NEXT.fullmatch(planned)
    if not found or not following:
        raise ProjectError(f"no version can be made of {planned!r} and {described!r}")
    if found["commits"] == "0":
        return found["tag"]
    if _numbers(found["tag"]) >= _numbers(following["release"]):
        raise ProjectError(f"{found['tag']} is released: __version__ {planned!r} is not after it")
    return f"{following['release']}.dev{found['commits']}+g{found['commit']}"


def assigned_version(source: str) -> str:
    """Return the __version__ that a module's source assigns."""
    (version,) = _ASSIGNED.findall(source)
    return str(version)


def with_version(source: str, version: str) -> str:
    """Return a module's source with another __version__."""
    return _ASSIGNED.sub(f'__version__ = "{version}"', source)


def epoch(root: Path) -> int:
    """Return the time that goes into archives, in seconds: SOURCE_DATE_EPOCH, else the commit's."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    if has_git(root):
        return int(_git(root, "log", "-1", "--format=%ct"))
    # An sdist's files have the time of its commit.
    return int((root / "pyproject.toml").stat().st_mtime)


def _describe(root: Path) -> str:
    """Describe the commit that is checked out; where nothing is released yet, as v0 and all commits."""
    tags = _git(root, "tag", "--list", TAGS, "--merged", "HEAD").split()
    if tags:
        return _git(root, "describe", "--tags", "--long", "--abbrev=8", "--match", TAGS).strip()
    commits = _git(root, "rev-list", "--count", "HEAD").strip()
    return f"v0-{commits}-g{_git(root, 'rev-parse', '--short=8', 'HEAD').strip()}"


def _git(root: Path, *words: str) -> str:
    # The tree may belong to somebody else, as where it is mounted into a container. Whoever builds it
    # runs its code anyway.
    argv = ("git", "-c", f"safe.directory={root.resolve()}", *words)
    try:
        done = subprocess.run(argv, cwd=root, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise ProjectError(f"git {' '.join(words)}: {error.stderr.strip()}") from error
    return done.stdout


def _walk(directory: Path) -> Iterator[Path]:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            if entry.name not in _LITTER:
                yield from _walk(entry)
        else:
            yield entry


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
