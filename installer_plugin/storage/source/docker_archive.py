"""Images in Docker archives (``docker save``, ``podman save``): ``docker-archive:FILE``.

Format: Docker image spec v1.2, "Combined Image JSON + Filesystem Changeset Format". An archive keeps
no manifest: c/image makes one of it (docker/internal/tarfile/src.go, GetManifest), and so do we, byte
for byte, so that the digest is the one that any tool finds.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.declarations.reference import DEFAULT_REGISTRY, parse_reference
from installer_plugin.errors import DataError
from installer_plugin.model import ManifestDigest, parse_manifest_digest
from installer_plugin.storage.source.archive import Archive
from installer_plugin.storage.source.layout_index import MANIFEST_LIMIT, IndexEntry, completed
from installer_plugin.storage.store.manifests import digest_of, parse_config

_TYPE = "application/vnd.docker"
_MANIFEST = f"{_TYPE}.distribution.manifest.v2+json"
_GZIP_LAYER = f"{_TYPE}.image.rootfs.diff.tar.gzip"
"""What c/image says of every layer, whatever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """An entry of ``manifest.json``."""

    config: str
    layers: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """Its tags as they are and completed; Docker leaves its own registry out of them."""
        full = [completed(tag) for tag in self.tags]
        hub = [completed(f"{DEFAULT_REGISTRY}/{tag}") for tag in self.tags if _is_short(tag)]
        return frozenset((*self.tags, *full, *hub))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """An image with the manifest that was made of it."""

    image: _Image
    manifest: bytes
    files: Mapping[ManifestDigest, str]
    """Its config's and its layers' files in the archive."""


def _is_short(tag: str) -> bool:
    try:
        return parse_reference(tag).is_short
    except ValueError:
        return False


class DockerArchive:
    """A Docker archive as if it were a layout, of the manifests that are made of it.

    Layers are known by their diff IDs, and are uncompressed.
    """

    def __init__(self, path: Path) -> None:
        self._archive = Archive(path)
        self._made: dict[ManifestDigest, _Made] | None = None

    def entries(self) -> tuple[IndexEntry, ...]:
        """See :class:`~installer_plugin.storage.source.layout_files.LayoutFiles`; one for each name."""
        return tuple(
            IndexEntry(digest=digest, media_type=_MANIFEST, full_name=name)
            for digest, made in self._images().items()
            for name in made.image.names or ("",)
        )

    def read(self, digest: ManifestDigest) -> bytes:
        """See :class:`~installer_plugin.storage.source.layout_files.LayoutFiles`."""
        if digest in self._images():
            return self._images()[digest].manifest
        return self._archive.read(self._file(digest), MANIFEST_LIMIT)

    def size(self, digest: ManifestDigest) -> int:
        """See :class:`~installer_plugin.storage.source.layout_files.LayoutFiles`."""
        return self._archive.uncompressed_size(self._file(digest))

    def opened(self, digest: ManifestDigest) -> AbstractContextManager[io.BufferedReader]:
        """See :class:`~installer_plugin.storage.source.layout_files.LayoutFiles`."""
        return self._archive.opened(self._file(digest))

    def shown(self, digest: ManifestDigest) -> str:
        """See :class:`~installer_plugin.storage.source.layout_files.LayoutFiles`."""
        return f"{self._file(digest)} in {self._archive.path}"

    def place(self, digest: ManifestDigest, target: Path) -> None:
        """See :class:`~installer_plugin.storage.source.layout_files.LayoutFiles`."""
        with self._archive.uncompressed(self._file(digest)) as content, target.open("xb") as file:
            shutil.copyfileobj(content, file, 1 << 20)

    def _file(self, digest: ManifestDigest) -> str:
        """The file of a config or layer."""
        for made in self._images().values():
            if digest in made.files:
                return made.files[digest]
        raise DataError(f"{digest} in {self._archive.path}", "is missing, expected it there")

    def _images(self) -> dict[ManifestDigest, _Made]:
        if self._made is None:
            made = (_made(self._archive, image) for image in _images(self._archive))
            self._made = {digest_of(each.manifest): each for each in made}
        return self._made


def _images(archive: Archive) -> tuple[_Image, ...]:
    where = f"manifest.json in {archive.path}"
    try:
        data = json.loads(archive.read("manifest.json", MANIFEST_LIMIT))
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"is not JSON: {error}") from error
    if not isinstance(data, list):
        raise DataError(where, "is not an array, expected the manifest of a Docker archive")
    return tuple(_image(entry, f"{where}[{number}]") for number, entry in enumerate(data))


def _image(entry: object, shown: str) -> _Image:
    if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
        raise DataError(shown, "has no Config, expected an image of a Docker archive")
    return _Image(
        config=entry["Config"],
        layers=_strings(entry, "Layers", shown),
        tags=_strings(entry, "RepoTags", shown),
    )


def _strings(entry: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(where, f"{key} is {value!r:.80}, expected an array of strings")
    return tuple(value)


def _made(archive: Archive, image: _Image) -> _Made:
    """The manifest that c/image makes of *image*."""
    content = archive.read(image.config, MANIFEST_LIMIT)
    diff_ids = parse_config(content, f"{image.config} in {archive.path}").diff_ids
    if len(image.layers) != len(diff_ids):
        message = f"lists {len(image.layers)} layers, its config {len(diff_ids)}"
        raise DataError(f"manifest.json in {archive.path}", message)
    layers = [
        {"mediaType": _GZIP_LAYER, "size": archive.uncompressed_size(file), "digest": diff_id}
        for file, diff_id in zip(image.layers, diff_ids, strict=True)
    ]
    config = {
        "mediaType": f"{_TYPE}.container.image.v1+json",
        "size": len(content),
        "digest": digest_of(content),
    }
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
    files = {
        parse_manifest_digest(id_): file for id_, file in zip(diff_ids, image.layers, strict=True)
    }
    return _Made(
        image=image,
        manifest=json.dumps(manifest, separators=(",", ":")).encode(),
        files={**files, digest_of(content): image.config},
    )
