"""JSON that is changed in places: what is not changed keeps every byte."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.hosts.image_builder.json_text import (
    Node,
    parse_json,
    replaced,
    spliced,
    with_items,
    with_members,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
INDENTS: Sequence[int | str | None] = (None, 1, 4, "\t")


def plain(node: Node) -> object:
    if node.members is not None:
        return {key: plain(value) for key, value in node.members.items()}
    if node.items is not None:
        return [plain(item) for item in node.items]
    return node.scalar


@given(VALUES, st.sampled_from(INDENTS))
def test_every_document_is_read_as_json_reads_it(value: object, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent)
    node = parse_json(f" {text}\n")
    assert plain(node) == value
    assert (node.start, node.end) == (1, 1 + len(text))


@given(st.dictionaries(st.text(), VALUES), VALUES, st.sampled_from(INDENTS))
def test_a_member_is_added_and_the_rest_stays(
    members: dict[str, object], value: object, indent: int | str | None
) -> None:
    members.pop("new", None)
    text = json.dumps({"a": members, "z": 1}, indent=indent)
    node = parse_json(text).get("a")
    assert node is not None
    after = spliced(text, [with_members(text, node, {"new": value})])
    assert json.loads(after) == {"a": {**members, "new": value}, "z": 1}
    assert list(json.loads(after)["a"]) == [*members, "new"]
    if members:
        assert after.startswith(text[: node.end - 1].rstrip())
    assert after.endswith(text[node.end :])


@given(st.lists(VALUES), st.integers(0, 5), st.sampled_from(INDENTS))
def test_items_are_added_behind_any_other(
    items: list[object], after: int, indent: int | str | None
) -> None:
    text = json.dumps([items], indent=indent)
    node = (parse_json(text).items or [])[0]
    place = after if after < len(items) else None
    changed = spliced(text, [with_items(text, node, ["x", {"y": []}], after=place)])
    at = len(items) if place is None else place + 1
    assert json.loads(changed) == [[*items[:at], "x", {"y": []}, *items[at:]]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":[]}', '{"a":[1]}'),
        ('{\n  "a": [\n    0\n  ]\n}', '{\n  "a": [\n    0,\n    1\n  ]\n}'),
        ('{\n\t"a": []\n}', '{\n\t"a": [\n\t\t1\n\t]\n}'),
        ('{\n  "a": [0, 7]\n}', '{\n  "a": [0, 7,1]\n}'),
        ('{"b": "\\u003c é", "n": 1.50, "a":[]}', '{"b": "\\u003c é", "n": 1.50, "a":[1]}'),
    ],
)
def test_what_is_added_stands_as_its_neighbours_do(text: str, expected: str) -> None:
    node = parse_json(text).get("a")
    assert node is not None
    assert spliced(text, [with_items(text, node, [1])]) == expected


def test_a_value_is_replaced_by_another() -> None:
    text = '{"size": "10", "other": 1}'
    node = parse_json(text).get("size")
    assert node is not None
    assert spliced(text, [replaced(node, "20")]) == '{"size": "20", "other": 1}'


def test_two_changes_of_one_place_are_an_error_of_ours() -> None:
    text = '{"a": 1}'
    node = parse_json(text).get("a")
    assert node is not None
    with pytest.raises(RuntimeError, match="two changes of the same place"):
        spliced(text, [replaced(node, 2), replaced(node, 3)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a value is missing: line 1 column 1"),
        ("{", "a key in double quotes is missing: line 1 column 2"),
        ('{"a"}', "a colon is missing: line 1 column 5"),
        ('{"a": }', "a value is missing: line 1 column 7"),
        ('{"a": 1 "b": 2}', "a comma or '}' is missing: line 1 column 9"),
        ('{"a": 1,}', "a key in double quotes is missing"),
        ("[1,\n2", "a comma or ']' is missing: line 2 column 2"),
        ("[1,]", "a value is missing"),
        ("{} x", "text behind the document"),
        ('{"a": 1,\n "a": 2}', "the key 'a' is there twice: line 2 column 2"),
        ("[" * 100_000, "is nested too deeply"),
        ('"\t"', "Invalid control character"),
    ],
)
def test_what_is_not_json_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        parse_json(text)
    assert message in str(caught.value)
