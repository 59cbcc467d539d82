"""What pyproject.toml says, and the core metadata that is made of it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METADATA_VERSION = "2.4"
"""Core metadata with licence expressions (PEP 639)."""
DYNAMIC = ["version"]
KNOWN = frozenset(
    (
        "authors", "classifiers", "dependencies", "description", "dynamic", "keywords", "license",
        "license-files", "name", "optional-dependencies", "readme", "requires-python", "scripts",
        "urls",
    )
)  # fmt: skip
"""Keys of [project] that are carried over; another one is an error, not ignored."""


class ProjectError(Exception):
    """The tree cannot be built: the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A tree that packages are built from."""

    root: Path
    table: Mapping[str, Any]
    """[project] of pyproject.toml."""
    version: str

    @property
    def file_name(self) -> str:
        """The name as it stands in file names: `bootc_bound_images`."""
        return re.sub(r"[-_.]+", "_", str(self.table["name"])).lower()

    @property
    def base_name(self) -> str:
        """The name and version that file names begin with."""
        return f"{self.file_name}-{self.version}"


def read_project(root: Path, version: str) -> Project:
    """Read a tree's pyproject.toml.

    Raises ProjectError for a key that would be lost.
    """
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    unknown = sorted(table.keys() - KNOWN)
    if unknown:
        raise ProjectError(f"pyproject.toml: [project] has keys that are not built: {unknown}")
    if table.get("dynamic") != DYNAMIC:
        raise ProjectError(f"pyproject.toml: 'dynamic' has to be {DYNAMIC}")
    return Project(root=root, table=table, version=version)


def metadata(project: Project) -> str:
    """Return METADATA of the wheel, which is PKG-INFO of the sdist."""
    readme = (project.root / project.table["readme"]).read_text(encoding="utf-8")
    lines = [f"{name}: {value}" for name, value in _fields(project)]
    return "\n".join(lines) + f"\n\n{readme}"


def entry_points(project: Project) -> str:
    """Return entry_points.txt of the wheel."""
    scripts: Mapping[str, str] = project.table["scripts"]
    return "".join(["[console_scripts]\n", *(f"{k} = {v}\n" for k, v in scripts.items())])


def _fields(project: Project) -> Iterator[tuple[str, str]]:
    table = project.table
    yield "Metadata-Version", METADATA_VERSION
    yield "Name", table["name"]
    yield "Version", project.version
    yield "Summary", table["description"]
    if table.get("keywords"):
        yield "Keywords", ",".join(table["keywords"])
    authors: Sequence[Mapping[str, str]] = table["authors"]
    yield "Author", ", ".join(author["name"] for author in authors)
    yield "License-Expression", table["license"]
    for name in table["license-files"]:
        yield "License-File", name
    for classifier in table["classifiers"]:
        yield "Classifier", classifier
    for label, url in table["urls"].items():
        yield "Project-URL", f"{label}, {url}"
    yield "Requires-Python", table["requires-python"]
    for requirement in table["dependencies"]:
        yield "Requires-Dist", requirement
    for extra, requirements in table["optional-dependencies"].items():
        yield "Provides-Extra", extra
        for requirement in requirements:
            yield "Requires-Dist", f'{requirement}; extra == "{extra}"'
    yield "Description-Content-Type", "text/markdown; charset=UTF-8"
