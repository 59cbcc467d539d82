"""Engine ``podman``: ``podman image push``, as bootc does it, and ``podman image scp`` for other hosts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from installer_plugin.model import ResolvedImage
from installer_plugin.process.runner import Command, private_mounts_argv
from installer_plugin.storage.base import search_order
from installer_plugin.storage.skopeo import StoreLinks, target_image
from installer_plugin.storage.toolengine import StoreToolEngine

_WITH_RUN_ROOT = """
mkdir -p /run/containers
mount -t tmpfs tmpfs /run/containers && exec "$0" --runroot /run/containers "$@"
"""


def podman_argv(arguments: Sequence[str]) -> tuple[str, ...]:
    """Podman in private mounts, with a run root that ends with it.

    podman refuses a run root of more than 50 characters (libpod, makeRuntime), which a path below a
    scratch directory easily is.
    """
    return private_mounts_argv(("sh", "-c", _WITH_RUN_ROOT, "podman", *arguments))


def push_argv(options: Sequence[str], image_id: str, target: str) -> tuple[str, ...]:
    """Push the image *image_id* of the store that the global *options* name to *target*."""
    return podman_argv((
        *options,
        "image", "push", "--quiet", "--remove-signatures", image_id, target,
    ))  # fmt: skip


def reading_options(stores: Sequence[Path], scratch: Path) -> tuple[str, ...]:
    """Global options for reading *stores* as additional stores of an empty, throw-away one.

    podman writes a database with absolute paths into its primary store; this way that is ours.
    """
    links = StoreLinks(scratch)
    linked = [links.link(f"source-{number}", store) for number, store in enumerate(stores)]
    return (
        "--root", str(scratch / "empty"),
        *(
            option
            for link in linked
            for option in ("--storage-opt", f"overlay.imagestore={link}")
        ),
    )  # fmt: skip


class PodmanEngine(StoreToolEngine):
    """Copies with ``podman image push`` between local stores."""

    name = "podman"
    tools = ("podman", "unshare", "setpriv")

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """See :class:`~installer_plugin.storage.toolengine.ToolEngine`."""
        argv = push_argv(
            reading_options(search_order(image, self.stores), scratch),
            image.source.item,
            target_image(image.image_id, graph_root, scratch),
        )
        purpose = f"copy {image.bound.reference}"
        self.runner.run(Command(argv=argv, purpose=purpose, env={"TMPDIR": str(scratch)}))
