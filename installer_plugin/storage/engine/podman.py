"""Engine ``podman``: ``podman image push`` between local stores, as bootc does it."""

from __future__ import annotations

from pathlib import Path

from installer_plugin.model import ResolvedImage
from installer_plugin.process.runner import Command
from installer_plugin.storage.base import search_order
from installer_plugin.storage.engine.tool_engine import StoreToolEngine
from installer_plugin.storage.tool_argv import push_argv, reading_options, target_image


class PodmanEngine(StoreToolEngine):
    """Copies with ``podman image push`` between local stores."""

    name = "podman"
    tools = ("podman", "unshare", "setpriv")

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """See :class:`~installer_plugin.storage.engine.tool_engine.ToolEngine`."""
        argv = push_argv(
            reading_options(search_order(image, self.stores), scratch),
            image.source.item,
            target_image(image.image_id, graph_root, scratch),
        )
        purpose = f"copy {image.bound.reference}"
        self.runner.run(Command(argv=argv, purpose=purpose, env={"TMPDIR": str(scratch)}))
