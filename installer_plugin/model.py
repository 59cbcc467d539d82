"""Values that the stages hand to each other; one type for each state of knowledge about an image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

ManifestDigest = NewType("ManifestDigest", str)
"""``sha256:<hex>`` of a manifest's or a manifest list's bytes; what a pinned reference names."""
ImageId = NewType("ImageId", str)
"""Hex of the sha256 of the image config's bytes, as containers-storage writes image IDs."""
DiffId = NewType("DiffId", str)
"""``sha256:<hex>`` of a layer's uncompressed tar stream (OCI image spec, ``rootfs.diff_ids``)."""
LayerId = NewType("LayerId", str)
"""Hex name of a layer in containers-storage; derived from its diff ID and its parent's layer ID."""

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_HEX64 = re.compile(r"[0-9a-f]{64}")


def _require_sha256(text: object, what: str) -> str:
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is not {what}, expected sha256: and 64 hex digits")
    return text


def _require_hex64(text: object, what: str) -> str:
    if not isinstance(text, str) or not _HEX64.fullmatch(text):
        raise ValueError(f"{text!r} is not {what}, expected 64 hex digits")
    return text


def parse_manifest_digest(text: object) -> ManifestDigest:
    """``sha256:<64 hex>`` -> ManifestDigest; raises ValueError."""
    return ManifestDigest(_require_sha256(text, "a manifest digest"))


def parse_diff_id(text: object) -> DiffId:
    """``sha256:<64 hex>`` -> DiffId; raises ValueError."""
    return DiffId(_require_sha256(text, "a diff ID"))


def parse_image_id(text: object) -> ImageId:
    """64 hex digits -> ImageId; raises ValueError."""
    return ImageId(_require_hex64(text, "an image ID"))


class UnitKind(StrEnum):
    """Quadlet unit types that bootc accepts as a bound image; the value is the file extension."""

    CONTAINER = "container"
    IMAGE = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an image runs on, as configs and manifest lists say it; "" for what they do not say."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Severity(StrEnum):
    """How much a finding matters."""

    WARNING = "warning"
    """Works now, fails or surprises later."""
    NOTE = "note"
    """Has no effect, or could be said better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a declaration stands in the source root; paths are relative to the root."""

    link: str
    """``usr/lib/bootc/bound-images.d/NAME``."""
    unit: str
    """The file that the link leads to, or the file that set the value (a drop-in, an ``.image``)."""
    line: int | None = None
    """Line of ``Image=`` in *unit*, from 1; None when there is none."""

    def __str__(self) -> str:
        line = f":{self.line}" if self.line is not None else ""
        return f"{self.link} -> {self.unit}{line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something an image author should know about a declaration that is otherwise usable."""

    code: str
    """Stable kebab-case name."""
    severity: Severity
    message: str
    """What was seen."""
    consequence: str
    """What it will lead to, and when."""
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundImage:
    """An image that the OS image declares: nothing is known yet but what was written down."""

    kind: UnitKind
    location: Location
    reference: str
    """The image to get: the effective ``Image=`` as Quadlet reads it."""
    names: tuple[str, ...]
    """Names the target store must answer to, literal: ``Image=`` as Quadlet and as bootc read it,
    and ``ImageTag=``. bootc's garbage collection compares these strings."""
    bootc_name: str | None = None
    """The image as bootc itself reads the file; None when it refuses to."""
    findings: tuple[Finding, ...] = ()


class SourceKind(StrEnum):
    """Transports an image can come from; the value is the transport's name in references."""

    CONTAINERS_STORAGE = "containers-storage"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DIR = "dir"
    DOCKER_ARCHIVE = "docker-archive"
    SSH = "ssh"


LAYOUTS = frozenset(
    (SourceKind.OCI, SourceKind.OCI_ARCHIVE, SourceKind.DIR, SourceKind.DOCKER_ARCHIVE)
)
"""Kinds that have images in files of their own, and no store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLocation:
    """Where a resolved image was found."""

    kind: SourceKind
    store: str
    """Graph root, directory, archive file or ``ssh://`` address."""
    item: str
    """What names the image inside *store*: an image ID, a layout's tag, a reference; "" if alone."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.store}" if self.kind is not SourceKind.SSH else self.store


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an image, as its store or manifest describes it."""

    diff_id: DiffId
    size: int
    """Bytes of the uncompressed tar stream."""
    entries: int = 0
    """Files, directories and links in it, for estimates; 0 when the source does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedImage:
    """A bound image that was found in a source: its identities are known."""

    bound: BoundImage
    names: tuple[str, ...]
    """Names the target store must answer to: the declared ones as written and as podman completes
    them."""
    source: SourceLocation
    image_id: ImageId
    digest: ManifestDigest
    """The manifest the source would run or serve by default."""
    manifest_digests: tuple[ManifestDigest, ...]
    """Every manifest and manifest list that the source knows for the image, *digest* among them."""
    layers: tuple[Layer, ...]
    """Base first."""
    compressed: bool = False
    """Whether its manifest lists compressed layers, so that tools which copy it rewrite that."""
    platform: Platform | None = None
    """What it runs on, by its config; None when its source does not tell."""

    @property
    def size(self) -> int:
        """Bytes of all layers, uncompressed."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedImage:
    """A resolved image whose engine reported success; a claim, not a proof."""

    resolved: ResolvedImage
    engine: str
    already_there: bool
    """True when the target had the image and nothing was copied."""
    refusal: str = ""
    """Why a fallback engine was taken; empty when the first choice served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What verification demands of the target for one bound image."""

    reference: str
    names: tuple[str, ...]
    image_id: ImageId | None = None
    """None when only the name is known."""
    manifest_digests: tuple[ManifestDigest, ...] = ()
    """Manifests that must be stored; for a pinned reference the pin is among them."""
    where: str = ""
    """Where the demand comes from: a declaration, the receipt, a lock file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedImage:
    """An image proven from the target's disk; made by the verify stage alone."""

    reference: str
    names: tuple[str, ...]
    where: str
    image_id: ImageId
    digest: ManifestDigest
    manifest_digests: tuple[ManifestDigest, ...]
    diff_ids: tuple[DiffId, ...]
    size: int
    """Bytes of the layers' tar streams that were rebuilt and hashed."""
    checks: tuple[str, ...]
    """Names of the verification steps that were carried out, in order."""
