"""The documents lead to what is there, and name nobody's machines."""

import re
import shlex
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from installer_plugin.cli.install import install
from installer_plugin.hosts.bootc.bootc_cli import parse_bootc_install
from tests.support.documents import REPOSITORY, anchors, documents, links, read

TREE = re.compile(r"`((?:docs|hooks|installer_plugin|packaging|tests|vm-tests)/[\w./-]*)`")
"""A path of the repository in code marks."""
MADE_BY_A_RUN = frozenset(("vm-tests/.cache",))
INSTALL_LINE = re.compile(r"(?:bootc-bound-images|installer-image) install ([^`\n]*/dev/\w+)")
COMING = frozenset(("docs/image-builder.md", "packaging/README.md"))
"""Linked to before they are there."""


@pytest.mark.parametrize("document", documents())
def test_links_lead_somewhere(document: str) -> None:
    folder = (REPOSITORY / document).parent
    for link in links(read(document)):
        if link.startswith(("https://", "mailto:")) or link in COMING:
            continue
        path, _, anchor = link.partition("#")
        target = folder / path if path else REPOSITORY / document
        assert target.exists(), f"{document} links to {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{document} links to {link}"


def test_installations_that_are_shown_can_be_typed() -> None:
    shown = [
        line
        for document in (*documents(), "packaging/Containerfile")
        for line in INSTALL_LINE.findall(read(document))
    ]
    assert len(shown) > 3
    for line in shown:
        words = install.make_context("install", shlex.split(line)).params["words"]
        assert parse_bootc_install(words).target == Path("/dev/vda"), line


@pytest.mark.parametrize("document", documents())
def test_paths_that_are_named_are_there(document: str) -> None:
    named = set(TREE.findall(read(document))) - MADE_BY_A_RUN
    # The page of the rooms names the package's files by their rooms, one of which is hooks/.
    places = (REPOSITORY, REPOSITORY / "installer_plugin")
    assert [path for path in sorted(named) if not any((p / path).exists() for p in places)] == []


@pytest.mark.parametrize("document", documents())
def test_images_are_of_no_registry_that_exists(document: str) -> None:
    hosts = re.findall(r"\b((?:[a-z0-9-]+\.)+[a-z]{2,})/[a-z0-9/-]+[:@]\w", read(document))
    assert [host for host in hosts if not host.endswith(".example")] == []


def test_markers_are_those_that_pytest_knows() -> None:
    settings = tomllib.loads(read("pyproject.toml"))["tool"]["pytest"]["ini_options"]
    known = {marker.partition(":")[0] for marker in settings["markers"]}
    contributing = read("CONTRIBUTING.md").split("| marker |", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"^\| `(\w+)` \|", contributing, re.MULTILINE)) == known


def test_documents_are_what_is_looked_at() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md", "hooks/README.md"} <= set(
        documents()
    )
    assert all(PurePosixPath(document).suffix == ".md" for document in documents())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see [a](b.md) and [c](d/e.md#f)", ["b.md", "d/e.md#f"]),
        ("[`code`](x.md)", ["x.md"]),
        ("in code: `[a](b)`", []),
        ("```\n[a](b)\n```\n[c](d)", ["d"]),
    ],
)
def test_links_are_found(text: str, expected: list[str]) -> None:
    assert links(text) == expected
