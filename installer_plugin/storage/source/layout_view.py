"""An image of a layout as copying needs it: its manifests, and a layout of it alone for tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.model import ManifestDigest, SourceLocation, parse_manifest_digest
from installer_plugin.storage.base import Manifests
from installer_plugin.storage.source.layout_files import open_layout
from installer_plugin.storage.store.manifests import digest_of, parse_manifest


def layout_manifests(location: SourceLocation, digests: Sequence[ManifestDigest]) -> Manifests:
    """The manifests and lists *digests* of a layout, read again.

    Raises DataError when one has gone or its bytes are not what its digest says.
    """
    source = open_layout(location.kind, Path(location.store))
    found = {}
    for digest in digests:
        content = source.read(digest)
        if digest_of(content) != digest:
            raise DataError(f"{digest} in {location}", f"its bytes hash to {digest_of(content)}")
        found[digest] = content
    return found


def layout_view(location: SourceLocation, digest: ManifestDigest, place: Path) -> None:
    """Make at *place* an OCI layout of the one image whose manifest is *digest*, without a name.

    Tools can be pointed to images of an OCI layout by one of their names alone. Blobs are links to the
    originals; those of an archive are unpacked. Raises DataError and OSError.
    """
    files = open_layout(location.kind, Path(location.store))
    content = layout_manifests(location, [digest])[digest]
    manifest = parse_manifest(content, f"{digest} in {location}")
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)
    listed = (manifest.config, *manifest.layers)
    for blob in dict.fromkeys(parse_manifest_digest(each.digest) for each in listed if each):
        files.place(blob, blobs / blob.removeprefix("sha256:"))
    (blobs / digest.removeprefix("sha256:")).write_bytes(content)
    entry = {"mediaType": manifest.media_type, "digest": digest, "size": len(content)}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (place / "index.json").write_text(json.dumps(index))
    (place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
