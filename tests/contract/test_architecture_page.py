"""What docs/architecture.md says of rooms, import rules and flows is what the tree has."""

import ast
import re

import pytest

from installer_plugin.pipeline import Stage
from tests.contract import test_architecture as rules
from tests.support.documents import read, rows, section

PAGE = read("docs/architecture.md")
NAMED_PATH = re.compile(r"`([\w./-]+(?:/|\.py|\.md))`")
NAMED_THING = re.compile(r"`([\w/]+)\.([A-Za-z_]\w*(?:\.\w+)*)(?:\(\))?`")
"""A function, class or method of a module: `room/module.name()` or `module.Class.method()`."""


def rooms() -> set[str]:
    """Folders and top-level modules of the package, as the page writes them."""
    found = {f"{path.parent.relative_to(rules.ROOT)}/" for path in rules.ROOT.rglob("__init__.py")}
    return (found - {"./"}) | {path.name for path in rules.ROOT.glob("[!_]*.py")} | {"__main__.py"}


def things() -> list[tuple[str, str]]:
    """Module and dotted name of everything that the flows name."""
    flows = PAGE.split("## How `copy` runs", 1)[1].split("## Words", 1)[0]
    return [(module, name) for module, name in NAMED_THING.findall(flows) if name != "py"]


def defined(tree: ast.Module) -> set[str]:
    """Dotted names of the functions and classes of a module, and of the methods in them."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    top = [node for node in tree.body if isinstance(node, kinds)]
    return {node.name for node in top} | {
        f"{node.name}.{inner.name}"
        for node in top
        for inner in node.body
        if isinstance(inner, kinds)
    }


def test_rooms_are_those_of_the_tree() -> None:
    named = [row[0] for row in rows(PAGE, "Rooms")]
    assert sorted(named) == sorted(rooms())


def test_import_rules_are_those_that_are_held() -> None:
    table = rows(PAGE, "Import rules")
    assert [int(number) for number, _ in table] == list(range(1, len(table) + 1))
    levels = [tuple(sorted(re.findall(r"[\w.]+", parts))) for _, parts in table]
    assert levels == [tuple(sorted(row)) for row in rules.LEVELS]


def test_libraries_and_the_rooms_that_may_import_them() -> None:
    libraries = section(PAGE, "Import rules").split("| library |", 1)[1]
    named = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", libraries, re.MULTILINE))
    assert named == rules.ONLY_IN


def test_rooms_whose_members_do_not_know_each_other() -> None:
    said = re.findall(r"a (\w+)\s+imports\s+no\s+other\s+(\w+)", section(PAGE, "Import rules"))
    assert said == [(member, member) for member in rules.SEPARATE.values()]
    assert all(f"`{room}`" in section(PAGE, "Import rules") for room in rules.SEPARATE)


def test_names_that_say_nothing() -> None:
    (listed,) = re.findall(r"^- Names that say nothing are refused: (.*)$", PAGE, re.MULTILINE)
    assert set(re.findall(r"\w+", listed)) == rules.MEANINGLESS


def test_parts_that_have_a_place_in_the_order_are_there() -> None:
    """A rule about a room that is gone holds nothing."""
    paths = [rules.ROOT / part.replace(".", "/") for part in rules.LEVEL_OF]
    assert [
        path for path in paths if not path.is_dir() and not path.with_suffix(".py").is_file()
    ] == []


def test_files_that_are_named_are_there() -> None:
    named = set(NAMED_PATH.findall(PAGE))
    places = (rules.ROOT, rules.ROOT.parent)
    missing = {
        path
        for path in named
        if not any((place / path).exists() for place in places)
        and not list(rules.ROOT.rglob(path.strip("/")))
    }
    assert missing <= {"ostree/", "composefs/", "boot/"}


@pytest.mark.parametrize(("module", "name"), things(), ids=".".join)
def test_functions_of_the_flows_are_where_the_page_says(module: str, name: str) -> None:
    assert name in defined(ast.parse((rules.ROOT / f"{module}.py").read_text()))


def test_types_in_the_table_of_words_exist() -> None:
    words = section(PAGE, "Words") + section(PAGE, "What is known of an image")
    named = set(re.findall(r"`([A-Z]\w+)`", words)) - {"Image"}
    classes = {
        node.name
        for path in rules.modules().values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    aliases = {"ManifestDigest", "ImageId", "DiffId"}  # NewTypes, which are assigned
    model = (rules.ROOT / "model.py").read_text()
    assert all(f"{alias} = NewType" in model for alias in aliases)
    assert named - classes - aliases == set()


def test_stages_are_in_the_order_of_the_recipe() -> None:
    copy = PAGE.split("## How `copy` runs", 1)[1].split("```", 2)[1]
    shown = re.findall(r"--- (\w+) -*>", copy)
    assert [word for word in shown if word in set(Stage)] == list(Stage)
    (listed,) = re.findall(r"^\| stage \| one of (.+): `Stage` \|$", PAGE, re.MULTILINE)
    assert re.findall(r"\w+", listed.replace(" or ", " ")) == list(Stage)


def test_pictures_fit_a_terminal() -> None:
    pictures = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(pictures) == 4
    too_long = [line for text in pictures for line in text.splitlines() if len(line) > 80]
    assert too_long == []


@pytest.mark.parametrize(
    ("old", "new", "test"),
    [
        ("| `files/` |", "| `flies/` |", test_rooms_are_those_of_the_tree),
        (
            "| 17 | `pipeline` |",
            "| 17 | `pipeline` `state` |",
            test_import_rules_are_those_that_are_held,
        ),
        (
            "| `click` | `cli` |",
            "| `click` | `stages` |",
            test_libraries_and_the_rooms_that_may_import_them,
        ),
        ("`receipt.py`, the", "`reciept.py`, the", test_files_that_are_named_are_there),
    ],
)
def test_what_is_not_true_is_found(
    old: str, new: str, test: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert old in PAGE
    monkeypatch.setitem(globals(), "PAGE", PAGE.replace(old, new))
    assert callable(test)
    with pytest.raises(AssertionError):
        test()
