"""What every image source and every copy engine offers, and the words they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from installer_plugin.model import (
    ImageId,
    Layer,
    ManifestDigest,
    ResolvedImage,
    SourceLocation,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image in a source, with all its identities."""

    location: SourceLocation
    image_id: ImageId
    digest: ManifestDigest
    manifest_digests: tuple[ManifestDigest, ...]
    layers: tuple[Layer, ...]
    compressed: bool = False
    """Whether its manifest lists compressed layers, so that tools which copy it rewrite that."""
    name: str = ""
    """The stored name that matched; empty when it was found by digest or has no complete name."""


class ImageSource(Protocol):
    """A place that images are copied from."""

    @property
    def label(self) -> str:
        """The source as messages name it."""

    def remedy(self, reference: str) -> str:
        """The command that brings an image that is missing here."""

    def find(self, reference: str) -> Found | None:
        """The image that *reference* means here, None when it is not here.

        Raises DataError when it is here but damaged or of no use, and CommandError.
        """


class Engine(Protocol):
    """A way to get an image's layers and config into a target store."""

    @property
    def name(self) -> str:
        """As given to ``--engine`` and shown in reports."""

    @property
    def tools(self) -> tuple[str, ...]:
        """Programs it runs."""

    @property
    def stages_on_target(self) -> bool:
        """Whether its scratch directory has to be on the target's file system."""

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """Copy *image* under its image ID alone; names are given later, when all of it is there.

        *scratch* is an empty directory on a roomy file system. Raises CommandError and DataError.
        """


def search_order(image: ResolvedImage, graph_roots: Sequence[Path]) -> tuple[Path, ...]:
    """The local stores in which a stored image's layers are looked for, its own store first."""
    return tuple(dict.fromkeys((Path(image.source.store), *graph_roots)))


Manifests = Mapping[ManifestDigest, bytes]
"""Manifests and manifest lists, by their digests."""
