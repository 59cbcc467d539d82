"""layers.json and images.json as values."""

import json
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.errors import DataError
from installer_plugin.storage.store.records import (
    ImageRecord,
    LayerRecord,
    Records,
    big_data_file_name,
    check_unique,
    dump_records,
    layer_chain,
    layer_id,
    parse_image,
    parse_images,
    parse_layers,
    toc_layer_id,
)
from tests.support.fuzz import documents, json_bytes
from tests.support.values import diff_id, digest, hexa

A, B, C = hexa("a"), hexa("b"), hexa("c")


def _layers(*entries: Mapping[str, object]) -> tuple[LayerRecord, ...]:
    return parse_layers(json.dumps(entries).encode(), "layers.json")


def _images(*entries: Mapping[str, object]) -> tuple[ImageRecord, ...]:
    return parse_images(json.dumps(entries).encode(), "images.json")


# --- reading ---------------------------------------------------------------------------------


def test_layer_record_keeps_what_it_knows_and_everything_raw() -> None:
    entry = {
        "id": B, "parent": A, "diff-digest": diff_id("x"), "diff-size": 1024, "names": ["n"],
        "toc-digest": digest("toc"), "big-data-names": ["zstd-chunked-manifest"],
        "created": "2024-01-01T00:00:00Z", "of-the-future": {"x": [1]},
    }  # fmt: skip
    (layer,) = _layers(entry)
    assert (layer.id, layer.parent, layer.diff_id, layer.diff_size) == (B, A, diff_id("x"), 1024)
    assert (layer.names, layer.toc_digest) == (("n",), digest("toc"))
    assert layer.big_data_names == ("zstd-chunked-manifest",)
    assert not layer.incomplete
    assert not layer.mapped
    assert layer.raw == entry


@pytest.mark.parametrize(
    ("entry", "field", "expected"),
    [
        ({"parent": ""}, "parent", None),
        ({"parent": None}, "parent", None),
        ({"diff-digest": ""}, "diff_id", None),
        ({"diff-size": -1}, "diff_size", None),
        ({"diff-size": 0}, "diff_size", 0),
        ({}, "diff_size", None),
        ({"names": None}, "names", ()),
        ({"flags": None}, "incomplete", False),
        ({"flags": {"incomplete": True}}, "incomplete", True),
        ({"flags": {"incomplete": False}}, "incomplete", False),
        ({"uidmap": [{"size": 1}]}, "mapped", True),
        ({"gidmap": [{"size": 1}]}, "mapped", True),
        ({"uidmap": []}, "mapped", False),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_layer_field_that_go_leaves_out_has_its_zero_value(
    entry: Mapping[str, object], field: str, expected: object
) -> None:
    (layer,) = _layers({"id": A, **entry})
    assert getattr(layer, field) == expected


def test_image_record_answers_to_its_digest_and_every_manifest_once() -> None:
    (image,) = _images({
        "id": A, "digest": digest("m2"), "layer": B, "names": ["localhost/x:1"],
        "big-data-names": [f"sha256:{A}", "manifest", f"manifest-{digest('m1')}", "signatures"],
        "big-data-digests": {
            f"manifest-{digest('m1')}": digest("m1"), "manifest": digest("m2"),
            f"sha256:{A}": f"sha256:{A}", "signatures": digest("none"),
        },
        "big-data-sizes": {"manifest": 5},
    })  # fmt: skip
    assert image.manifest_digests == (digest("m2"), digest("m1"))
    assert image.manifest_keys == ("manifest", f"manifest-{digest('m1')}")
    assert image.config_key == f"sha256:{A}"
    assert (image.layer, image.names) == (B, ("localhost/x:1",))
    assert image.big_data_sizes == {"manifest": 5}


def test_one_image_is_read_as_among_all_of_them() -> None:
    entries = [{"id": "b", "names": ["b:1"]}, {"id": "a", "names": ["a:1"]}, {"id": "c"}]
    content = json.dumps(entries).encode()
    for image in parse_images(content, "f"):
        assert parse_image(content, "f", image.id) == image
    assert parse_image(content, "f", "d") is None
    assert parse_image(b"[]", "f", "a") is None


def test_one_image_is_damaged_by_what_is_wrong_with_itself_alone() -> None:
    content = json.dumps([{"id": "a", "names": 7}, {"id": "b"}]).encode()
    with pytest.raises(DataError, match="names is 7"):
        parse_image(content, "f", "a")
    assert parse_image(content, "f", "b") is not None
    with pytest.raises(DataError, match="is not JSON"):
        parse_image(content[:-1], "f", "b")


def test_image_record_without_digest_answers_to_its_manifests() -> None:
    (image,) = _images({"id": A, "big-data-digests": {"manifest": digest("m")}})
    assert image.digest is None
    assert image.layer is None
    assert image.manifest_digests == (digest("m"),)


@pytest.mark.parametrize("content", [b"", b"[]", b"null"], ids=["empty", "array", "null"])
def test_file_without_records_is_an_empty_store(content: bytes) -> None:
    assert parse_layers(content, "f") == ()
    assert parse_images(content, "f") == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "f: is not JSON"),
        (b"\xff\xfe\xff", "f: is not JSON"),
        (b"[" * 100_000, "f: is not JSON"),
        (b"{}", "f: is a JSON dict, expected an array"),
        (b'[{"id":"a"},7]', r"f: \[1\] is a int, expected an object"),
    ],
    ids=["cut-off", "no-utf-8", "deep", "object", "number"],
)
def test_file_that_is_no_array_of_objects_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_images(content, "f")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, r"layers\.json\[0\]: id is None, expected an ID"),
        ({"id": "../../etc"}, "id is '../../etc', expected an ID"),
        ({"id": ".."}, "expected an ID"),
        ({"id": "a/b"}, "expected an ID"),
        ({"id": "-x"}, "expected an ID"),
        ({"id": "x" * 129}, r"id is 'x{76}\.\.\., expected an ID"),
        ({"id": 5}, "id is 5, expected a string"),
        ({"id": A, "parent": "a b"}, "parent is 'a b', expected an ID"),
        ({"id": A, "diff-digest": "md5:1"}, "diff-digest is 'md5:1', expected sha256:"),
        ({"id": A, "diff-digest": 5}, "diff-digest is 5, expected a string"),
        ({"id": A, "diff-size": "1"}, "diff-size is '1', expected an integer"),
        ({"id": A, "diff-size": True}, "diff-size is True, expected an integer"),
        ({"id": A, "names": "n"}, "names is 'n', expected an array of strings"),
        ({"id": A, "names": [1]}, r"names is \[1\], expected an array of strings"),
        ({"id": A, "flags": []}, r"flags is \[\], expected an object"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_layer_field_is_named(entry: Mapping[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _layers(entry)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"digest": "sha512:0"}, "digest is 'sha512:0', expected sha256:"),
        ({"layer": "../x"}, "layer is '../x', expected an ID"),
        ({"big-data-digests": {"manifest": 5}}, "expected str values"),
        ({"big-data-sizes": {"manifest": "5"}}, "expected int values"),
        ({"big-data-sizes": {"manifest": True}}, "expected int values"),
        ({"big-data-sizes": 3}, "big-data-sizes is 3, expected an object"),
    ],
    ids=["digest", "layer", "big-data-digests", "sizes-text", "sizes-bool", "sizes-number"],
)
def test_wrong_image_field_is_named(entry: Mapping[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _images({"id": A, **entry})


# --- writing ---------------------------------------------------------------------------------


def test_records_are_written_back_as_they_were_read() -> None:
    entries = [{"id": A, "names": ["naïve/ü:1"], "unknown": [1.5, None]}]
    content = dump_records(image.raw for image in _images(*entries))
    assert content.decode() == f'[{{"id":"{A}","names":["naïve/ü:1"],"unknown":[1.5,null]}}]'


# --- identities ------------------------------------------------------------------------------


def test_base_layer_has_its_diff_id_and_others_a_hash_with_their_parent() -> None:
    base = layer_id(None, diff_id("x"))
    assert base == hexa("x")
    assert layer_id(base, diff_id("y")) == hexa(f"{hexa('x')}+{hexa('y')}")


def test_layer_known_by_its_contents_alone_has_a_hash_of_those() -> None:
    base = toc_layer_id(None, digest("x"))
    assert base == hexa(f"+@TOC={hexa('x')}")
    assert toc_layer_id(base, digest("y")) == hexa(f"{base}+@TOC={hexa('y')}")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("manifest", "manifest"),
        ("v1.2", "v1.2"),
        (f"sha256:{'0' * 4}", "=c2hhMjU2OjAwMDA="),
        ("signature-1", "=c2lnbmF0dXJlLTE="),
        ("Upper", "=VXBwZXI="),
        # Go's loop ends before the last character, so that one is never looked at.
        ("manifest-", "manifest-"),
        ("x:", "x:"),
        (":", ":"),
        ("xü", "xü"),
        ("üx", "=w7x4"),
    ],
    ids=["plain", "dots", "colon", "dash", "upper", "last-dash", "last-colon", "one", "last", "ü"],
)
def test_big_data_file_name_is_gos(key: str, name: str) -> None:
    assert big_data_file_name(key) == name


@pytest.mark.parametrize("key", ["", ".", "..", "x/", "/", "x\0", "\xff?"], ids=repr)
def test_big_data_key_that_leaves_the_directory_is_refused(key: str) -> None:
    with pytest.raises(DataError, match="not a usable name"):
        big_data_file_name(key)


# --- chains ----------------------------------------------------------------------------------


def test_chain_runs_from_the_base_to_the_top() -> None:
    layers = {layer.id: layer for layer in _layers({"id": B, "parent": A}, {"id": A})}
    records = Records(layers=layers, images=())
    assert [layer.id for layer in records.chain(B)] == [A, B]
    assert records.chain(None) == ()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], f"layer {B}: is missing, expected since the image is built on it"),
        ([{"id": B, "parent": A}], f"layer {A}: is missing, expected since layer {B} is built"),
        ([{"id": B, "parent": B}], f"layer {B}: is its own ancestor"),
        ([{"id": B, "parent": A}, {"id": A, "parent": B}], "is its own ancestor"),
    ],
    ids=["top-missing", "parent-missing", "own-parent", "cycle"],
)
def test_broken_chain_is_refused(entries: list[Mapping[str, object]], message: str) -> None:
    layers = {layer.id: layer for layer in _layers(*entries)}
    with pytest.raises(DataError, match=message):
        layer_chain(B, layers.get)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"id": A}, {"id": A}], "two entries with the ID"),
        ([{"id": A, "names": ["n"]}, {"id": B, "names": ["n"]}], "gives the name 'n' to both"),
    ],
    ids=["id", "name"],
)
def test_what_is_claimed_twice_is_refused(
    entries: list[Mapping[str, object]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_unique(_images(*entries), "f")


def test_name_that_one_record_has_twice_is_no_conflict() -> None:
    check_unique(_images({"id": A, "names": ["n", "n"]}, {"id": C, "names": ["m"]}), "f")


# --- anything --------------------------------------------------------------------------------

KEYS = (
    "id", "parent", "diff-digest", "diff-size", "toc-digest", "names", "big-data-names", "flags",
    "uidmap", "digest", "layer", "big-data-digests", "big-data-sizes",
)  # fmt: skip
VALUES = (A, digest("m"), "manifest")


@given(json_bytes(KEYS, VALUES))
def test_any_bytes_are_records_or_a_data_error(content: bytes) -> None:
    for parse in (parse_layers, parse_images):
        with suppress(DataError):
            parse(content, "f")


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), documents(KEYS, VALUES)), max_size=3))
def test_any_record_is_usable_or_a_data_error(entries: list[dict[str, object]]) -> None:
    content = json.dumps([{"id": A, **entry} for entry in entries]).encode()
    with suppress(DataError):
        for image in parse_images(content, "f"):
            assert "/" not in image.id
            assert len(set(image.manifest_digests)) == len(image.manifest_digests)
    with suppress(DataError):
        for layer in parse_layers(content, "f"):
            assert layer.diff_size is None or layer.diff_size >= 0


@given(st.text())
def test_any_big_data_key_names_one_file_or_is_refused(key: str) -> None:
    try:
        name = big_data_file_name(key)
    except DataError:
        return
    assert "/" not in name
    assert name not in ("", ".", "..")
