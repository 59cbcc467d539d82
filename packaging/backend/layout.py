"""Where each file goes in a system: below the prefix, which is /usr or /usr/local."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backend.project import Project
from backend.tree import PACKAGE, assigned_version, files, with_version

NAME = "bootc-bound-images"
SHARE = f"share/{NAME}"
DOCUMENTS = f"share/doc/{NAME}"
EXECUTABLE, PLAIN = 0o755, 0o644

# First match decides. A pattern's files lie flat in the directory, or keep their path below it.
_PLACES = (
    ("hooks/systemd/*", "lib/systemd/system"),
    ("hooks/osbuild/**/org.*", "lib/osbuild/stages"),
    ("packaging/completion/*.bash", "share/bash-completion/completions"),
    ("packaging/completion/*.zsh", "share/zsh/site-functions"),
    ("packaging/completion/*.fish", "share/fish/vendor_completions.d"),
)
_NAMES = {
    "share/bash-completion/completions": NAME,
    "share/zsh/site-functions": f"_{NAME}",
}
"""What the one file of a directory has to be called, so that the shell finds it."""
_KEPT = "hooks"
"""Everything else of this folder keeps its path, in the program's directory or that of its documents."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a package."""

    path: str
    content: bytes
    mode: int = PLAIN


def modules(project: Project) -> Iterator[Member]:
    """Yield the package's files; the version is written into its __init__.py."""
    for name in files(project.root):
        if name.startswith(f"{PACKAGE}/"):
            member = _read(project.root, name, name)
            if name == f"{PACKAGE}/__init__.py":
                source = member.content.decode()
                assert assigned_version(source)
                member = Member(name, with_version(source, project.version).encode())
            yield member


def system_files(project: Project, time: int) -> list[Member]:
    """Return what goes below the prefix: hooks, units, stages, completion and man pages."""
    found = [
        _read(project.root, name, place)
        for name in files(project.root)
        if (place := place_of(name)) is not None
    ]
    return sorted([*found, *_man_pages(project, time)], key=lambda member: member.path)


def place_of(name: str) -> str | None:
    """Return the path below the prefix of a file of the tree, None for one that is not installed."""
    path = PurePosixPath(name)
    for pattern, directory in _PLACES:
        if _matches(path, pattern):
            return f"{directory}/{_NAMES.get(directory, path.name)}"
    if path.parts[0] != _KEPT:
        return None
    return f"{DOCUMENTS if path.suffix == '.md' else SHARE}/{name}"


def _matches(path: PurePosixPath, pattern: str) -> bool:
    first, _, last = pattern.partition("/**/")
    if not last:
        return path.parent == PurePosixPath(pattern).parent and path.match(pattern)
    return path.is_relative_to(first) and path.match(last)


def _man_pages(project: Project, time: int) -> Sequence[Member]:
    # The pages are made of the commands themselves, which need click: nothing else here does.
    sys.path.insert(0, str(project.root))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        from manual.pages import pages  # noqa: PLC0415  only here is click needed
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(str(project.root))
    return [
        Member(f"share/man/man{page.section}/{page.name}.{page.section}", page.text.encode())
        for page in pages(project.root, project.version, time)
    ]


def _read(root: Path, name: str, path: str) -> Member:
    file = root / name
    mode = EXECUTABLE if file.stat().st_mode & 0o100 else PLAIN
    return Member(path, file.read_bytes(), mode)
