"""Compares real documents with the examples of docs/formats.md."""

import json
import re
from collections.abc import Mapping

from tests.support.images import REPOSITORY

PAGE = REPOSITORY / "docs/formats.md"
_EXAMPLE = re.compile(r"<!-- example: (?P<name>[a-z-]+) -->\n```json\n(?P<text>.*?)```", re.DOTALL)

_IMAGE = re.compile(r"an? (?P<kind>[a-z]+) image")


def examples() -> Mapping[str, object]:
    """The page's examples by name."""
    found = {match["name"]: match["text"] for match in _EXAMPLE.finditer(PAGE.read_text())}
    return {name: json.loads(text) for name, text in found.items()}


def difference(real: object, example: object, at: str = "") -> str:
    """Where two values differ in names or kinds; "" when they do not.

    Null stands for any kind, and an empty array for any array; of an array the first entry counts. The
    words ``a bound image`` stand for the example of that name.
    """
    if isinstance(example, str) and (found := _IMAGE.fullmatch(example)):
        example = examples()[f"{found['kind']}-image"]
    if real is None or example is None:
        return ""
    if type(real) is not type(example):
        return f"{at}: {type(real).__name__}, described as {type(example).__name__}"
    if isinstance(real, dict) and isinstance(example, dict):
        if real.keys() != example.keys():
            return f"{at}: has {sorted(real)}, described as {sorted(example)}"
        parts = ((each, example[name], f"{at}.{name}") for name, each in real.items())
        return next(filter(None, (difference(*part) for part in parts)), "")
    if isinstance(real, list) and isinstance(example, list) and real and example:
        return difference(real[0], example[0], f"{at}[0]")
    return ""


def assert_as_described(name: str, real: Mapping[str, object]) -> None:
    """The document is what the page shows under *name*: schema, fields, and kinds of their values."""
    example = examples()[name]
    assert isinstance(example, dict)
    assert real.get("schema") == example.get("schema")
    assert difference(dict(real), example, name) == ""
