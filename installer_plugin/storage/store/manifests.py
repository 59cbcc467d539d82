"""Image configs and manifests as far as we need them: pure parsing with located complaints.

Formats: OCI image spec (config.md, manifest.md, image-index.md) and Docker image manifest v2 schema 2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from installer_plugin.errors import DataError
from installer_plugin.model import DiffId, ManifestDigest, parse_diff_id, parse_manifest_digest

MANIFEST_LIST_TYPES = frozenset((
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an image runs on, as configs and manifest lists say it."""

    os: str
    architecture: str


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


def digest_of(content: bytes) -> ManifestDigest:
    """The digest that names *content*."""
    return ManifestDigest("sha256:" + hashlib.sha256(content).hexdigest())


def parse_config(content: bytes, where: str) -> ImageConfig:
    """An image config; raises DataError that names *where*."""
    data = _object(content, where)
    rootfs = data.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list):
        raise DataError(where, "has no rootfs.diff_ids, expected an image config")
    try:
        parsed = tuple(map(parse_diff_id, diff_ids))
    except ValueError as error:
        raise DataError(where, f"rootfs.diff_ids: {error}") from error
    return ImageConfig(diff_ids=parsed, platform=_platform(data))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """A manifest or manifest list; raises DataError that names *where*."""
    data = _object(content, where)
    listed = data.get("manifests")
    is_list = str(data.get("mediaType")) in MANIFEST_LIST_TYPES or isinstance(listed, list)
    config = data.get("config")
    return Manifest(
        config=_descriptor(config, f"{where}: config") if config is not None else None,
        layers=_descriptors(data.get("layers"), f"{where}: layers"),
        instances=_descriptors(listed, f"{where}: manifests"),
        is_list=is_list,
    )


def instance_digest(manifest_list: Manifest, platform: Platform) -> ManifestDigest | None:
    """The one instance of the list for *platform*; None when there is none or more than one."""
    fitting = [entry for entry in manifest_list.instances if entry.platform == platform]
    return parse_manifest_digest(fitting[0].digest) if len(fitting) == 1 else None


def _object(content: bytes, where: str) -> Mapping[str, object]:
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
        raise DataError(where, "is no array, expected an array of descriptors")
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
        platform=_platform(platform) if isinstance(platform, dict) else None,
    )


def _platform(data: Mapping[str, object]) -> Platform:
    return Platform(os=str(data.get("os", "")), architecture=str(data.get("architecture", "")))
