"""The names of all images in local stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from installer_plugin.storage.store.graph_root import GraphRoot


def image_names(graph_roots: Sequence[Path]) -> tuple[str, ...]:
    """Return the names in the stores that are there, each once, sorted; raises DataError."""
    names: set[str] = set()
    for path in graph_roots:
        if path.is_dir():
            with GraphRoot.open(path) as root:
                if root.has_images():
                    names.update(name for image in root.load().images for name in image.names)
    return tuple(sorted(names))
