"""Calls of skopeo and podman: how stores are named to them, and what they are asked to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.model import ImageId
from installer_plugin.process.runner import private_mounts_argv

_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._-]*")
_WITH_RUN_ROOT = """
mkdir -p /run/containers
mount -t tmpfs tmpfs /run/containers && exec "$0" --runroot /run/containers "$@"
"""


@dataclass(frozen=True, slots=True)
class StoreLinks:
    """Links to stores below a scratch directory.

    In c/image's ``containers-storage:[driver@graph+run:options]`` syntax the characters ``@+:,[]``
    have meanings and no escapes; links keep the real paths out of it.
    """

    scratch: Path

    def link(self, name: str, store: Path) -> Path:
        """A path without special characters that leads to *store*."""
        if not _PLAIN_PATH.fullmatch(str(self.scratch)):
            raise DataError(
                str(self.scratch),
                "the scratch directory's path has characters that container tools give a meaning",
                hint="choose another one with --scratch",
            )
        link = self.scratch / name
        link.symlink_to(store.absolute())
        return link


def source_store_spec(stores: Sequence[Path], scratch: Path) -> str:
    """``[...]`` for reading images of *stores* without ever opening one of them for writing.

    The stores are additional stores of an empty one: that works on read-only file systems, and no
    tool repairs or locks what is not ours.
    """
    links = StoreLinks(scratch)
    options = [
        f"overlay.imagestore={links.link(f'source-{number}', store)}"
        for number, store in enumerate(stores)
    ]
    return f"[overlay@{scratch / 'empty'}+{scratch / 'run-source'}:{','.join(options)}]"


def target_store_spec(graph_root: Path, scratch: Path) -> str:
    """``[...]`` for writing into *graph_root* with a throw-away run root."""
    link = StoreLinks(scratch).link("target", graph_root)
    return f"[overlay@{link}+{scratch / 'run-target'}]"


def inspect_argv(image: str, *, config: bool) -> tuple[str, ...]:
    """Raw manifest or raw config of the image *image* (``transport:name``)."""
    kind = ("--config", "--raw") if config else ("--raw",)
    return private_mounts_argv(("skopeo", "inspect", *kind, image))


def copy_argv(source: str, target: str, tmpdir: Path) -> tuple[str, ...]:
    """Copy between two images; nothing is asked, nothing is drawn.

    Signatures are dropped from what skopeo writes, because the layers' representation changes and
    with it the manifest they sign; the caller adds the original manifests.
    """
    return private_mounts_argv((
        "skopeo", "copy", "--quiet", "--remove-signatures",
        "--tmpdir", str(tmpdir),
        source, target,
    ))  # fmt: skip


def target_image(image_id: ImageId, graph_root: Path, scratch: Path) -> str:
    """The destination by image ID only.

    c/image refuses a destination that is pinned by digest when layers have to be rewritten
    (container-libs#197); by ID every image can be copied, and it gets its names when it is whole.
    """
    return f"containers-storage:{target_store_spec(graph_root, scratch)}@{image_id}"


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
