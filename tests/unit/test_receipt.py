"""Receipts: deterministic bytes, and what they demand later."""

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.errors import ConfigError, CopyError, DataError
from installer_plugin.receipt import SCHEMA, Receipt, dump_receipt, parse_receipt, with_checks
from installer_plugin.stages.record import creation_time, pair, record
from tests.support.fuzz import documents, json_bytes
from tests.support.values import copied, digest, hexa, resolved, verified

IMAGE = resolved("localhost/a:1", manifests=("list", "one"))
RECEIPT = Receipt(
    source="/sysroot",
    created="2024-01-01T00:00:00Z",
    tools={"skopeo": "1.9.3", "bootc-bound-images": "0.1.0"},
    images=((copied(IMAGE), verified(IMAGE)),),
)
ENTRY: Mapping[str, object] = {
    "reference": "a", "names": ["a"], "image_id": hexa("a"), "manifest_digests": [digest("m")],
}  # fmt: skip


def _receipt(*entries: object) -> bytes:
    return json.dumps({"schema": SCHEMA, "images": entries}).encode()


def test_checks_that_were_passed_since_stand_in_a_receipts_copy() -> None:
    passed = replace(verified(IMAGE), checks=("store", "content"))
    text = with_checks(dump_receipt(RECEIPT).encode(), "r.json", [passed])
    assert text == dump_receipt(replace(RECEIPT, images=((copied(IMAGE), passed),)))


def test_a_receipt_that_lacks_what_was_proven_is_refused() -> None:
    other = replace(verified(IMAGE), reference="localhost/other:1")
    with pytest.raises(DataError, match=r"r\.json: does not list localhost/other:1"):
        with_checks(dump_receipt(RECEIPT).encode(), "r.json", [other])


def test_receipt_says_what_was_declared_copied_and_proven() -> None:
    written = json.loads(dump_receipt(RECEIPT))
    (image,) = written.pop("images")
    assert written == {
        "schema": SCHEMA,
        "source": "/sysroot",
        "created": "2024-01-01T00:00:00Z",
        "tools": {"bootc-bound-images": "0.1.0", "skopeo": "1.9.3"},
    }
    assert image["declaration"] == {
        "kind": "container",
        "names": ["localhost/a:1"],
        "bootc_name": None,
        "link": "usr/lib/bootc/bound-images.d/app.container",
        "file": "usr/share/containers/systemd/app.container",
        "line": 2,
    }
    assert image["found_in"]["kind"] == "containers-storage"
    assert image["found_in"]["store"] == "/store"
    assert image["manifest_digests"] == [digest("list"), digest("one")]
    assert [layer["diff_id"] for layer in image["layers"]] == [x.diff_id for x in IMAGE.layers]
    assert image["size"] == 4 << 20
    assert image["engine"] == "skopeo"
    assert image["verified"] == ["store", "names", "config"]


def test_receipt_of_a_build_names_no_place_of_the_machine() -> None:
    text = dump_receipt(replace(RECEIPT, with_places=False))
    assert "/store" not in text
    assert "found_in" not in json.loads(text)["images"][0]
    assert parse_receipt(text.encode(), "f") == parse_receipt(dump_receipt(RECEIPT).encode(), "f")


def test_same_facts_give_the_same_bytes() -> None:
    other = replace(RECEIPT, tools={"bootc-bound-images": "0.1.0", "skopeo": "1.9.3"})
    text = dump_receipt(other)
    assert text == dump_receipt(RECEIPT)
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_receipt_of_the_form_before_this_demands_the_same() -> None:
    old = {"schema": "bootc-bound-images/receipt/1", "images": [ENTRY]}
    assert parse_receipt(json.dumps(old).encode(), "f") == parse_receipt(_receipt(ENTRY), "f")


def test_receipt_demands_what_was_proven() -> None:
    (expected,) = parse_receipt(dump_receipt(RECEIPT).encode(), "f")
    assert expected.reference == "localhost/a:1"
    assert expected.names == IMAGE.names
    assert expected.image_id == IMAGE.image_id
    assert expected.manifest_digests == IMAGE.manifest_digests


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "f: is not JSON"),
        (b'{"schema":"bootc-bound-images/lock/1"}', "expected 'bootc-bound-images/receipt/2'"),
        (_receipt({}), r"f: images\[0\]: reference is None"),
        (_receipt({**ENTRY, "names": "a"}), r"f: images\[0\]: names is 'a', expected an array"),
        (_receipt({**ENTRY, "names": [1]}), r"f: images\[0\]: names has 1, expected a string"),
        (_receipt({**ENTRY, "image_id": None}), r"images\[0\]: None is not an image ID"),
        (_receipt({**ENTRY, "manifest_digests": [1]}), r"images\[0\]: 1 is not a manifest digest"),
        (
            _receipt({**ENTRY, "manifest_digests": None}),
            "manifest_digests is None, expected an array",
        ),
    ],
    ids=["cut-off", "lock-file", "reference", "names", "name", "image-id", "digest", "digests"],
)
def test_what_is_no_receipt_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_receipt(content, "f")


KEYS = ("schema", "images", "reference", "names", "image_id", "manifest_digests")


VALUES = (SCHEMA, hexa("a"), digest("m"))


@given(json_bytes(KEYS, VALUES))
def test_any_bytes_are_read_or_a_data_error(content: bytes) -> None:
    with suppress(DataError):
        parse_receipt(content, "f")


@given(st.dictionaries(st.sampled_from(KEYS), documents(KEYS, VALUES)))
def test_any_entry_is_read_or_a_data_error(entry: dict[str, object]) -> None:
    with suppress(DataError):
        parse_receipt(_receipt({**ENTRY, **entry}), "f")


# --- the record stage ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "created"),
    [("0", "1970-01-01T00:00:00Z"), ("1700000000", "2023-11-14T22:13:20Z")],
    ids=["zero", "seconds"],
)
def test_source_date_epoch_is_the_time(epoch: str, created: str) -> None:
    assert creation_time({"SOURCE_DATE_EPOCH": epoch}) == created


@pytest.mark.parametrize("env", [{}, {"SOURCE_DATE_EPOCH": ""}], ids=["unset", "empty"])
def test_time_without_source_date_epoch_is_now(env: Mapping[str, str]) -> None:
    assert creation_time(env) > "2024"
    assert creation_time(env).endswith("Z")


@pytest.mark.parametrize("epoch", ["now", "1.5", "9" * 30, "1_0", "+1", "-1", "\u0661"])
def test_source_date_epoch_that_is_no_time_is_refused(epoch: str) -> None:
    with pytest.raises(ConfigError, match="expected seconds since 1970"):
        creation_time({"SOURCE_DATE_EPOCH": epoch})


def test_image_without_proof_is_not_recorded() -> None:
    other = resolved("localhost/b:1")
    assert pair([copied(IMAGE)], [verified(other), verified(IMAGE)])[0][1] == verified(IMAGE)
    with pytest.raises(RuntimeError, match="localhost/a:1 was copied but not verified"):
        pair([copied(IMAGE)], [verified(other)])


def test_receipt_is_written_to_all_places_readable_by_all(tmp_path: Path) -> None:
    places = (tmp_path / "one.json", tmp_path / "two.json")
    places[0].write_text("old")
    text = record(RECEIPT, places)
    assert [place.read_text() for place in places] == [text, text]
    assert all(place.stat().st_mode & 0o777 == 0o644 for place in places)
    assert sorted(tmp_path.iterdir()) == list(places)


@pytest.mark.real
def test_what_a_killed_run_has_written_of_a_receipt_goes_with_the_next(tmp_path: Path) -> None:
    place = tmp_path / "one.json"
    child = os.fork()
    if not child:
        try:
            os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            record(RECEIPT, [place])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.glob("*/.one.json.*.tmp"))) == 1
    record(RECEIPT, [place])
    assert list(tmp_path.iterdir()) == [place]


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    place = tmp_path / "absent/receipt.json"
    with pytest.raises(CopyError, match="the receipt cannot be written: No such file") as caught:
        record(RECEIPT, [place])
    assert caught.value.problems[0].subject == str(place)
