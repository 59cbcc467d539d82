"""Engine ``skopeo``, and skopeo as the reader of OCI layouts and ``dir:`` directories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.model import ImageId, ResolvedImage, SourceKind
from installer_plugin.process.runner import Command, private_mounts_argv
from installer_plugin.storage.base import search_order
from installer_plugin.storage.toolengine import StoreToolEngine

_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._-]*")


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


class SkopeoEngine(StoreToolEngine):
    """Copies with ``skopeo copy``, from containers-storage and from layouts."""

    name = "skopeo"
    tools = ("skopeo", "unshare", "setpriv")

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """See :class:`~installer_plugin.storage.toolengine.ToolEngine`."""
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
        name = f":{location.item}" if location.item else ""
        return f"{location.kind}:{location.store}{name}"


def target_image(image_id: ImageId, graph_root: Path, scratch: Path) -> str:
    """The destination by image ID only.

    c/image refuses a destination that is pinned by digest when layers have to be rewritten
    (container-libs#197); by ID every image can be copied, and it gets its names when it is whole.
    """
    return f"containers-storage:{target_store_spec(graph_root, scratch)}@{image_id}"
