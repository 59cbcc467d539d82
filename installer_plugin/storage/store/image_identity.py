"""Whether an image's record, manifests, config and layer records agree (steps 3 to 5 of verification).

Everything hangs on the image ID: it is the hash of the config, the config names the layers by the
hashes of their streams, and the manifests name the config.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from installer_plugin.errors import DataError
from installer_plugin.model import DiffId, ManifestDigest
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.manifests import (
    Manifest,
    digest_of,
    parse_config,
    parse_manifest,
)
from installer_plugin.storage.store.records import (
    MANIFEST_KEY,
    ImageRecord,
    LayerRecord,
    Records,
    layer_id,
    toc_layer_id,
)

UNCOMPRESSED = frozenset((
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
))  # fmt: skip
"""Media types of layers whose blob is the tar stream itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Something that does not agree."""

    where: str
    """The file or layer."""
    message: str


class ImageIdentity:
    """An image of the store, examined step by step; each step yields what is wrong."""

    def __init__(self, store: GraphRoot, records: Records, image: ImageRecord) -> None:
        self._store = store
        self.records = records
        self.image = image
        self._manifests: dict[str, bytes] = {}
        self.diff_ids: tuple[DiffId, ...] | None = None
        """As the config has them; None until the config is proven."""
        self.layers: tuple[LayerRecord, ...] = ()
        """Base first; as far as they are known."""

    @property
    def manifest_digests(self) -> tuple[ManifestDigest, ...]:
        """Digests of the manifests whose bytes were read and hashed; the default one first."""
        keys = sorted(self._manifests, key=lambda key: (key != MANIFEST_KEY, key))
        return tuple(dict.fromkeys(digest_of(self._manifests[key]) for key in keys))

    def check_config(self) -> Iterator[Mismatch]:
        """Step 3: the config's bytes hash to the image ID."""
        where = f"config of image {self.image.id[:12]}"
        try:
            content = self._store.big_data(self.image, self.image.config_key)
            seen = digest_of(content)
            if seen != self.image.config_key:
                yield Mismatch(
                    where=where, message=f"hashes to {seen}, expected {self.image.config_key}"
                )
                return
            self.diff_ids = parse_config(content, where).diff_ids
        except DataError as error:
            yield _mismatch(error)

    def check_manifests(self, wanted: Sequence[ManifestDigest]) -> Iterator[Mismatch]:
        """Step 4: stored manifests, and all other big data, are what the record says they are."""
        for key in self.image.big_data_names:
            try:
                content = self._store.big_data(self.image, key)
            except DataError as error:
                yield _mismatch(error)
                continue
            yield from self._check_content(key, content)
        if MANIFEST_KEY not in self.image.big_data_names:
            yield Mismatch(where="images.json", message="has no default manifest, expected one")
        known = self.manifest_digests
        for digest in wanted:
            if digest not in known:
                stored = ", ".join(known) or "none"
                yield Mismatch(
                    where="manifests",
                    message=f"{digest} is not stored, expected it; stored are: {stored}",
                )
        if self.image.digest is not None and self.image.digest not in known:
            yield Mismatch(
                where="images.json",
                message=f"digest is {self.image.digest}, expected one of a stored manifest",
            )

    def check_chain(self) -> Iterator[Mismatch]:
        """Step 5: manifests, config, layer records and layer IDs name the same layers in one order."""
        for key, content in self._manifests.items():
            try:
                manifest = parse_manifest(content, f"big data {key}")
            except DataError as error:
                yield _mismatch(error)
                continue
            if not manifest.is_list:
                yield from self._check_manifest(key, manifest)
        try:
            self.layers = self.records.chain(self.image.layer)
        except DataError as error:
            yield _mismatch(error)
            return
        yield from self._check_layers()

    def _check_content(self, key: str, content: bytes) -> Iterator[Mismatch]:
        seen, where = digest_of(content), f"big data {key}"
        is_manifest = key.startswith(MANIFEST_KEY)
        if is_manifest:
            self._manifests[key] = content
        recorded = self.image.big_data_digests.get(key)
        if recorded is not None and recorded != seen:
            yield Mismatch(where=where, message=f"hashes to {seen}, expected {recorded}")
        named = (
            key.removeprefix(f"{MANIFEST_KEY}-") if is_manifest and key != MANIFEST_KEY else seen
        )
        if named not in {seen, recorded}:
            yield Mismatch(where=where, message=f"hashes to {seen}, expected its name's {named}")
        size = self.image.big_data_sizes.get(key, len(content))
        if size != len(content):
            yield Mismatch(where=where, message=f"has {len(content)} bytes, expected {size}")

    def _check_manifest(self, key: str, manifest: Manifest) -> Iterator[Mismatch]:
        where = f"big data {key}"
        config = manifest.config.digest if manifest.config else "none"
        if config != self.image.config_key:
            yield Mismatch(
                where=where, message=f"has the config {config}, expected {self.image.config_key}"
            )
        if self.diff_ids is None:
            return
        if len(manifest.layers) != len(self.diff_ids):
            yield Mismatch(
                where=where,
                message=f"has {len(manifest.layers)} layers, expected {len(self.diff_ids)}",
            )
            return
        for index, (blob, diff_id) in enumerate(zip(manifest.layers, self.diff_ids, strict=True)):
            if blob.media_type in UNCOMPRESSED and blob.digest != diff_id:
                yield Mismatch(
                    where=where, message=f"layers[{index}] is {blob.digest}, expected {diff_id}"
                )

    def _check_layers(self) -> Iterator[Mismatch]:
        wanted = self.diff_ids
        if wanted is None:
            return
        if len(self.layers) != len(wanted):
            yield Mismatch(
                where="layers.json",
                message=f"the image has {len(self.layers)} layers, expected {len(wanted)}",
            )
            return
        for layer, diff_id in zip(self.layers, wanted, strict=True):
            where = f"layers.json, layer {layer.id[:12]}"
            # A layer that was pulled in parts may be recorded by its table of contents alone.
            if layer.diff_id != diff_id and not (layer.diff_id is None and layer.toc_digest):
                yield Mismatch(
                    where=where, message=f"diff-digest is {layer.diff_id}, expected {diff_id}"
                )
            expected = {layer_id(layer.parent, diff_id)}
            if layer.toc_digest:
                expected.add(toc_layer_id(layer.parent, layer.toc_digest))
            if layer.id not in expected:
                yield Mismatch(
                    where=where, message=f"its ID does not follow from parent and {diff_id}"
                )


def _mismatch(error: DataError) -> Mismatch:
    return Mismatch(where=error.subject, message=error.message)
