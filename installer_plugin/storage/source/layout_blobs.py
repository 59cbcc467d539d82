"""Whether the layers of an image in a directory layout are those that its config names.

The tools find out when they have unpacked them, or not at all (an uncompressed layer is stored under
the digest that the manifest has). Blobs in archives, and those compressed with zstd, are left to them.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from installer_plugin.errors import DataError, Problem
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import ResolvedImage, SourceKind
from installer_plugin.storage.store.graph_root import BIG_DATA_LIMIT
from installer_plugin.storage.store.manifests import Descriptor, parse_manifest

HINT = "push the image again, or build it again: its config and its layers do not belong together"
PIECE = 1 << 20


def blob_problems(image: ResolvedImage) -> Iterator[Problem]:
    """Layers whose content is not what the image's config says; nothing for other kinds of source."""
    folder = {SourceKind.OCI: "blobs/sha256/", SourceKind.DIR: ""}.get(image.source.kind)
    if folder is None:
        return
    store = Path(image.source.store)
    manifest = "manifest.json" if image.source.kind is SourceKind.DIR else _name(image.digest)
    path = f"{folder}{manifest}"
    try:
        with Rootfs.open(store) as root:
            content = root.read_bytes(path, limit=BIG_DATA_LIMIT)
            layers = parse_manifest(content, str(store / path)).layers
            for blob, layer in zip(layers, image.layers, strict=False):
                path = f"{folder}{_name(blob.digest)}"
                seen = _diff_id(root, path, blob)
                if seen not in {None, layer.diff_id}:
                    yield Problem(
                        subject=str(store / path),
                        message=f"the layer hashes to {seen}, the image's config has {layer.diff_id}",
                        where=image.bound.reference,
                        hint=HINT,
                    )
    except (OSError, EOFError, zlib.error, DataError) as error:
        message = f"cannot be read from the source: {error}"
        yield Problem(subject=str(store / path), message=message, hint="push the image again")


def _name(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _diff_id(root: Rootfs, path: str, blob: Descriptor) -> str | None:
    """Digest of the uncompressed layer; None where we cannot uncompress it."""
    if blob.compressed and not blob.media_type.endswith("gzip"):
        return None
    with open(root.open_file(path), "rb") as file:  # noqa: PTH123 - a descriptor
        stream = gzip.GzipFile(fileobj=file, mode="rb") if blob.compressed else file
        digest = hashlib.sha256()
        while piece := stream.read(PIECE):
            digest.update(piece)
    return f"sha256:{digest.hexdigest()}"
