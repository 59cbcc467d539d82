"""How often one installation reads declarations and content, and looks for images, in all its processes."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from installer_plugin.hooks.phases import Phase
from tests.hosts.scene import Scene, bind

pytestmark = pytest.mark.real

APP, OTHER = "localhost/app:1", "localhost/other:1"

# Read by every Python program that the installation starts: the modules that are counted have their
# functions replaced before anybody imports those.
COUNTING = """
import functools, importlib.machinery, json, os, sys

COUNTED = {
    "installer_plugin.stages.discover": ("discover", lambda root: str(root.label)),
    "installer_plugin.stages.resolve": ("resolve", lambda bound, sources: len(bound)),
    "installer_plugin.storage.engine.source_jobs": (
        "examined", lambda root, check, progress: check.layer_id
    ),
    "installer_plugin.storage.layer.proof": (
        "prove_layer", lambda root, claim, progress, reading: [claim.id, reading.content]
    ),
}


def counted(function, describe):
    @functools.wraps(function)
    def call(*args, **kwargs):
        line = json.dumps([function.__name__, describe(*args, **kwargs)])
        with open(os.environ["COUNT_FILE"], "a") as file:
            file.write(line + "\\n")
        return function(*args, **kwargs)

    return call


class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target) if name in COUNTED else None
        if spec is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            function, describe = COUNTED[name]
            setattr(module, function, counted(getattr(module, function), describe))

        spec.loader.exec_module = exec_module
        return spec


if "COUNT_FILE" in os.environ:
    sys.meta_path.insert(0, Finder)
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one run did."""

    calls: Sequence[tuple[str, object]]

    def of(self, function: str) -> list[object]:
        return [detail for name, detail in self.calls if name == function]

    def layers(self, *, content: bool) -> Counter[str]:
        """How often each layer was proven, with its content or without it."""
        return Counter(
            layer for layer, read in map(_layer, self.of("prove_layer")) if read is content
        )


def _layer(detail: object) -> tuple[str, bool]:
    layer, content = detail if isinstance(detail, list) else ("", False)
    return str(layer), bool(content)


@pytest.fixture
def counting(tmp_path: Path) -> dict[str, str]:
    """Variables that make our programs count."""
    place = tmp_path / "counting"
    place.mkdir()
    (place / "sitecustomize.py").write_text(COUNTING)
    return {"PYTHONPATH": str(place), "COUNT_FILE": str(tmp_path / "counts")}


def _counts(env: dict[str, str]) -> Counted:
    lines = Path(env["COUNT_FILE"]).read_text().splitlines()
    return Counted([(name, detail) for name, detail in map(json.loads, lines)])


@pytest.mark.parametrize("mode", ["during", "after"])
def test_installation_reads_each_thing_once(
    scene: Scene, counting: dict[str, str], mode: str
) -> None:
    bind(scene.container, APP, OTHER)
    done = scene.install(own=(f"--when={mode}",), env=counting)
    assert f"mode: {mode} (" in done.stderr
    counts = _counts(counting)
    source, deployment = map(str, counts.of("discover"))
    assert source == "/"
    assert "/ostree/deploy/" in deployment
    assert counts.of("resolve") == [2]
    examined = Counter(counts.of("examined"))
    assert set(examined.values()) == {1}
    layers = counts.layers(content=True)
    assert set(layers.values()) == {1}
    assert set(layers) == set(examined)
    # The last look compares all but the content of the same layers.
    assert counts.layers(content=False) == layers


def test_content_is_read_again_where_that_is_asked_for(
    scene: Scene, counting: dict[str, str]
) -> None:
    bind(scene.container, APP)
    scene.install(own=("--verify-again",), env=counting)
    counts = _counts(counting)
    assert set(counts.layers(content=True).values()) == {2}
    assert not counts.layers(content=False)


def test_content_that_nobody_has_read_is_read_at_the_end(
    scene: Scene, counting: dict[str, str]
) -> None:
    """A hook in the place of our verification proves nothing to us."""
    bind(scene.container, APP)
    scene.hooks("50-verify", "exit 0", phase=Phase.VERIFY)
    scene.install(own=("--unsafe-skip-verify",), env=counting)
    counts = _counts(counting)
    assert set(counts.layers(content=True).values()) == {1}
    assert not counts.layers(content=False)
