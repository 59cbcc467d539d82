"""Reads typed fields of JSON objects that come from a file, and says which one is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from installer_plugin.errors import DataError

Json = Mapping[str, object]
Value = TypeVar("Value")
Choice = TypeVar("Choice", bound=StrEnum)

_CALLED: Mapping[object, str] = {
    str: "a string", int: "a number", bool: "true or false", list: "an array", dict: "an object"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object, and where it stands; every method raises DataError for a field that is wrong."""

    data: Json
    where: str

    def text(self, name: str) -> str:
        """A string."""
        return self._field(name, str)

    def number(self, name: str) -> int:
        """A whole number; true and false are none."""
        return self._field(name, int)

    def flag(self, name: str) -> bool:
        """True or false."""
        return self._field(name, bool)

    def optional(self, name: str, kind: type[Value]) -> Value | None:
        """A value of *kind*; None when it is null or not there."""
        return None if self.data.get(name) is None else self._field(name, kind)

    def inner(self, name: str) -> Fields:
        """An object."""
        return Fields(self._field(name, dict), f"{self.where}: {name}")

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings."""
        return tuple(self._array(name, str))

    def objects(self, name: str) -> tuple[Fields, ...]:
        """An array of objects, each of which knows its place."""
        found: list[dict[str, object]] = self._array(name, dict)
        return tuple(
            Fields(each, f"{self.where}: {name}[{index}]") for index, each in enumerate(found)
        )

    def reference(self) -> str:
        """The field ``reference``, which names an image."""
        found = self.data.get("reference")
        if not isinstance(found, str) or not found:
            raise DataError(self.where, f"reference is {found!r}, expected an image reference")
        return found

    def parsed(self, name: str, parse: Callable[[object], Value]) -> Value:
        """What *parse* makes of the field; its ValueError becomes a DataError."""
        return self._parse(self.data.get(name), parse)

    def one_of(self, name: str, kind: type[Choice]) -> Choice:
        """A value of an enumeration."""
        try:
            return kind(self.text(name))
        except ValueError as error:
            raise DataError(self.where, f"{name} is not known: {error}") from error

    def all_parsed(self, name: str, parse: Callable[[object], Value]) -> tuple[Value, ...]:
        """What *parse* makes of each entry of an array."""
        return tuple(self._parse(each, parse) for each in self._field(name, list))

    def _parse(self, value: object, parse: Callable[[object], Value]) -> Value:
        try:
            return parse(value)
        except ValueError as error:
            raise DataError(self.where, str(error)) from error

    def _array(self, name: str, kind: type[Value]) -> list[Value]:
        found: list[Value] = []
        for each in self._field(name, list):
            if type(each) is not kind:
                raise DataError(self.where, f"{name} has {each!r}, expected {_CALLED[kind]}")
            found.append(each)
        return found

    def _field(self, name: str, kind: type[Value]) -> Value:
        value = self.data.get(name)
        if type(value) is not kind:  # a bool is not a number here
            raise DataError(self.where, f"{name} is {value!r}, expected {_CALLED[kind]}")
        return value


def parse_document(content: bytes, where: str, schemas: Sequence[str]) -> Fields:
    """A JSON document of ours of one of *schemas*; raises DataError about *where*."""
    try:
        data: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("schema") not in schemas:
        seen = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise DataError(where, f"has the schema {seen!r}, expected {schemas[0]!r}")
    return Fields(data, where)
