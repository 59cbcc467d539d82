"""Engine ``skopeo``: ``skopeo copy``, from containers-storage and from layouts."""

from __future__ import annotations

from pathlib import Path

from installer_plugin.model import ResolvedImage, SourceKind
from installer_plugin.process.runner import Command
from installer_plugin.storage.base import search_order
from installer_plugin.storage.engine.tool_engine import StoreToolEngine
from installer_plugin.storage.tool_argv import (
    copy_argv,
    source_store_spec,
    target_image,
)


class SkopeoEngine(StoreToolEngine):
    """Copies with ``skopeo copy``, from containers-storage and from layouts."""

    name = "skopeo"
    tools = ("skopeo", "unshare", "setpriv")

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """See :class:`~installer_plugin.storage.engine.tool_engine.ToolEngine`."""
        command = Command(
            argv=copy_argv(
                self._source(image, scratch),
                target_image(image.image_id, graph_root, scratch),
                scratch,
            ),
            purpose=f"copy {image.bound.reference}",
            env={"TMPDIR": str(scratch)},
        )
        self.runner.run(command)

    def _source(self, image: ResolvedImage, scratch: Path) -> str:
        location = image.source
        if location.kind is SourceKind.CONTAINERS_STORAGE:
            spec = source_store_spec(search_order(image, self.stores), scratch)
            return f"containers-storage:{spec}@{location.item}"
        from installer_plugin.storage.source.layout_view import layout_view  # noqa: PLC0415 - see store_option

        view = scratch / "layout"
        layout_view(location, image.digest, view)
        return f"oci:{view}"
