"""Engine ``direct``: layers and records from store to store, byte for byte.

Trees are staged beside the target store on its file system and renamed into it by
:mod:`~installer_plugin.storage.commit`. A layer is therefore complete or absent, and a second run
goes on where the first one was ended.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.model import ResolvedImage
from installer_plugin.process import Command, Runner
from installer_plugin.storage import locks
from installer_plugin.storage.base import search_order
from installer_plugin.storage.commit import SourceImage, StoredLayer, commit
from installer_plugin.storage.graphroot import GraphRoot
from installer_plugin.storage.guards import image_refusal
from installer_plugin.storage.records import Records, big_data_file_name, layer_chain
from installer_plugin.storage.space import is_full

PARALLEL_LAYERS = 4
"""Layers copied at once; more does not help one disk."""
END_SECONDS = 0.05
"""How often programs that are still running are ended."""

OpenedStore = tuple[GraphRoot, Records]


def copy_tree_argv(source: str, target: Path) -> tuple[str, ...]:
    """Copy the content and the attributes of the directory *source* onto *target*.

    ``cp`` keeps what layers are made of: hard links, devices, whiteouts, holes, nanoseconds and every
    extended attribute but the SELinux label, which the target's own policy decides. Naming the
    attributes makes a failure to keep them an error, which ``--archive`` alone would pass over.
    """
    return (
        "setpriv", "--pdeathsig", "TERM", "--",
        "cp", "--recursive", "--no-dereference",
        "--preserve=mode,ownership,timestamps,links,xattr", "--reflink=auto",
        f"{source}/.", f"{target}/",
    )  # fmt: skip


class DirectEngine:
    """Copies between local stores without going through tar streams."""

    name = "direct"
    tools = ("cp", "setpriv")
    stages_on_target = True

    def __init__(self, stores: Sequence[Path], runner: Runner) -> None:
        """*stores*: the local stores, primary first; layers may be in any of them."""
        self._stores = tuple(stores)
        self._runner = runner

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """See :class:`~installer_plugin.storage.base.Engine`; *scratch* is on the target's disk.

        The source's locks are held shared throughout: nobody removes what is being read.
        """
        with ExitStack() as stack:
            source = self._open(image, stack)
            self._stage(_missing(source, graph_root), scratch)
            commit(source, graph_root, scratch, self._runner)

    def _open(self, image: ResolvedImage, stack: ExitStack) -> SourceImage:
        """Lock the source's stores, read them afresh and guard what was found in them."""
        opened: list[OpenedStore] = []
        for path in search_order(image, self._stores):
            stack.enter_context(locks.shared(path))
            store = stack.enter_context(GraphRoot.open(path))
            opened.append((store, store.read_records()))
        source = find_source(opened, image)
        refusal = image_refusal(source.layers, signatures=False)
        if refusal:
            raise DataError(image.bound.reference, f"cannot be copied directly ({refusal})")
        return source

    def _stage(self, layers: Sequence[StoredLayer], scratch: Path) -> None:
        with ThreadPoolExecutor(PARALLEL_LAYERS, thread_name_prefix="copy") as pool:
            staged = [pool.submit(self._stage_layer, layer, scratch) for layer in layers]
            try:
                for done in staged:
                    done.result()
            except BaseException:
                # Queued layers are not begun, and the workers' programs end, before we leave: also
                # those that were just about to be started.
                pool.shutdown(wait=False, cancel_futures=True)
                while not all(each.done() for each in staged):
                    self._runner.end_all()
                    wait(staged, timeout=END_SECONDS)
                raise

    def _stage_layer(self, layer: StoredLayer, scratch: Path) -> None:
        """Put all of a layer that does not depend on the target below *scratch*."""
        store, record = layer
        staged = scratch / record.id
        staged.mkdir(mode=0o700)
        for name in ("diff", "work", "merged", *(() if record.parent else ("empty",))):
            (staged / name).mkdir(mode=0o700)
        with store.root.directory(f"overlay/{record.id}/diff") as source:
            argv = copy_tree_argv(f"/proc/{os.getpid()}/fd/{source}", staged / "diff")
            self._runner.run(Command(argv=argv, purpose=f"copy layer {record.id}"))
        name = f"{record.id}.tar-split.gz"
        _copy_file(store, f"overlay-layers/{name}", scratch / name)
        for key in record.big_data_names:
            folder = scratch / f"{record.id}.big-data"
            folder.mkdir(mode=0o700, exist_ok=True)
            file_name = big_data_file_name(key)
            _copy_file(store, f"overlay-layers/{record.id}/{file_name}", folder / file_name)


def find_source(opened: Sequence[OpenedStore], image: ResolvedImage) -> SourceImage:
    """The image's record in the first store of *opened*, and its layers in any of them.

    Raises DataError when it has gone since it was resolved.
    """
    store, records = opened[0]
    record = next((each for each in records.images if each.id == image.image_id), None)
    if record is None:
        raise DataError(
            f"image {image.image_id}",
            f"has gone from {store.path} since it was found there",
            hint=f"podman pull {image.bound.reference}",
        )
    where = {id_: root for root, each in reversed(opened) for id_ in each.layers}
    layers = {id_: layer for _, each in reversed(opened) for id_, layer in each.layers.items()}
    chain = layer_chain(record.layer, layers.get)
    return SourceImage(store, record, tuple((where[layer.id], layer) for layer in chain))


def _missing(source: SourceImage, graph_root: Path) -> tuple[StoredLayer, ...]:
    """Layers that the target lacks; an incomplete one is for the store's own code to remove."""
    with GraphRoot.open(graph_root) as target:
        present = target.load().layers
    for _, layer in source.layers:
        if layer.id in present and present[layer.id].incomplete:
            raise DataError(
                f"layer {layer.id}",
                f"was left incomplete in {graph_root}",
                hint=f"remove {graph_root} and let it be written anew",
            )
    return tuple(each for each in source.layers if each[1].id not in present)


def _copy_file(store: GraphRoot, path: str, target: Path) -> None:
    """Copy a side file of a layer, as the store keeps it: for its owner alone."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as copy, os.fdopen(store.root.open_file(path), "rb") as source:
            shutil.copyfileobj(source, copy)
    except OSError as error:
        if is_full(error):
            raise
        raise DataError(store.shown(path), f"cannot be copied: {error.strerror}") from error
