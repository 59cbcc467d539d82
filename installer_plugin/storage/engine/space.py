"""How many bytes an image needs on a disk, and how many are there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.events import iec
from installer_plugin.files.scratch import usual_place
from installer_plugin.model import DiffId, Layer, ResolvedImage, SourceKind
from installer_plugin.process.foreign_texts import is_quota
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.records import layer_chain
from installer_plugin.storage.store.target_store import TargetStore

MissingLayers = Mapping[tuple[DiffId, ...], tuple[ResolvedImage, Layer]]
"""Layers to copy, by the chain of diff IDs from the base, each with an image that has it."""

ARCHIVES = frozenset((SourceKind.OCI_ARCHIVE, SourceKind.DOCKER_ARCHIVE))
BLOCK = 4096
"""Bytes in which common file systems hand out space."""
RECORDS_SHARE = 0.01
"""tar-split files, records and directories, in parts of the layers' bytes; seen: 0.2 to 0.6 %."""
RECORDS_FLOOR = 1 << 20
TEMPORARY_NEED = 1 << 20
"""Bytes that programs want of a directory for temporary files that we do not write to ourselves."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a file system has left for us."""

    bytes: int
    inodes: int | None
    """None where inodes are made as needed (btrfs)."""


@dataclass(frozen=True, slots=True)
class Need:
    """What is still to be written."""

    bytes: int
    inodes: int


def free_room(path: Path) -> Room:
    """What is free on the file system of *path* or its nearest existing parent; raises OSError.

    For root with what ext4 keeps for root, as bootc has it. btrfs counts what is left to allocate
    among what is free for everybody alone.
    """
    while not path.exists():
        path = path.parent
    stat = os.statvfs(path)
    kept = stat.f_files and os.geteuid() == 0
    blocks = stat.f_bfree if kept else stat.f_bavail
    return Room(blocks * stat.f_frsize, stat.f_favail if stat.f_files else None)


def room_hint(error: OSError | str, places: Sequence[Path], need: int = 1 << 20) -> str:
    """The next step after *error* (or what a program said) that something is full.

    *places*: where we write; *need*: bytes that were to be written there. A full disk is one of
    several things that the kernel calls so: where there is room, another is named.
    """
    said = error.lower() if isinstance(error, str) else os.strerror(error.errno or 0).lower()
    if is_quota(said):
        return "raise the quota of the place that is named (quota, xfs_quota, btrfs qgroup)"
    if "inotify" in said:
        return "raise the limit of the kernel (sysctl fs.inotify.max_user_watches)"
    if "xattr" in said:
        return "the target's file system cannot hold that extended attribute: use xfs, for example"
    temporary = usual_place()
    by_device = {path.stat().st_dev: path for path in reversed((*places, Path("/tmp"), temporary))}  # noqa: S108
    rooms = [(path, free_room(path)) for path in reversed(by_device.values())]
    written = {path.stat().st_dev for path in places}
    full = [
        _free(path, room)
        for path, room in rooms
        if room.inodes == 0
        or room.bytes < (need if path.stat().st_dev in written else TEMPORARY_NEED)
    ]
    if full:
        return f"make room and run the copy again: {', '.join(full)}"
    free = ", ".join(_free(path, room) for path, room in rooms)
    return f"the disks have room ({free}): look for a quota, or another limit, of what is named"


def _free(path: Path, room: Room) -> str:
    inodes = "" if room.inodes is None else f" and {room.inodes} inodes"
    return f"{iec(room.bytes)}{inodes} are free on {path}"


def missing_layers(
    images: Iterable[ResolvedImage], present: frozenset[tuple[DiffId, ...]]
) -> dict[tuple[DiffId, ...], tuple[ResolvedImage, Layer]]:
    """The layers that *images* need and the target lacks, each once.

    A layer is the same only on the same parents, so the key is the chain of diff IDs from the base.
    """
    needed: dict[tuple[DiffId, ...], tuple[ResolvedImage, Layer]] = {}
    for image in images:
        chain: tuple[DiffId, ...] = ()
        for layer in image.layers:
            chain = (*chain, layer.diff_id)
            if chain not in present:
                needed.setdefault(chain, (image, layer))
    return needed


def chains_present(root: GraphRoot) -> frozenset[tuple[DiffId, ...]]:
    """Chains of diff IDs of all complete layers in the store; raises DataError for a broken chain."""
    records = root.load()
    chains = set()
    for layer in records.layers.values():
        chain = layer_chain(layer.id, records.layers.get)
        if all(part.diff_id and not part.incomplete for part in chain):
            chains.add(tuple(part.diff_id for part in chain if part.diff_id))
    return frozenset(chains)


def need_of(layers: Sequence[tuple[ResolvedImage, Layer]]) -> Need:
    """Space for the layers: a tar stream pads files to 512 bytes, a file system to whole blocks."""
    files = sum(layer.entries for _, layer in layers)
    size = sum(layer.size for _, layer in layers)
    return Need(need_bytes(size, files) if layers else 0, files)


def need_bytes(size: int, entries: int) -> int:
    """What layers of *size* bytes of tar streams with so many entries take on a disk."""
    return size + entries * BLOCK // 2 + max(RECORDS_FLOOR, int(size * RECORDS_SHARE))


def layers_to_copy(images: Sequence[ResolvedImage], target: TargetStore) -> MissingLayers:
    """Layers that the target does not have, each once; raises DataError for a damaged store."""
    if not target.graph_root.exists():
        return missing_layers(images, frozenset())
    with GraphRoot.open(target.graph_root) as root:
        return missing_layers(images, chains_present(root))


def scratch_need(missing: MissingLayers) -> int:
    """Bytes of temporary files: c/image keeps an image's layers until they are unpacked, and one
    layer a second time while it is read (image/storage, putBlobToPendingFile and Get). Those of an
    archive are unpacked first.
    """
    by_image: dict[str, list[int]] = {}
    unpacked: set[str] = set()
    for image, layer in missing.values():
        by_image.setdefault(image.image_id, []).append(layer.size)
        if image.source.kind in ARCHIVES:
            unpacked.add(image.image_id)
    needs = (
        sum(sizes) + (sum(sizes) if id_ in unpacked else max(sizes))
        for id_, sizes in by_image.items()
    )
    return max(needs, default=0)


def choose_scratch(places: Sequence[Path], need: int) -> Path | None:
    """The first of *places* with room for *need* bytes; None when there is none."""
    return next((path for path in places if scratch_room(path) >= need), None)


def scratch_room(path: Path) -> int:
    """Bytes free for us in the directory *path*; 0 when it cannot be written."""
    return free_room(path).bytes if os.access(path, os.W_OK) else 0
