"""The files of layouts and ``dir:`` directories: manifests, configs and layers by their digests.

Formats: OCI image-layout.md; c/image ``directory`` (``manifest.json``, ``HEX.manifest.json`` for the
instances of a list, everything else by its hex alone).
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import ManifestDigest, SourceKind
from installer_plugin.storage.source.archive import Archive
from installer_plugin.storage.source.docker_archive import DockerArchive
from installer_plugin.storage.source.layout_index import MANIFEST_LIMIT, IndexEntry, parse_index
from installer_plugin.storage.store.manifests import digest_of, parse_object


class LayoutFiles(Protocol):
    """A layout, opened again for each call; what a digest names is checked by the caller."""

    def entries(self) -> tuple[IndexEntry, ...]:
        """What the layout lists at its top; raises DataError."""

    def read(self, digest: ManifestDigest) -> bytes:
        """The manifest, list or config *digest*; raises DataError when it is not there."""

    def size(self, digest: ManifestDigest) -> int:
        """Bytes of the blob *digest*; raises DataError when it is not there."""

    def opened(self, digest: ManifestDigest) -> AbstractContextManager[io.BufferedReader]:
        """The blob *digest* as it is stored, to be read; raises DataError and OSError."""

    def shown(self, digest: ManifestDigest) -> str:
        """Where the blob *digest* is, for messages."""

    def place(self, digest: ManifestDigest, target: Path) -> None:
        """Make the blob appear at *target*; raises DataError and OSError."""


def open_layout(kind: SourceKind, path: Path) -> LayoutFiles:
    """The layout at *path*; nothing is read yet. Raises RuntimeError for what is not a layout."""
    match kind:
        case SourceKind.OCI:
            return _LayoutDirectory(path)
        case SourceKind.OCI_ARCHIVE:
            return _ArchivedLayout(path)
        case SourceKind.DOCKER_ARCHIVE:
            return DockerArchive(path)
        case SourceKind.DIR:
            return _PlainDirectory(path)
        case _:
            raise RuntimeError(f"{kind} is not a layout")


class _Directory:
    """Files below a directory, of which no path leads out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def content(self, name: str) -> bytes:
        try:
            with Rootfs.open(self.path) as root:
                return root.read_bytes(name, limit=MANIFEST_LIMIT)
        except OSError as error:
            raise self._unreadable(name, error) from error
        except DataError as error:
            raise DataError(f"{self.path}/{name}", error.message) from error

    def length(self, name: str) -> int:
        try:
            with Rootfs.open(self.path) as root:
                fd = root.open_file(name)
        except OSError as error:
            raise self._unreadable(name, error) from error
        except DataError as error:
            raise DataError(f"{self.path}/{name}", error.message) from error
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    @contextmanager
    def opened(self, name: str) -> Iterator[io.BufferedReader]:
        with Rootfs.open(self.path) as root:
            fd = root.open_file(name)
        with os.fdopen(fd, "rb") as file:
            yield file

    def link(self, name: str, target: Path) -> None:
        """Link *target* to the file itself, so that nothing on the way to it is followed again."""
        self.length(name)
        with Rootfs.open(self.path) as root:
            target.symlink_to(self.path.absolute() / root.resolve(name).path)

    def has(self, name: str) -> bool:
        with Rootfs.open(self.path) as root:
            return root.exists(name)

    def _unreadable(self, name: str, error: OSError) -> DataError:
        return DataError(f"{self.path}/{name}", f"cannot be read: {error.strerror}")


def _hex(digest: ManifestDigest) -> str:
    return digest.removeprefix("sha256:")


class _LayoutDirectory:
    """``oci:``."""

    def __init__(self, path: Path) -> None:
        self._files = _Directory(path)

    def entries(self) -> tuple[IndexEntry, ...]:
        return parse_index(self._files.content("index.json"), f"{self._files.path}/index.json")

    def read(self, digest: ManifestDigest) -> bytes:
        return self._files.content(_blob(digest))

    def size(self, digest: ManifestDigest) -> int:
        return self._files.length(_blob(digest))

    def opened(self, digest: ManifestDigest) -> AbstractContextManager[io.BufferedReader]:
        return self._files.opened(_blob(digest))

    def shown(self, digest: ManifestDigest) -> str:
        return f"{self._files.path}/{_blob(digest)}"

    def place(self, digest: ManifestDigest, target: Path) -> None:
        self._files.link(_blob(digest), target)


def _blob(digest: ManifestDigest) -> str:
    return f"blobs/sha256/{_hex(digest)}"


class _PlainDirectory:
    """``dir:``; its one image has no name."""

    def __init__(self, path: Path) -> None:
        self._files = _Directory(path)

    def entries(self) -> tuple[IndexEntry, ...]:
        content = self._files.content("manifest.json")
        media_type = parse_object(content, f"{self._files.path}/manifest.json").get("mediaType")
        shown = media_type if isinstance(media_type, str) else ""
        return (IndexEntry(digest=digest_of(content), media_type=shown),)

    def read(self, digest: ManifestDigest) -> bytes:
        return self._files.content(self._name(digest))

    def size(self, digest: ManifestDigest) -> int:
        return self._files.length(self._name(digest))

    def opened(self, digest: ManifestDigest) -> AbstractContextManager[io.BufferedReader]:
        return self._files.opened(self._name(digest))

    def shown(self, digest: ManifestDigest) -> str:
        return f"{self._files.path}/{_hex(digest)}"

    def place(self, digest: ManifestDigest, target: Path) -> None:
        self._files.link(self._name(digest), target)

    def _name(self, digest: ManifestDigest) -> str:
        instance = f"{_hex(digest)}.manifest.json"
        if self._files.has(instance):
            return instance
        if not self._files.has(_hex(digest)) and digest == self.entries()[0].digest:
            return "manifest.json"
        return _hex(digest)


class _ArchivedLayout:
    """``oci-archive:``."""

    def __init__(self, path: Path) -> None:
        self._archive = Archive(path)

    def entries(self) -> tuple[IndexEntry, ...]:
        content = self._archive.read("index.json", MANIFEST_LIMIT)
        return parse_index(content, f"index.json in {self._archive.path}")

    def read(self, digest: ManifestDigest) -> bytes:
        return self._archive.read(_blob(digest), MANIFEST_LIMIT)

    def size(self, digest: ManifestDigest) -> int:
        return self._archive.member(_blob(digest)).size

    def opened(self, digest: ManifestDigest) -> AbstractContextManager[io.BufferedReader]:
        return self._archive.opened(_blob(digest))

    def shown(self, digest: ManifestDigest) -> str:
        return f"{_blob(digest)} in {self._archive.path}"

    def place(self, digest: ManifestDigest, target: Path) -> None:
        with self._archive.opened(_blob(digest)) as content, target.open("xb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
