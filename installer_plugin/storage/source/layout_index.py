"""What an OCI layout calls its images, and which of them a reference means (pure).

Two annotations carry names. skopeo writes a name or a tag of the user's choice as
``org.opencontainers.image.ref.name``; buildkit writes the tag alone there, and the full name as
``io.containerd.image.name``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from installer_plugin.declarations.reference import DEFAULT_TAG, parse_reference
from installer_plugin.errors import DataError
from installer_plugin.storage.store.manifests import MANIFEST_LIST_TYPES, parse_object

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
MANIFEST_LIMIT = 4 << 20
"""Bytes of a manifest, a manifest list or a config; c/image refuses larger ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A manifest or manifest list that the index of a layout lists."""

    digest: str
    media_type: str = ""
    ref_name: str = ""
    full_name: str = ""
    """As containerd has it."""

    @property
    def may_be_list(self) -> bool:
        """Whether it may be a manifest list; what has no type may be anything."""
        return self.media_type in MANIFEST_LIST_TYPES or not self.media_type

    @property
    def names(self) -> frozenset[str]:
        """Its names as they are, and completed."""
        given = [name for name in (self.ref_name, self.full_name) if name]
        return frozenset((*given, *map(completed, given)))


def parse_index(content: bytes, where: str) -> tuple[IndexEntry, ...]:
    """The entries of an ``index.json``, or of a manifest list; raises DataError that names *where*.

    What an entry has beside its digest may be anything: one that is strange does not hide the others.
    """
    listed = parse_object(content, where).get("manifests")
    if not isinstance(listed, list):
        raise DataError(where, "has no manifests, expected the index of an OCI layout")
    return tuple(_entry(item) for item in listed if isinstance(item, dict))


def _entry(item: Mapping[str, object]) -> IndexEntry:
    annotations = item.get("annotations")
    texts: Mapping[str, object] = annotations if isinstance(annotations, dict) else {}
    return IndexEntry(
        digest=_text(item.get("digest")),
        media_type=_text(item.get("mediaType")),
        ref_name=_text(texts.get(REF_NAME)),
        full_name=_text(texts.get(CONTAINERD_NAME)),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def completed(name: str) -> str:
    """*name* with the tag that it has when none is written; as it is when it is not a reference."""
    try:
        return str(parse_reference(name).normalised())
    except ValueError:
        return name


def find_named(
    entries: Sequence[IndexEntry], names: Sequence[str]
) -> tuple[IndexEntry, str] | None:
    """The first entry with the first of *names* that any has, and that name."""
    for name in names:
        for entry in entries:
            if name in entry.names:
                return entry, name
    return None


def find_meant(entries: Sequence[IndexEntry], stands_for: str) -> IndexEntry | None:
    """The entry that a user means who says that the layout has *stands_for*.

    It is the only one there, or the one that is known by the tag alone.
    """
    if len({entry.digest for entry in entries}) == 1:
        return entries[0]
    tag = parse_reference(stands_for).tag or DEFAULT_TAG
    return next((entry for entry in entries if entry.ref_name == tag), None)
