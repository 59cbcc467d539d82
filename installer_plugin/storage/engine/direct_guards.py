"""Guards of the direct engine: what a layer or store must be like to be copied as it is.

The store's format is internal to containers-storage (osbuild#1252): what is not known to be right is
left to skopeo, which goes through the store's own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.records import LayerRecord, layer_id, toc_layer_id

REGULAR_FILE = "regular file"
DIRECTORY = "directory"


class Guard(StrEnum):
    """Names of the refusals, as reports show them."""

    OTHER_SOURCE = "other-source"
    """The image is not in a containers-storage."""
    SIGNATURE_POLICY = "signature-policy"
    """The containers policy demands signatures, which skopeo evaluates."""
    INCOMPLETE_LAYER = "incomplete-layer"
    NO_DIFF_ID = "no-diff-id"
    NO_TAR_SPLIT = "no-tar-split"
    """The layer could be run, but neither exported nor verified."""
    MAPPED_OWNERS = "mapped-owners"
    """Files have shifted owners (``uidmap``, ``gidmap``)."""
    COMPOSEFS_LAYER = "composefs-layer"
    """``diff`` is a directory of objects, not a tree."""
    AUFS_WHITEOUTS = "aufs-whiteouts"
    """The store was written through a mount program (fuse-overlayfs)."""
    ROOTLESS_STORE = "rootless-store"
    """Owners and marks are kept in user.* attributes."""
    UNUSUAL_LAYER = "unusual-layer"
    """The layer's directory is not what the overlay driver makes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an image is not copied directly."""

    guard: Guard
    detail: str

    def __str__(self) -> str:
        return f"{self.guard}: {self.detail}"


def layer_refusal(store: GraphRoot, layer: LayerRecord) -> Refusal | None:
    """The first guard that *layer* of *store* does not pass; None when it may be copied as it is."""
    return next(_refusals(store, layer), None)


def _refusals(store: GraphRoot, layer: LayerRecord) -> Iterator[Refusal]:
    shown = f"layer {layer.id}"
    if layer.incomplete:
        yield Refusal(Guard.INCOMPLETE_LAYER, f"{shown} was left incomplete")
    if layer.diff_id is None or layer.diff_size is None:
        yield Refusal(Guard.NO_DIFF_ID, f"{shown} is known by its table of contents only")
    elif layer.id not in layer_ids(layer):
        yield Refusal(
            Guard.UNUSUAL_LAYER, f"{shown} has an ID that does not follow from its diff ID"
        )
    if layer.mapped:
        yield Refusal(Guard.MAPPED_OWNERS, f"{shown} has an ID mapping")
    if not _is(store, split_path(layer.id), REGULAR_FILE):
        yield Refusal(Guard.NO_TAR_SPLIT, f"{shown} has no tar-split file")
    if store.root.has_entry(f"overlay/{layer.id}/composefs-data"):
        yield Refusal(Guard.COMPOSEFS_LAYER, f"{shown} is stored as composefs objects")
    if not _is(store, f"overlay/{layer.id}", DIRECTORY):
        yield Refusal(Guard.UNUSUAL_LAYER, f"{shown} has no directory of its own")
    elif not _is(store, tree_path(layer.id), DIRECTORY):
        yield Refusal(Guard.UNUSUAL_LAYER, f"diff of {shown} is not a directory")
    elif store.root.has_entry(f"overlay/{layer.id}/diff1"):
        yield Refusal(Guard.UNUSUAL_LAYER, f"{shown} has more than one diff directory")
    yield from _store_refusals(store)


def layer_ids(layer: LayerRecord) -> frozenset[str]:
    """IDs that *layer* may have; an ID that is a hash is the name of no other part of a store."""
    ids = set[str]()
    if layer.diff_id is not None:
        ids.add(layer_id(layer.parent, layer.diff_id))
    if layer.toc_digest:
        ids.add(toc_layer_id(layer.parent, layer.toc_digest))
    return frozenset(ids)


def _store_refusals(store: GraphRoot) -> Iterator[Refusal]:
    mark = "overlay/.has-mount-program"
    if _is(store, mark, REGULAR_FILE) and store.read(mark, limit=64).strip() == b"true":
        yield Refusal(Guard.AUFS_WHITEOUTS, f"{store.path} was written through a mount program")
    if store.path.stat().st_uid != 0:
        yield Refusal(Guard.ROOTLESS_STORE, f"{store.path} does not belong to root")


def _is(store: GraphRoot, path: str, kind: str) -> bool:
    try:
        return store.root.type_of(path) == kind
    except OSError:
        return False


def image_refusal(
    chain: Sequence[tuple[GraphRoot, LayerRecord]], *, signatures: bool
) -> Refusal | None:
    """The first guard that an image (its layers, base first) does not pass."""
    if signatures:
        return Refusal(Guard.SIGNATURE_POLICY, "the containers policy demands signatures")
    refusals = (layer_refusal(store, layer) for store, layer in chain)
    return next((refusal for refusal in refusals if refusal), None)
