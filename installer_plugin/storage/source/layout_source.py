"""Images in layouts, archives and ``dir:`` directories: found by name or digest, identified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from installer_plugin.declarations.reference import ImageReference, parse_reference
from installer_plugin.errors import DataError
from installer_plugin.model import (
    DiffId,
    Layer,
    ManifestDigest,
    SourceKind,
    SourceLocation,
    parse_image_id,
    parse_manifest_digest,
)
from installer_plugin.storage.base import Found
from installer_plugin.storage.source.layout_files import open_layout
from installer_plugin.storage.source.layout_index import (
    IndexEntry,
    completed,
    find_meant,
    find_named,
    parse_index,
)
from installer_plugin.storage.source.platforms import choose_instance
from installer_plugin.storage.source.searching import Searching
from installer_plugin.storage.source.short_names import candidates
from installer_plugin.storage.store.manifests import (
    Manifest,
    digest_of,
    parse_config,
    parse_manifest,
)

USUAL_COMPRESSION = 3
"""How much larger layers usually are uncompressed; for estimates of space only."""
MAX_DEPTH = 4
"""Manifest lists within each other; one is usual."""
MAX_LISTS = 256
"""Manifest lists that are searched for a digest."""


Way = tuple[ManifestDigest, ...]
"""Digests from a manifest list, or several within each other, down to a manifest."""


class LayoutSource:
    """One layout. Images are known by their names in it and by their digests; one may be known by the
    reference that the user says it stands for.
    """

    def __init__(
        self, kind: SourceKind, path: Path, searching: Searching, *, stands_for: str | None = None
    ) -> None:
        self._kind = kind
        self._path = path
        self._files = open_layout(kind, path)
        self._searching = searching
        self._stands_for = stands_for

    @property
    def label(self) -> str:
        """``oci:DIR`` and the like."""
        return f"{self._kind}:{self._path}"

    def remedy(self, reference: str) -> str:
        """See :class:`~installer_plugin.storage.base.ImageSource`.

        Only ``oci:`` takes one more image: ``dir:`` holds one, and skopeo replaces an archive whole.
        """
        name = f":{reference}" if "@" not in reference else ""
        if self._kind is SourceKind.OCI:
            fetch = f"skopeo copy docker://{reference} {self.label}{name}"
        else:
            fetch = f"skopeo copy docker://{reference} oci:NEW{name} and add --store oci:NEW"
        if "@" in reference or self._stands_for is not None:
            return fetch
        return f"{fetch}; if it is there without that name: --store {reference}={self.label}"

    def find(self, reference: str) -> Found | None:
        """See :class:`~installer_plugin.storage.base.ImageSource`."""
        if not self._path.exists():
            raise DataError(self.label, "does not exist", hint="check the path given to --store")
        wanted = parse_reference(reference)
        entries = self._files.entries()
        if wanted.digest is not None:
            path = self._by_digest(wanted.digest, entries)
            if path is None and self._means(reference):
                seen = ", ".join(entry.digest for entry in entries) or "none"
                message = f"is to be the image in {self.label}, which has the digest {seen}"
                raise DataError(reference, message, hint=f"pin {seen} in Image=")
            if path is None and self._kind is SourceKind.DOCKER_ARCHIVE:
                self._require_elsewhere(reference, wanted, entries)
            return self._identified(path, "") if path else None
        entry, name = self._by_name(reference, wanted, entries)
        return self._identified((_digest(entry, self.label),), name) if entry else None

    def _require_elsewhere(
        self, reference: str, wanted: ImageReference, entries: Sequence[IndexEntry]
    ) -> None:
        """Raise DataError when a Docker archive has an image of the repository, which has no digest."""
        names = (name for entry in entries for name in entry.names)
        if any(name.startswith(f"{wanted.repository}:") for name in names):
            raise DataError(
                reference,
                f"is pinned by digest, which {self.label} does not keep",
                hint=f"skopeo copy docker://{reference} oci:NEW, and use that as a store",
            )

    def _by_name(
        self, reference: str, wanted: ImageReference, entries: Sequence[IndexEntry]
    ) -> tuple[IndexEntry | None, str]:
        """The entry that *reference* means, and its complete name when that is another one."""
        full = candidates(wanted, self._searching.registries)
        found = find_named(entries, (reference, completed(reference), *full))
        if found:
            entry, name = found
            return entry, name if wanted.is_short and name in full else ""
        return (find_meant(entries, reference) if self._means(reference) else None), ""

    def _means(self, reference: str) -> bool:
        """Whether the user says that the layout has *reference*."""
        stands_for = self._stands_for
        return stands_for is not None and completed(stands_for) == completed(reference)

    def _by_digest(self, wanted: str, entries: Sequence[IndexEntry]) -> Way | None:
        """The way to the manifest or list *wanted*, in whatever list it is, the nearest first."""
        level, searched = list(entries), 0
        for _ in range(MAX_DEPTH):
            if any(entry.digest == wanted for entry in level):
                return (parse_manifest_digest(wanted),)
            lists = [entry for entry in level if entry.may_be_list][: MAX_LISTS - searched]
            searched += len(lists)
            level = [inner for entry in lists for inner in self._listed(entry)]
        return None

    def _listed(self, entry: IndexEntry) -> tuple[IndexEntry, ...]:
        """What a manifest list lists; nothing when it is none, or is not here."""
        try:
            content = self._manifest(_digest(entry, self.label))
            return parse_index(content, entry.digest)
        except DataError:
            return ()

    def _manifest(self, digest: ManifestDigest) -> bytes:
        content = self._files.read(digest)
        if digest_of(content) != digest:
            raise DataError(f"{digest} in {self.label}", f"its bytes hash to {digest_of(content)}")
        return content

    def _identified(self, path: Way, name: str) -> Found:
        """All identities of the image that *path* leads to, checked against each other."""
        digests, manifest = self._followed(path)
        shown = f"{digests[-1]} in {self.label}"
        if manifest.config is None:
            raise DataError(shown, "has no config, expected an image")
        image_id = parse_manifest_digest(manifest.config.digest)
        config = parse_config(self._manifest(image_id), f"config of {shown}")
        if len(manifest.layers) != len(config.diff_ids):
            message = f"lists {len(manifest.layers)} layers, its config {len(config.diff_ids)}"
            raise DataError(shown, message)
        return Found(
            location=SourceLocation(kind=self._kind, store=str(self._path), item=digests[-1]),
            image_id=parse_image_id(image_id.removeprefix("sha256:")),
            digest=digests[-1],
            manifest_digests=digests,
            layers=tuple(self._layers(manifest, config.diff_ids)),
            platform=config.platform,
            name=name,
        )

    def _followed(self, path: Way) -> tuple[Way, Manifest]:
        """*path* down to the image's own manifest, and that."""
        for _ in range(MAX_DEPTH):
            manifest = parse_manifest(self._manifest(path[-1]), f"{path[-1]} in {self.label}")
            if not manifest.is_list:
                return path, manifest
            instance = choose_instance(manifest.instances, self._searching.machine)
            if instance is None:
                raise self._no_instance(path[-1], manifest)
            path = (*path, parse_manifest_digest(instance.digest))
        raise DataError(f"{path[0]} in {self.label}", "has lists within lists, expected an image")

    def _no_instance(self, digest: ManifestDigest, manifest: Manifest) -> DataError:
        there = ", ".join(str(entry.platform) for entry in manifest.instances) or "none"
        return DataError(
            f"{digest} in {self.label}",
            f"has no image for {self._searching.machine}, which the OS image is for; it has {there}",
            hint="get the image for that platform too (skopeo copy --all)",
        )

    def _layers(self, manifest: Manifest, diff_ids: Sequence[DiffId]) -> Iterator[Layer]:
        """The layers, whose blobs have to be there; raises DataError."""
        for blob, diff_id in zip(manifest.layers, diff_ids, strict=True):
            size = self._files.size(parse_manifest_digest(blob.digest))
            if size != blob.size:
                message = f"has {size} bytes, its manifest says {blob.size}"
                raise DataError(f"layer {blob.digest} in {self.label}", message)
            usual = size * (USUAL_COMPRESSION if blob.compressed else 1)
            yield Layer(diff_id=diff_id, size=usual)


def _digest(entry: IndexEntry, where: str) -> ManifestDigest:
    try:
        return parse_manifest_digest(entry.digest)
    except ValueError as error:
        raise DataError(where, str(error)) from error
