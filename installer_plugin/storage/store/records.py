"""Records of containers-storage: ``layers.json`` and ``images.json`` as values (no file access).

Format: containers/storage ``layers.go`` (type Layer) and ``images.go`` (type Image); the same JSON
keys since 1.43. Unknown keys are kept in ``raw``, because a record is always written back verbatim.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from installer_plugin.errors import DataError
from installer_plugin.model import (
    DiffId,
    LayerId,
    ManifestDigest,
    parse_diff_id,
    parse_manifest_digest,
)

MANIFEST_KEY = "manifest"
"""Big-data key of the manifest that is used by default; also the prefix of all other manifests'."""

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
"""Half a character, which UTF-8 cannot hold, may be there where this matches."""
BYTES_PER_PIECE = 32
"""Records of real stores have an object or array in 100 bytes; each takes more memory than text."""
NAME_MAX = 255
"""Bytes of a file's name on Linux."""
FREE_PIECES = 1 << 17
_PLAIN_KEY = re.compile(r"[.0-9a-z]*")

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """An entry of ``overlay-layers/layers.json``."""

    id: str
    parent: str | None
    diff_id: DiffId | None
    """``diff-digest``; None for a layer that is known by its table of contents only."""
    diff_size: int | None
    """Bytes of the uncompressed tar stream; None when the store does not know."""
    toc_digest: str | None
    names: tuple[str, ...]
    big_data_names: tuple[str, ...]
    incomplete: bool
    """The writer died; c/storage deletes such a layer when it next opens the store for writing."""
    mapped: bool
    """Files are stored with shifted owners (``uidmap``/``gidmap``)."""
    raw: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An entry of ``overlay-images/images.json``."""

    id: str
    digest: ManifestDigest | None
    names: tuple[str, ...]
    layer: str | None
    """Top layer; None for a manifest list that was created locally."""
    big_data_names: tuple[str, ...]
    big_data_digests: Mapping[str, str]
    big_data_sizes: Mapping[str, int]
    raw: Mapping[str, object] = field(repr=False)

    @property
    def manifest_digests(self) -> tuple[ManifestDigest, ...]:
        """Digests the image answers to: ``digest`` and every stored manifest's (images.go, Digests)."""
        stored = (
            ManifestDigest(digest)
            for key, digest in sorted(self.big_data_digests.items())
            if key.startswith(MANIFEST_KEY)
        )
        first = (self.digest,) if self.digest else ()
        return tuple(dict.fromkeys((*first, *stored)))

    @property
    def config_key(self) -> str:
        """Big-data key of the image config."""
        return f"sha256:{self.id}"

    @property
    def manifest_keys(self) -> tuple[str, ...]:
        """Big-data keys of all stored manifests and manifest lists."""
        return tuple(key for key in self.big_data_names if key.startswith(MANIFEST_KEY))


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Everything a store says about its images, as of one moment."""

    layers: Mapping[str, LayerRecord]
    images: tuple[ImageRecord, ...]

    def chain(self, top: str | None) -> tuple[LayerRecord, ...]:
        """The layers from the base to *top*; raises DataError for a missing parent or a cycle."""
        return layer_chain(top, self.layers.get)

    def abandoned(self) -> frozenset[str]:
        """Incomplete layers on which nothing stands: their writer died, and nobody misses them."""
        needed = {layer.parent for layer in self.layers.values()}
        needed |= {image.layer for image in self.images}
        return frozenset(layer.id for layer in self.layers.values() if layer.incomplete).difference(
            id_ for id_ in needed if id_
        )


def layer_chain(
    top: str | None, find: Callable[[str], LayerRecord | None]
) -> tuple[LayerRecord, ...]:
    """The layers from the base to *top*; *find* looks a layer up, perhaps in several stores.

    Raises DataError for a layer that is nowhere and for a cycle of parents.
    """
    chain: dict[str, LayerRecord] = {}
    child, wanted = "the image", top
    while wanted is not None:
        if wanted in chain:
            raise DataError(f"layer {wanted}", "is its own ancestor, expected a base layer")
        record = find(wanted)
        if record is None:
            raise DataError(f"layer {wanted}", f"is missing, expected since {child} is built on it")
        chain[wanted] = record
        child, wanted = f"layer {wanted}", record.parent
    return tuple(reversed(chain.values()))


def layer_id(parent: str | None, diff_id: DiffId) -> LayerId:
    """The layer ID that c/image gives a layer (image/storage/storage_dest.go).

    The base layer's is its diff ID; any other's is the sha256 of "parent+diff ID", both as hex. It is
    not the OCI chain ID.
    """
    own = diff_id.removeprefix("sha256:")
    if parent is None:
        return LayerId(own)
    return LayerId(hashlib.sha256(f"{parent}+{own}".encode()).hexdigest())


def toc_layer_id(parent: str | None, toc_digest: str) -> LayerId:
    """The layer ID that c/image gives a layer which it knows by its table of contents only."""
    own = toc_digest.partition(":")[2]
    return LayerId(hashlib.sha256(f"{parent or ''}+@TOC={own}".encode()).hexdigest())


def big_data_file_name(key: str) -> str:
    """File name of big data *key* inside an image's or layer's directory.

    containers/storage ``store.go`` (makeBigDataBaseName): the key itself when it has only digits, dots
    and lower-case letters (its last character is not looked at), else "=" and base64. Raises DataError
    for a key that would lead out of the directory.
    """
    name = key
    if not _PLAIN_KEY.fullmatch(key[:-1]):
        name = "=" + base64.standard_b64encode(key.encode(errors="surrogateescape")).decode()
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise DataError(
            f"big data {key!r}", "is not a usable name, expected one without '/' or NUL"
        )
    if len(name.encode(errors="surrogateescape")) > NAME_MAX:
        raise DataError(
            f"big data {key!r:.80}", f"is not a usable name: longer than {NAME_MAX} bytes"
        )
    return name


def parse_layers(content: bytes, where: str) -> tuple[LayerRecord, ...]:
    """Content of ``layers.json``; raises DataError that names *where*, the entry and the key."""
    return _parse_all(content, where, _layer)


def parse_images(content: bytes, where: str) -> tuple[ImageRecord, ...]:
    """Content of ``images.json``; raises DataError that names *where*, the entry and the key."""
    return _parse_all(content, where, _image)


def parse_image(content: bytes, where: str, image_id: str) -> ImageRecord | None:
    """The record of one image in ``images.json``, for a reader of a store that was read as a whole.

    None when it is not there. Raises DataError as :func:`parse_images` does, but for its own entry alone.
    """
    entries = _entries(content, where)
    own = next((fields for fields in entries if fields.raw.get("id") == image_id), None)
    return _image(own) if own else None


def dump_records(records: Iterable[Mapping[str, object]]) -> bytes:
    """Raw records as containers/storage writes them: one compact JSON array."""
    return json.dumps(list(records), separators=(",", ":"), ensure_ascii=False).encode()


def check_unique(records: Sequence[ImageRecord] | Sequence[LayerRecord], where: str) -> None:
    """Raise DataError when an ID or a name is claimed twice: a read-only store with such records
    does not load at all (images.go and layers.go, ErrDuplicate...Names).
    """
    owners: dict[str, str] = {}
    ids: set[str] = set()
    for record in records:
        if record.id in ids:
            raise DataError(where, f"has two entries with the ID {record.id}, expected one")
        ids.add(record.id)
        for name in record.names:
            if owners.setdefault(name, record.id) != record.id:
                both = f"{owners[name]} and {record.id}"
                raise DataError(
                    where, f"gives the name {name!r} to both {both}, expected one owner"
                )


def _parse_all(
    content: bytes, where: str, parse: Callable[[_Fields], Record]
) -> tuple[Record, ...]:
    return tuple(parse(fields) for fields in _entries(content, where))


def _entries(content: bytes, where: str) -> Iterator[_Fields]:
    pieces = content.count(b"{") + content.count(b"[")
    if pieces > FREE_PIECES + len(content) // BYTES_PER_PIECE:
        raise DataError(where, f"has {pieces} objects and arrays, far too many for its length")
    try:
        data: object = json.loads(content or b"[]", parse_constant=_no_constant)
        if _SURROGATE.search(content):
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"is not JSON: {error}") from error
    if data is None:
        return
    if not isinstance(data, list):
        raise DataError(where, f"is a JSON {type(data).__name__}, expected an array")
    for index, entry in enumerate(data):
        if not isinstance(entry, dict):
            raise DataError(where, f"[{index}] is a {type(entry).__name__}, expected an object")
        for key in entry:
            if key != key.casefold():
                expected = f"expected {key.casefold()!r}: containers-storage takes both for one key"
                raise DataError(f"{where}[{index}]", f"has the key {key!r:.80}, {expected}")
        yield _Fields(entry, f"{where}[{index}]")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number of JSON")


def _layer(fields: _Fields) -> LayerRecord:
    size = fields.integer("diff-size")
    flags = fields.mapping("flags")
    return LayerRecord(
        id=fields.identity("id"),
        parent=fields.identity("parent") if fields.raw.get("parent") else None,
        diff_id=fields.parsed("diff-digest", parse_diff_id),
        diff_size=size if size is not None and size >= 0 else None,
        toc_digest=fields.string("toc-digest"),
        names=fields.strings("names"),
        big_data_names=fields.big_data_keys("big-data-names"),
        incomplete=bool(flags.get("incomplete")),
        mapped=bool(fields.raw.get("uidmap") or fields.raw.get("gidmap")),
        raw=fields.raw,
    )


def _image(fields: _Fields) -> ImageRecord:
    return ImageRecord(
        id=fields.identity("id"),
        digest=fields.parsed("digest", parse_manifest_digest),
        names=fields.strings("names"),
        layer=fields.identity("layer") if fields.raw.get("layer") else None,
        big_data_names=fields.big_data_keys("big-data-names"),
        big_data_digests=fields.typed_mapping("big-data-digests", str),
        big_data_sizes=fields.typed_mapping("big-data-sizes", int),
        raw=fields.raw,
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to one JSON object; every complaint says where and what was expected."""

    raw: Mapping[str, object]
    where: str

    def _wrong(self, key: str, expected: str) -> DataError:
        shown = repr(self.raw.get(key))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return DataError(self.where, f"{key} is {shown}, expected {expected}")

    def string(self, key: str) -> str | None:
        value = self.raw.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def integer(self, key: str) -> int | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "an integer")
        return value

    def identity(self, key: str) -> str:
        """An ID that is safe as the name of a directory."""
        value = self.string(key)
        if value is None or not _SAFE_ID.fullmatch(value):
            raise self._wrong(key, "an ID of letters, digits, '_', '.' and '-'")
        return value

    def parsed(self, key: str, parse: Callable[[object], Record]) -> Record | None:
        value = self.string(key)
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise self._wrong(key, "sha256: and 64 hex digits") from error

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.raw.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "an array of strings")
        return tuple(value)

    def big_data_keys(self, key: str) -> tuple[str, ...]:
        names = self.strings(key)
        for name in names:
            try:
                big_data_file_name(name)
            except DataError as error:
                raise DataError(self.where, f"{key}: {error}") from error
        return names

    def mapping(self, key: str) -> Mapping[str, object]:
        value = self.raw.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return value

    def typed_mapping(self, key: str, kind: type[Record]) -> Mapping[str, Record]:
        found: dict[str, Record] = {}
        for name, value in self.mapping(key).items():
            if not isinstance(value, kind) or isinstance(value, bool):
                raise self._wrong(key, f"{kind.__name__} values")
            found[name] = value
        return found
