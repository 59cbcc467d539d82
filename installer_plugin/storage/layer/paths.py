"""Where a store has what belongs to a layer (containers/storage drivers/overlay, layers.go)."""

from __future__ import annotations


def tree_path(layer_id: str) -> str:
    """The directory of a layer's files."""
    return f"overlay/{layer_id}/diff"


def split_path(layer_id: str) -> str:
    """What a layer's tar stream is made of besides its files."""
    return f"overlay-layers/{layer_id}.tar-split.gz"
