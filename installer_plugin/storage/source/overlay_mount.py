"""The file system of a stored image as a source root: mounted read-only, held by a descriptor alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.process.runner import Command, CommandError, Runner, private_mounts_argv
from installer_plugin.storage.store.graph_root import DRIVER, GraphRoot
from installer_plugin.storage.store.records import LayerRecord

MOUNT_SCRIPT = (
    'mount -t tmpfs tmpfs "$3" && mount -t overlay overlay -o "$1" "$2" && echo mounted && exec cat'
)
"""Mounts, says so, and keeps its mount namespace alive until its stdin is closed.

The empty directory gets a file system of its own: the scratch place may itself be on an overlay above
another, as in a container, and the kernel stacks no third one (FILESYSTEM_MAX_STACK_DEPTH).
"""
MOUNT_ENV = MappingProxyType({"LIBMOUNT_FORCE_MOUNT2": "always"})
"""One page for all options. By fsconfig(2), which mount takes since util-linux 2.39, it were 256 bytes."""


def mount_argv(layers: Sequence[Path], empty: Path, mount_point: Path) -> tuple[str, ...]:
    """Mount the layer trees (base first) at *mount_point* in a private mount namespace.

    overlay wants two lower directories at least, hence *empty* at the bottom.
    """
    lower = ":".join(_plain(path) for path in (*reversed(layers), empty))
    options = f"ro,lowerdir={lower}"
    return private_mounts_argv(
        ("sh", "-c", MOUNT_SCRIPT, "mount", options, str(mount_point), str(empty))
    )


def _plain(path: Path) -> str:
    """*path*, refused when it has a character with a meaning in mount's or overlayfs's options."""
    text = str(path)
    if any(character in text for character in ',:"\\'):
        raise DataError(
            text, "has a character that mount options cannot carry, expected a plain path"
        )
    return text


@contextmanager
def mounted_layers(
    layers: Sequence[tuple[Path, LayerRecord]], label: str, scratch: Path, runner: Runner
) -> Iterator[Rootfs]:
    """The image made of *layers* (graph root and record, base first) as a root.

    The mount lives in the mount namespace of a child that ends as soon as we hold a descriptor of it:
    no other process ever sees it, and it goes when the descriptor is closed, also if we are killed.
    Raises DataError when it cannot be mounted, and OSError.
    """
    mount_point, empty = scratch / "mounted", scratch / "nothing"
    mount_point.mkdir()
    empty.mkdir()
    trees = [_short_path(number, tree, scratch) for number, tree in enumerate(_trees(layers))]
    argv = mount_argv(trees, empty, mount_point)
    command = Command(argv=argv, purpose=f"mount {label}", env=MOUNT_ENV)
    try:
        with runner.hold(command) as (pid, _):
            inside = Path(f"/proc/{pid}/root") / str(mount_point).lstrip("/")
            fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except CommandError as error:
        raise DataError(label, f"cannot be mounted: {error.stderr.strip()}") from error
    with Rootfs(fd, label) as root:
        yield root


def _trees(layers: Sequence[tuple[Path, LayerRecord]]) -> Iterator[Path]:
    """The layers' trees, each reached through directories of its own store alone.

    A link on the way could lead to any directory of this machine, whose files would then be read as
    the OS image's.
    """
    for graph_root, layer in layers:
        with GraphRoot.open(graph_root) as store:
            folder = f"{DRIVER}/{layer.id}"
            tree = f"{folder}/diff"
            if layer.incomplete:
                raise DataError(store.shown(tree), "was left incomplete by its writer")
            if store.root.has_entry(f"{folder}/composefs-data"):
                raise DataError(
                    store.shown(tree), "is stored as composefs objects, expected a tree"
                )
            for path in (DRIVER, folder, tree):
                kind = store.root.type_of(path) if store.root.has_entry(path) else "missing"
                if kind != "directory":
                    shown = kind if kind == "missing" else f"a {kind}"
                    raise DataError(store.shown(path), f"is {shown}, expected a layer's directory")
        yield graph_root / tree


def _short_path(number: int, tree: Path, scratch: Path) -> Path:
    """A link of a few characters to a tree: all of mount's options fit in one page (4 KiB)."""
    link = scratch / str(number)
    link.symlink_to(tree)
    return link
