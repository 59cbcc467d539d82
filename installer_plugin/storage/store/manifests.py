"""Image configs and manifests as far as we need them: pure parsing with located complaints.

Formats: OCI image spec (config.md, manifest.md, image-index.md) and Docker image manifest v2 schema 2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from installer_plugin.errors import DataError
from installer_plugin.model import (
    DiffId,
    ManifestDigest,
    Platform,
    parse_diff_id,
    parse_manifest_digest,
)

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
"""Type of a manifest that does not say one; Docker's always do."""
MANIFEST_LIST_TYPES = frozenset((
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """The parts of an image config that identify its layers."""

    diff_ids: tuple[DiffId, ...]
    platform: Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob that a manifest refers to."""

    digest: str
    size: int
    media_type: str
    platform: Platform | None

    @property
    def compressed(self) -> bool:
        """Whether *size* is that of a compressed layer."""
        return self.media_type.endswith(("gzip", "zstd"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest or, when *config* is None and *instances* is not, a manifest list."""

    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    instances: tuple[Descriptor, ...]
    is_list: bool
    media_type: str


def digest_of(content: bytes) -> ManifestDigest:
    """The digest that names *content*."""
    return ManifestDigest("sha256:" + hashlib.sha256(content).hexdigest())


def parse_config(content: bytes, where: str) -> ImageConfig:
    """An image config; raises DataError that names *where*."""
    data = parse_object(content, where)
    rootfs = data.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list):
        raise DataError(where, "has no rootfs.diff_ids, expected an image config")
    try:
        parsed = tuple(map(parse_diff_id, diff_ids))
    except ValueError as error:
        raise DataError(where, f"rootfs.diff_ids: {error}") from error
    return ImageConfig(diff_ids=parsed, platform=parse_platform(data))


def parse_created(content: bytes, where: str) -> int:
    """When an image was made, by its config: seconds since 1970, 0 when it does not say.

    RFC 3339 with as many digits of a second as its writer liked. Raises DataError.
    """
    value = parse_object(content, where).get("created")
    if value is None:
        return 0
    try:
        # A time before 1970 stands for none (Go's zero time is in the year 1).
        return max(0, int(datetime.fromisoformat(str(value)).timestamp()))
    except (ValueError, OverflowError) as error:
        raise DataError(where, f"was created {value!r}, expected a time (RFC 3339)") from error


def parse_manifest(content: bytes, where: str) -> Manifest:
    """A manifest or manifest list; raises DataError that names *where*."""
    data = parse_object(content, where)
    listed = data.get("manifests")
    is_list = str(data.get("mediaType")) in MANIFEST_LIST_TYPES or isinstance(listed, list)
    config = data.get("config")
    return Manifest(
        config=_descriptor(config, f"{where}: config") if config is not None else None,
        layers=_descriptors(data.get("layers"), f"{where}: layers"),
        instances=_descriptors(listed, f"{where}: manifests"),
        is_list=is_list,
        media_type=str(data.get("mediaType") or OCI_MANIFEST),
    )


def parse_object(content: bytes, where: str) -> Mapping[str, object]:
    """One JSON object; raises DataError that names *where*."""
    try:
        data: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise DataError(where, f"is a JSON {type(data).__name__}, expected an object")
    return data


def _descriptors(value: object, where: str) -> tuple[Descriptor, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(where, "is not an array, expected an array of descriptors")
    return tuple(_descriptor(entry, f"{where}[{index}]") for index, entry in enumerate(value))


def _descriptor(value: object, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise DataError(where, f"is {value!r}, expected a descriptor")
    size = value.get("size")
    media_type = value.get("mediaType")
    platform = value.get("platform")
    try:
        digest = parse_manifest_digest(value.get("digest"))
    except ValueError as error:
        raise DataError(where, f"digest: {error}") from error
    return Descriptor(
        digest=digest,
        size=size if isinstance(size, int) and size >= 0 else 0,
        media_type=media_type if isinstance(media_type, str) else "",
        platform=parse_platform(platform) if isinstance(platform, dict) else None,
    )


def parse_platform(data: Mapping[str, object]) -> Platform:
    """The platform that a config or a descriptor's ``platform`` says; never raises."""
    names = (data.get(key) for key in ("os", "architecture", "variant"))
    os, architecture, variant = (name if isinstance(name, str) else "" for name in names)
    return Platform(os=os, architecture=architecture, variant=variant)
