"""What every image source offers, and the words that sources and engines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from installer_plugin.model import (
    ImageId,
    Layer,
    ManifestDigest,
    Platform,
    ResolvedImage,
    SourceLocation,
)

STORE_FORMS = (
    "a graph root, [REFERENCE=]oci:DIR, [REFERENCE=]oci-archive:FILE, [REFERENCE=]dir:DIR, "
    "[REFERENCE=]docker-archive:FILE or ssh://[USER@]HOST[:PORT]"
)
TRANSPORTS = ("oci:", "oci-archive:", "dir:", "docker://", "docker-archive:")
"""Of a source image that has to be fetched before its files can be read."""


class EngineChoice(StrEnum):
    """``--engine``: what copies between local stores; other sources have one way each."""

    AUTO = "auto"
    """Directly where the guards hold, else skopeo."""
    DIRECT = "direct"
    SKOPEO = "skopeo"
    PODMAN = "podman"


class Backend(StrEnum):
    """How bootc lays out a physical root; the value is the directory that holds ``bootc/``."""

    OSTREE = "ostree"
    COMPOSEFS = "composefs"


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
    platform: Platform | None = None
    """What it runs on, by its config; None when the source does not tell."""
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


def search_order(image: ResolvedImage, graph_roots: Sequence[Path]) -> tuple[Path, ...]:
    """The local stores in which a stored image's layers are looked for, its own store first."""
    return tuple(dict.fromkeys((Path(image.source.store), *graph_roots)))


Manifests = Mapping[ManifestDigest, bytes]
"""Manifests and manifest lists, by their digests."""
