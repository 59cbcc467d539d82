"""Image configs and manifests: what is read, and how complaints are located."""

import json
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given

from installer_plugin.errors import DataError
from installer_plugin.model import Platform
from installer_plugin.storage.store.manifests import (
    digest_of,
    parse_config,
    parse_created,
    parse_manifest,
)
from tests.support.fuzz import json_bytes
from tests.support.values import diff_id, digest, hexa

OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"
AMD = Platform(os="linux", architecture="amd64")


def _bytes(data: object) -> bytes:
    return json.dumps(data).encode()


def _descriptor(word: str, **more: object) -> Mapping[str, object]:
    return {"digest": digest(word), "size": 10, **more}


def test_config_gives_layers_and_platform() -> None:
    content = _bytes({
        "os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [diff_id("a"), diff_id("b")]}
    })  # fmt: skip
    config = parse_config(content, "f")
    assert config.diff_ids == (diff_id("a"), diff_id("b"))
    assert config.platform == AMD


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f: is not JSON"),
        (b"\xff", "f: is not JSON"),
        (b"[" * 100_000, "f: is not JSON"),
        (b"[]", "f: is a JSON list, expected an object"),
        (b"{}", "f: has no rootfs.diff_ids"),
        (b'{"rootfs":[]}', "f: has no rootfs.diff_ids"),
        (b'{"rootfs":{"diff_ids":{}}}', "f: has no rootfs.diff_ids"),
        (b'{"rootfs":{"diff_ids":[1]}}', "f: rootfs.diff_ids: 1 is not a diff ID"),
    ],
    ids=["empty", "no-utf-8", "deep", "array", "bare", "rootfs", "object", "number"],
)
def test_what_is_no_config_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_config(content, "f")


@pytest.mark.parametrize(
    ("media_type", "compressed"),
    [
        (f"{OCI}.layer.v1.tar", False),
        (f"{OCI}.layer.v1.tar+gzip", True),
        (f"{OCI}.layer.v1.tar+zstd", True),
        (f"{DOCKER}.image.rootfs.diff.tar.gzip", True),
        (f"{DOCKER}.image.rootfs.diff.tar", False),
        (None, False),
    ],
    ids=["oci", "oci-gzip", "oci-zstd", "docker-gzip", "docker", "absent"],
)
def test_manifest_tells_compressed_layers(media_type: str | None, *, compressed: bool) -> None:
    manifest = parse_manifest(
        _bytes({"config": _descriptor("c"), "layers": [_descriptor("l", mediaType=media_type)]}),
        "f",
    )
    assert manifest.layers[0].compressed is compressed
    assert manifest.config is not None
    assert manifest.config.digest == digest("c")
    assert not manifest.is_list


@pytest.mark.parametrize(
    "data",
    [
        {"manifests": []},
        {"manifests": [], "mediaType": []},
        {"mediaType": f"{OCI}.index.v1+json"},
        {"mediaType": f"{DOCKER}.distribution.manifest.list.v2+json", "manifests": None},
    ],
    ids=["untyped", "strange-type", "oci", "docker"],
)
def test_manifest_list_is_told_from_a_manifest(data: Mapping[str, object]) -> None:
    manifest = parse_manifest(_bytes(data), "f")
    assert manifest.is_list
    assert manifest.config is None
    assert manifest.instances == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"config": 1}, "f: config: is 1, expected a descriptor"),
        ({"config": {}}, "f: config: digest: None is not a manifest digest"),
        ({"layers": {}}, "f: layers: is not an array"),
        ({"layers": [_descriptor("a"), "b"]}, r"f: layers\[1\]: is 'b', expected a descriptor"),
        ({"manifests": [{"digest": "md5:0"}]}, r"f: manifests\[0\]: digest: 'md5:0'"),
    ],
    ids=["config", "digest", "layers", "layer", "instance"],
)
def test_wrong_part_of_a_manifest_is_located(data: Mapping[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_manifest(_bytes(data), "f")


@pytest.mark.parametrize(
    ("size", "read"),
    [(5, 5), (-1, 0), ("5", 0), (None, 0)],
    ids=["plain", "negative", "text", "none"],
)
def test_strange_size_is_none_at_all(size: object, read: int) -> None:
    manifest = parse_manifest(_bytes({"layers": [{"digest": digest("a"), "size": size}]}), "f")
    assert manifest.layers[0].size == read


def test_digest_is_the_sha256_of_the_bytes() -> None:
    assert digest_of(b"word") == f"sha256:{hexa('word')}"


KEYS = (
    "rootfs", "diff_ids", "os", "architecture", "mediaType", "config", "layers", "manifests",
    "digest", "size", "platform",
)  # fmt: skip


@given(json_bytes(KEYS, (digest("x"), f"{OCI}.index.v1+json")))
def test_any_bytes_are_read_or_a_data_error(content: bytes) -> None:
    with suppress(DataError):
        assert all(len(item) == 71 for item in parse_config(content, "f").diff_ids)
    with suppress(DataError):
        assert {each.digest for each in parse_manifest(content, "f").instances} <= {digest("x")}


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        (None, 0),
        ("2024-05-01T10:00:00Z", 1714557600),
        ("2024-05-01T10:00:00.123456789Z", 1714557600),
        ("2024-05-01T12:00:00+02:00", 1714557600),
        ("0001-01-01T00:00:00Z", 0),
    ],
)
def test_the_time_of_an_image_is_read_from_its_config(created: str | None, seconds: int) -> None:
    config = {} if created is None else {"created": created}
    assert parse_created(json.dumps(config).encode(), "c") == seconds


@pytest.mark.parametrize("created", ["yesterday", 5, ["2024"]])
def test_a_time_that_is_none_is_an_error(created: object) -> None:
    with pytest.raises(DataError, match="expected a time"):
        parse_created(json.dumps({"created": created}).encode(), "c")
