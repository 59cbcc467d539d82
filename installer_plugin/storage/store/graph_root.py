"""A containers-storage directory, opened for reading: records under its locks, big data, confined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Closing, Rootfs
from installer_plugin.storage.store import locks
from installer_plugin.storage.store.records import (
    ImageRecord,
    Records,
    big_data_file_name,
    check_unique,
    parse_image,
    parse_images,
    parse_layers,
)

Parsed = TypeVar("Parsed")

DRIVER = "overlay"
"""The storage driver that bootc hard-wires, and the only one whose layers we read."""
LAYERS_JSON = "overlay-layers/layers.json"
IMAGES_JSON = "overlay-images/images.json"
RECORDS_LIMIT = 64 << 20
"""Bytes of a records file; a store of thousands of images stays far below."""
BIG_DATA_LIMIT = 32 << 20
"""Bytes of a manifest or config; c/image itself refuses manifests above 4 MiB."""


class GraphRoot(Closing):
    """A store's directory. Use as a context manager; nothing is ever written through it."""

    def __init__(self, path: Path, root: Rootfs) -> None:
        self.path = path
        self.root = root

    @classmethod
    def open(cls, path: Path) -> GraphRoot:
        """Open the graph root *path*; raises DataError when there is no directory to read."""
        try:
            return cls(path, Rootfs.open(path))
        except OSError as error:
            raise DataError(str(path), f"cannot be opened as a store: {error.strerror}") from error

    def close(self) -> None:
        """Release the directory."""
        self.root.close()

    def has_images(self) -> bool:
        """Whether the store has ever held an image of our driver."""
        return self.root.exists(IMAGES_JSON)

    def load(self) -> Records:
        """All records, read under the store's own locks; raises as :meth:`read_records` does."""
        try:
            with locks.shared(self.path):
                return self.read_records()
        except OSError as error:
            raise DataError(str(self.path), f"cannot be locked: {error.strerror}") from error

    def read_records(self) -> Records:
        """All records, for a caller who holds the locks: taking them again would drop them.

        A store without records is an empty store. Raises DataError that names the file and what is
        wrong with it, names claimed twice included.
        """
        layers = self._records(LAYERS_JSON, parse_layers)
        images = self._records(IMAGES_JSON, parse_images)
        check_unique(layers, self.shown(LAYERS_JSON))
        check_unique(images, self.shown(IMAGES_JSON))
        return Records(layers={layer.id: layer for layer in layers}, images=images)

    def load_image(self, image_id: str) -> ImageRecord | None:
        """The record of one image, read under the store's own locks; None when it is not there.

        For a store whose records were read before: what is wrong with others is not looked for again.
        Raises DataError.
        """
        try:
            with locks.shared(self.path):
                content = self._content(IMAGES_JSON)
        except OSError as error:
            raise DataError(str(self.path), f"cannot be locked: {error.strerror}") from error
        return parse_image(content, self.shown(IMAGES_JSON), image_id)

    def shown(self, relative: str) -> str:
        """The path *relative* as messages show it."""
        return str(self.path / relative)

    def big_data(self, image: ImageRecord, key: str) -> bytes:
        """Big data *key* of *image*; raises DataError when it is not there."""
        return self.read(f"overlay-images/{image.id}/{big_data_file_name(key)}", BIG_DATA_LIMIT)

    def read(self, relative: str, limit: int) -> bytes:
        """A regular file of the store, at most *limit* bytes; raises DataError that names it."""
        try:
            return self.root.read_bytes(relative, limit=limit)
        except OSError as error:
            raise DataError(self.shown(relative), f"cannot be read: {error.strerror}") from error
        except DataError as error:
            raise DataError(self.shown(relative), error.message) from error

    def _records(self, name: str, parse: Callable[[bytes, str], Parsed]) -> Parsed:
        return parse(self._content(name), self.shown(name))

    def _content(self, name: str) -> bytes:
        for folder in (name.partition("/")[0], DRIVER):
            if self.root.has_entry(folder) and not self.root.is_dir(folder):
                kind = self.root.type_of(folder)
                raise DataError(self.shown(folder), f"is a {kind}, expected a directory")
        return self.read(name, RECORDS_LIMIT) if self.root.has_entry(name) else b"[]"
