"""Images in OCI layouts, OCI archives and ``dir:`` directories, read through skopeo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from installer_plugin.declarations.reference import parse_reference
from installer_plugin.errors import DataError
from installer_plugin.model import (
    ImageId,
    Layer,
    ManifestDigest,
    SourceKind,
    SourceLocation,
    parse_image_id,
)
from installer_plugin.process.runner import Command, CommandError, Runner
from installer_plugin.storage.base import Found
from installer_plugin.storage.store.manifests import (
    Manifest,
    digest_of,
    instance_digest,
    parse_config,
    parse_manifest,
)
from installer_plugin.storage.tool_argv import inspect_argv

USUAL_COMPRESSION = 3
"""How much larger layers usually are uncompressed; for estimates of space only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """One image of a layout, as skopeo shows it."""

    item: str
    raw: bytes
    manifest: Manifest


class LayoutSource:
    """One layout. Images are known by their names in it; one without a name by its digest, or by the
    reference that the user says it stands for.
    """

    def __init__(
        self, kind: SourceKind, path: Path, runner: Runner, *, stands_for: str | None = None
    ) -> None:
        self._kind = kind
        self._path = path
        self._runner = runner
        self._stands_for = stands_for

    @property
    def label(self) -> str:
        """``oci:DIR`` and the like."""
        return f"{self._kind}:{self._path}"

    def remedy(self, reference: str) -> str:
        """See :class:`~installer_plugin.storage.base.ImageSource`."""
        name = f":{reference}" if self._kind is not SourceKind.DIR and "@" not in reference else ""
        return f"skopeo copy docker://{reference} {self.label}{name}"

    def find(self, reference: str) -> Found | None:
        """See :class:`~installer_plugin.storage.base.ImageSource`."""
        if not self._path.exists():
            raise DataError(self.label, "does not exist", hint="check the path given to --store")
        wanted = parse_reference(reference)
        for item in self._items(reference):
            read = self._read(item)
            if read is None:
                continue
            found = self._identify(read)
            named = bool(item) or self._stands_for == reference
            if wanted.digest in found.manifest_digests or (named and wanted.digest is None):
                return found
        return None

    def _items(self, reference: str) -> tuple[str, ...]:
        """Names to try in the layout; "" is its only image."""
        if self._kind is SourceKind.DIR:
            return ("",)
        wanted = parse_reference(reference)
        names = (
            reference,
            str(wanted.normalised()),
            wanted.repository,
            f"{wanted.repository}:{wanted.tag}",
        )
        return (*dict.fromkeys(name for name in names if "@" not in name), "")

    def _read(self, item: str) -> _Read | None:
        try:
            raw = self._inspect(item, config=False)
        except CommandError as error:
            if _says_absent(error.stderr):
                return None
            raise
        return _Read(item=item, raw=raw, manifest=parse_manifest(raw, self._shown(item)))

    def _identify(self, read: _Read) -> Found:
        shown = self._shown(read.item)
        config = self._inspect(read.item, config=True)
        image = parse_config(config, f"config of {shown}")
        digest = digest_of(read.raw)
        instance = instance_digest(read.manifest, image.platform) if read.manifest.is_list else None
        sizes = [
            layer.size * (USUAL_COMPRESSION if layer.compressed else 1)
            for layer in read.manifest.layers
        ] or [0] * len(image.diff_ids)
        if len(sizes) != len(image.diff_ids):
            raise DataError(shown, f"lists {len(sizes)} layers, its config {len(image.diff_ids)}")
        digests = (digest, instance) if instance else (digest,)
        return Found(
            location=SourceLocation(kind=self._kind, store=str(self._path), item=read.item),
            image_id=_image_id(config),
            digest=instance or digest,
            manifest_digests=tuple(map(ManifestDigest, digests)),
            layers=tuple(
                Layer(diff_id=diff_id, size=size)
                for diff_id, size in zip(image.diff_ids, sizes, strict=True)
            ),
        )

    def _inspect(self, item: str, *, config: bool) -> bytes:
        shown = self._shown(item)
        command = Command(argv=inspect_argv(shown, config=config), purpose=f"read {shown}")
        return self._runner.run(command).stdout

    def _shown(self, item: str) -> str:
        return f"{self.label}:{item}" if item else self.label


def _image_id(config: bytes) -> ImageId:
    return parse_image_id(digest_of(config).removeprefix("sha256:"))


def _says_absent(stderr: str) -> bool:
    """Whether skopeo failed because the layout has no image of that name, or several without one.

    c/image oci/layout (ErrMoreThanOneImage, ImageNotFoundError) has no exit codes for it.
    """
    return any(
        words in stderr
        for words in ("no descriptor found for reference", "more than one image in oci")
    )
