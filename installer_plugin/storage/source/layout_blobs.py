"""Whether the layers of an image in a layout are whole, and those that its config names.

The tools find out when they have unpacked them, or not at all (an uncompressed layer is stored under
the digest that the manifest has). What is compressed with zstd is not unpacked here: its digest counts.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from installer_plugin.errors import DataError, Problem
from installer_plugin.model import Layer, ManifestDigest, ResolvedImage, SourceKind
from installer_plugin.storage.source.archive import ZstdError, uncompressed
from installer_plugin.storage.source.layout_files import LayoutFiles, open_layout
from installer_plugin.storage.store.manifests import parse_manifest

HINT = "push the image again, or build it again: its config and its layers do not belong together"
PIECE = 1 << 20
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, DataError)


def blob_problems(image: ResolvedImage) -> Iterator[Problem]:
    """Layers of an image in a layout whose content is not what its manifest and config say.

    All of the layers is read.
    """
    files = open_layout(image.source.kind, Path(image.source.store))
    shown = image.source.store
    try:
        manifest = files.read(image.digest)
        layers = parse_manifest(manifest, f"{image.digest} in {shown}").layers
        for blob, layer in zip(layers, image.layers, strict=False):
            digest = ManifestDigest(blob.digest)
            shown = files.shown(digest)
            for message in _mismatches(files, digest, layer, image.source.kind):
                yield Problem(
                    subject=shown, message=message, where=image.bound.reference, hint=HINT
                )
    except _DAMAGED as error:
        message = f"cannot be read from the source: {error}"
        yield Problem(subject=shown, message=message, hint="push the image again")


def _mismatches(
    files: LayoutFiles, blob: ManifestDigest, layer: Layer, kind: SourceKind
) -> Iterator[str]:
    with files.opened(blob) as file:
        stored = _Hashed(file)
        diff_id = _diff_id(io.BufferedReader(stored, PIECE), files.shown(blob))
        while file.peek(1):
            stored.read(PIECE)  # what follows the end of a compressed stream
    # A Docker archive knows its layers by their diff IDs alone.
    if kind is not SourceKind.DOCKER_ARCHIVE and stored.digest != blob:
        yield f"the layer's file hashes to {stored.digest}, the image's manifest has {blob}"
    elif diff_id not in {None, layer.diff_id}:
        yield f"the layer hashes to {diff_id}, the image's config has {layer.diff_id}"


def _diff_id(file: io.BufferedReader, shown: str) -> str | None:
    """Digest of the uncompressed layer; None where we cannot uncompress it."""
    with suppress(ZstdError):
        return _digest(uncompressed(file, shown))
    while file.read(PIECE):
        pass
    return None


def _digest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(PIECE):
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


class _Hashed(io.RawIOBase):
    """A file that hashes what is read of it."""

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        self._hash.update(memoryview(buffer)[:count])
        return count
