"""Imports point one way, and what touches the outside has one place."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "installer_plugin"
ROOT = Path(__file__).parents[2] / PACKAGE

# A part may import the parts of the rows above its own, and itself. A part is a module or a folder; a
# folder whose own folders have places here has none itself.
LEVELS = (
    ("errors",),
    ("model",),
    ("events", "fields", "files", "process"),
    ("declarations", "image_json", "lockfile"),
    ("expectations", "hooks", "receipt"),
    ("block", "storage.base", "storage.layer", "storage.selinux", "storage.tool_argv"),
    ("storage.store",),
    ("storage.source",),
    ("storage.engine",),
    ("request", "stages"),
    ("declared",),
    ("sources",),
    ("opening",),
    ("demands", "listing"),
    ("proving",),
    ("steps",),
    ("pipeline",),
    ("state",),
    ("hosts",),
    ("cli",),
    ("__main__",),
)
LEVEL_OF = {part: level for level, row in enumerate(LEVELS) for part in row}
ONLY_IN = {
    "subprocess": "process",
    "click": "cli",
    "pyudev": "block",
    "blivet": "block",
    "gi": "block",
}
SEPARATE = {"stages": "stage", "hosts": "host"}
"""Rooms whose members do not know each other, and what a member is called."""
MEANINGLESS = frozenset(("common", "helper", "helpers", "misc", "util", "utils"))


def imported(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, wherever in it."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                above = package[: len(package) - level + 1] if level else []
                base = ".".join([*above, *([origin] if origin else [])])
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name
            case _:
                pass


def part_of(name: str) -> str:
    """Return the part of the package that a dotted name of ours belongs to, the innermost one.

    A name that has no place in the order is its own first word; the package itself is "".
    """
    words = name.split(".")[1:]
    for count in range(len(words), 0, -1):
        if (part := ".".join(words[:count])) in LEVEL_OF:
            return part
    return words[0] if words else ""


def _holds_parts(package: str) -> bool:
    """Tell whether a package has no place itself because its folders have."""
    return any(part.startswith(package.partition(".")[2] + ".") for part in LEVEL_OF)


def violation(module: str, target: str) -> str | None:
    """Say which rule is broken when `module` imports `target`, both as dotted names."""
    own, top = part_of(module), target.split(".", maxsplit=1)[0]
    if top != PACKAGE:
        return _foreign_violation(own, top)
    part = part_of(target)
    if part == "" or part.startswith("__version"):
        return None  # the package itself holds no more than its version
    if part not in LEVEL_OF:
        return f"{part} has no place in the order"
    if own == part:
        sibling = own in SEPARATE and module.split(".")[2:3] != target.split(".")[2:3]
        return f"a {SEPARATE[own]} imports no other" if sibling and module.count(".") > 1 else None
    return None if LEVEL_OF[part] < LEVEL_OF.get(own, -1) else f"{own} may not import {part}"


def _foreign_violation(own: str, top: str) -> str | None:
    if top in ONLY_IN:
        room = own.split(".", maxsplit=1)[0]
        return None if room == ONLY_IN[top] else f"{top} is imported by {ONLY_IN[top]} alone"
    if top not in sys.stdlib_module_names:
        return f"{top} is neither the standard library nor a declared dependency"
    return None


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """List every broken rule of one module's source."""
    if not MEANINGLESS.isdisjoint(module.split(".")):
        return ["the name says nothing"]
    if part_of(module) not in {*LEVEL_OF, ""} and not (is_package and _holds_parts(module)):
        return [f"{part_of(module)} has no place in the order"]
    targets = imported(ast.parse(source), module, is_package=is_package)
    found = ((target, violation(module, target)) for target in targets)
    return [f"imports {target}: {broken}" for target, broken in found if broken]


def modules() -> dict[str, Path]:
    """Map the dotted names of the package's modules to their files."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_module_keeps_the_import_rules(module: str) -> None:
    path = modules()[module]
    assert violations(module, path.read_text(), is_package=path.name == "__init__.py") == []


def test_the_package_is_what_is_looked_at() -> None:
    assert {f"{PACKAGE}.{name}" for name in ("model", "errors", "process.runner")} <= set(modules())


def test_no_imports_in_a_circle() -> None:
    files = modules()
    graph = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text())
        named = set(imported(tree, module, is_package=path.name == "__init__.py"))
        # `from a.b import c` names a.b.c, which is a module or a thing in module a.b.
        graph[module] = ({n for n in named if n in files} | {
            n.rpartition(".")[0] for n in named if n not in files
        }) & files.keys() - {module}  # fmt: skip
    assert circle(graph) == []


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that are in a circle or lead into one."""
    left = {module: set(targets) for module, targets in graph.items()}
    while free := {module for module, targets in left.items() if not targets & left.keys()}:
        left = {module: targets for module, targets in left.items() if module not in free}
    return sorted(left)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("declarations.quadlet", "import subprocess", "subprocess is imported by process alone"),
        ("pipeline", "from subprocess import run", "subprocess is imported by process alone"),
        ("stages.copy", "import click", "click is imported by cli alone"),
        ("hosts.bootc", "import pyudev", "pyudev is imported by block alone"),
        (
            "storage.layer.tree",
            "def f():\n    import blivet.devices",
            "blivet is imported by block",
        ),
        ("hosts.bootc", "import importlib\nimportlib.import_module('gi')", "gi is imported by"),
        ("files.rootfs", "import requests", "requests is neither"),
        (
            "model",
            "from installer_plugin.declarations import lint",
            "model may not import declarations",
        ),
        ("errors", "from . import lockfile", "errors may not import lockfile"),
        (
            "declarations.reference",
            "from installer_plugin import receipt",
            "may not import receipt",
        ),
        (
            "storage.layer.tree",
            "from installer_plugin.block import base",
            "storage.layer may not import block",
        ),
        ("block.udev", "from ..stages import copy", "block may not import stages"),
        ("storage.layer.tree", "from ..store import locks", "layer may not import storage.store"),
        ("storage.source.ssh", "from ..engine import scp", "source may not import storage.engine"),
        ("storage.surprise", "", "storage has no place"),
        ("stages.copy", "from installer_plugin.hosts import bootc", "stages may not import hosts"),
        ("stages.copy", "from installer_plugin.stages import verify", "a stage imports no other"),
        ("stages.copy", "from .verify import verify", "a stage imports no other"),
        ("stages.copy", "import installer_plugin.stages.label", "a stage imports no other"),
        ("stages.copy", "from installer_plugin import pipeline", "stages may not import pipeline"),
        ("pipeline", "from installer_plugin.hosts.bootc import x", "pipeline may not import hosts"),
        ("hosts.bootc", "from installer_plugin.cli import main", "hosts may not import cli"),
        ("hosts.bootc.run", "from ..booted import sync", "a host imports no other"),
        ("pipeline", "from installer_plugin import surprise", "surprise has no place"),
        ("surprise", "", "surprise has no place"),
        ("storage.layer.utils", "", "the name says nothing"),
        ("helpers", "", "the name says nothing"),
    ],
)
def test_a_broken_rule_is_found(module: str, source: str, expected: str) -> None:
    (found,) = violations(f"{PACKAGE}.{module}", source)
    assert expected in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("process.runner", "import subprocess"),
        ("cli.options", "import click"),
        ("block.blivet", "import blivet"),
        ("model", "from installer_plugin.errors import ConfigError"),
        ("stages.verify", "from installer_plugin.storage.layer import tar_split"),
        ("stages.verify.layers", "from installer_plugin.stages.verify.names import check"),
        ("storage.layer.proof", "from .tree import copy_tree"),
        ("cli", "from installer_plugin import __version__, hosts, pipeline"),
        ("__main__", "from installer_plugin.cli import main"),
    ],
)
def test_what_the_rules_allow_passes(module: str, source: str) -> None:
    assert violations(f"{PACKAGE}.{module}", source) == []


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    (found,) = violations(PACKAGE, "from . import cli", is_package=True)
    assert "may not import cli" in found


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}
    assert circle(graph) == ["a", "b", "c"]
