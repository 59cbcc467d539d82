"""The documents that programs read are what docs/formats.md shows."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from installer_plugin.pipeline import Stage
from tests.support.formats import PAGE, assert_as_described, difference, examples
from tests.support.images import ImageSources
from tests.support.product import STORE, Lab, document

Make = Callable[[Lab, Path], Mapping[str, Any]]


@pytest.fixture
def root(image_sources: ImageSources, lab: Lab) -> Path:
    """A source root that binds one image, about which there is a finding."""
    return lab.root(image_sources.app_b.name)


def _of(*words: str, before: tuple[str, ...] = (), ok: int = 0) -> Make:
    """What a command prints; ROOT, TARGET and FILE stand for places."""

    def make(lab: Lab, root: Path) -> Mapping[str, Any]:
        places = {"ROOT": root, "TARGET": lab.target, "FILE": lab.directory / "file"}
        if before:
            lab.run(*(places.get(word, word) for word in before))
        return document(
            lab.run(*(places.get(word, word) for word in words), "--format=json", ok=ok)
        )

    return make


def _receipt(lab: Lab, root: Path) -> Mapping[str, Any]:
    lab.run("copy", root, lab.target)
    found = json.loads((lab.target / STORE).with_name("bound-images.json").read_text())
    return {**found, "tools": {"bootc-bound-images": found["tools"]["bootc-bound-images"]}}


def _lock_file(lab: Lab, root: Path) -> Mapping[str, Any]:
    return dict(json.loads(lab.run("lock", root).stdout))


def _missing(lab: Lab, root: Path) -> Mapping[str, Any]:
    (root / "usr/share/containers/systemd/0.image").write_text("[Image]\nImage=q.example/no:1\n")
    return _of("check", "ROOT", ok=4)(lab, root)


def _stage(name: Stage) -> Make:
    def make(lab: Lab, root: Path) -> Mapping[str, Any]:
        done: Mapping[str, Any] = {}
        for stage in Stage:
            given = ("--source", root, "--target", lab.target) if stage is Stage.DISCOVER else ()
            argv = ("stage", stage, "--state", lab.directory / "state", *given, "--format=json")
            done = document(lab.run(*argv))
            if stage is name:
                break
        return done

    return make


MADE: Mapping[str, Make] = {
    "list": _of("list", "ROOT"),
    "check": _of("check", "ROOT"),
    "copy": _of("copy", "ROOT", "TARGET"),
    "verify": _of("verify", "TARGET", before=("copy", "ROOT", "TARGET")),
    "lock": _of("lock", "ROOT", "-o", "FILE"),
    "hooks": _of("hooks", "list"),
    "error": _missing,
    "receipt": _receipt,
    "lock-file": _lock_file,
    "stage-discover": _stage(Stage.DISCOVER),
    "stage-resolve": _stage(Stage.RESOLVE),
    "stage-preflight": _stage(Stage.PREFLIGHT),
    "stage-copy": _stage(Stage.COPY),
    "stage-label": _stage(Stage.LABEL),
    "stage-verify": _stage(Stage.VERIFY),
    "stage-record": _stage(Stage.RECORD),
}
KINDS = ("bound", "listed", "resolved", "copied", "verified", "proven")
PARTS = frozenset(f"{kind}-image" for kind in KINDS)
"""Examples that stand in those of the documents."""
ELSEWHERE = frozenset(("install", "hook-state", "progress"))
"""Examples that other tests compare, which have what is needed."""


@pytest.mark.parametrize("name", MADE)
def test_document_is_what_the_page_shows(name: str, lab: Lab, root: Path) -> None:
    assert_as_described(name, MADE[name](lab, root))


def test_every_example_is_compared() -> None:
    assert examples().keys() == MADE.keys() | PARTS | ELSEWHERE, PAGE


@pytest.mark.parametrize(
    ("real", "example", "where"),
    [
        ({"a": 1}, {"a": "x"}, "f.a: int, described as str"),
        ({"a": 1, "b": 2}, {"a": 1}, "f: has ['a', 'b'], described as ['a']"),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, "f.a[0]: has ['b'], described as ['c']"),
        ({"a": ["x"]}, {"a": ["a bound image"]}, "f.a[0]: str, described as dict"),
        ({"a": None}, {"a": "x"}, ""),
        ({"a": []}, {"a": [1]}, ""),
    ],
)
def test_difference_from_the_page_is_seen(real: object, example: object, where: str) -> None:
    assert difference(real, example, "f") == where
