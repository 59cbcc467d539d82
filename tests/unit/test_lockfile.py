"""Lock files: what is pinned, written and demanded."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.errors import DataError
from installer_plugin.lockfile import (
    SCHEMA,
    dump_lock,
    lock_images,
    parse_lock,
)
from installer_plugin.model import ImageId, ResolvedImage
from tests.support.fuzz import documents, json_bytes
from tests.support.values import digest, hexa, resolved

A, B = resolved("localhost/a:1"), resolved("localhost/b:1", manifests=("list", "one"))
ENTRY: Mapping[str, object] = {"reference": "a", "image_id": hexa("a"), "digest": digest("m")}


def _lock(*entries: object, schema: object = SCHEMA) -> bytes:
    return json.dumps({"schema": schema, "images": entries}).encode()


def test_lock_file_is_sorted_and_ends_with_a_newline() -> None:
    text = dump_lock(lock_images([B, A, B]))
    assert text == dump_lock(lock_images([A, B]))
    assert text == (
        "{\n"
        f'  "schema": "{SCHEMA}",\n'
        '  "images": [\n'
        "    {\n"
        '      "reference": "localhost/a:1",\n'
        f'      "image_id": "{A.image_id}",\n'
        f'      "digest": "{A.digest}"\n'
        "    },\n"
        "    {\n"
        '      "reference": "localhost/b:1",\n'
        f'      "image_id": "{B.image_id}",\n'
        f'      "digest": "{B.digest}"\n'
        "    }\n"
        "  ]\n"
        "}\n"
    )


@pytest.mark.parametrize("images", [[], [A], [A, B]], ids=["none", "one", "two"])
def test_lock_file_is_read_as_it_was_written(images: list[ResolvedImage]) -> None:
    locked = lock_images(images)
    assert tuple(parse_lock(dump_lock(locked).encode(), "f").values()) == locked


@pytest.mark.parametrize(
    ("image", "wrong"),
    [
        (B, None),
        (replace(B, digest=digest("one")), None),
        (replace(B, image_id=ImageId(hexa("other"))), f"its image ID is {hexa('other')}, the lock"),
        (resolved("localhost/b:1", manifests=("one",)), f"it has no manifest {digest('list')}"),
    ],
    ids=["same", "another-default", "image", "manifest"],
)
def test_image_that_is_not_the_locked_one_is_told(image: ResolvedImage, wrong: str | None) -> None:
    (locked,) = lock_images([B])
    told = locked.mismatch(image)
    assert told is None if wrong is None else told is not None and told.startswith(wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "f: is not JSON"),
        (b"\xff", "f: is not JSON"),
        (b"[" * 100_000, "f: is not JSON"),
        (b"[]", "f: has the schema 'list', expected 'bootc-bound-images/lock/1'"),
        (b"{}", "f: has the schema None"),
        (_lock(schema="bootc-bound-images/lock/2"), "has the schema 'bootc-bound-images/lock/2'"),
        (_lock(schema=[]), r"has the schema \[\]"),
        (json.dumps({"schema": SCHEMA}).encode(), "f: images is None, expected an array"),
        (_lock(1), "f: images has 1, expected an object"),
        (_lock({}), r"f: images\[0\]: reference is None, expected"),
        (_lock({**ENTRY, "reference": ""}), r"images\[0\]: reference is ''"),
        (_lock(ENTRY, ENTRY), r"images\[1\]: locks a a second time"),
        (_lock({**ENTRY, "image_id": "1"}), r"images\[0\]: '1' is not an image ID"),
        (_lock({**ENTRY, "digest": None}), r"images\[0\]: None is not a manifest digest"),
    ],
    ids=[
        "cut-off", "no-utf-8", "deep", "array", "no-schema", "next-schema", "schema-array", "no-images",
        "number", "no-reference", "empty-reference", "twice", "image-id", "digest",
    ],
)  # fmt: skip
def test_what_is_no_lock_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_lock(content, "f")


def test_unknown_keys_are_passed_over() -> None:
    assert list(parse_lock(_lock({**ENTRY, "note": "x"}), "f")) == ["a"]


KEYS = ("schema", "images", "reference", "image_id", "digest")


VALUES = (SCHEMA, hexa("a"), digest("m"))


@given(json_bytes(KEYS, VALUES))
def test_any_bytes_are_read_or_a_data_error(content: bytes) -> None:
    with suppress(DataError):
        parse_lock(content, "f")


@given(st.dictionaries(st.sampled_from(KEYS), documents(KEYS, VALUES)))
def test_any_entry_is_read_or_a_data_error(entry: dict[str, object]) -> None:
    with suppress(DataError):
        parse_lock(_lock({**ENTRY, **entry}), "f")
