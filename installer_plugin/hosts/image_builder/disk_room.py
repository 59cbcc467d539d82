"""Whether the bound images fit on the disks that a manifest makes (pure).

image-builder makes the root twice as large as the OS image, or as large as it is told, and counts no
bound images (``pkg/distro/generic/bootc.go``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from installer_plugin.block.fresh_filesystem import GIB, free_bytes
from installer_plugin.errors import Problem
from installer_plugin.events import iec
from installer_plugin.hosts.image_builder.json_text import Node
from installer_plugin.hosts.image_builder.manifest import Install, Manifest
from installer_plugin.hosts.image_builder.os_content import OsImageContent
from installer_plugin.model import ImageId
from installer_plugin.storage.engine.space import missing_layers, need_of

SECTOR = 512
"""Unit of the numbers in org.osbuild.sfdisk where it names no other."""
_PREFIX = "org.osbuild."


@dataclass(frozen=True, slots=True, kw_only=True)
class RootSize:
    """What a manifest makes of the root of its disk."""

    root: int
    """Bytes of the partition."""
    disk: int
    """Bytes of the whole disk."""
    filesystem: str


def find_root_size(install: Install) -> RootSize | None:
    """The size of the root; None for layouts in which it is not a partition of the disk."""
    partition, kind = install.root.get("partition"), install.root.get("type")
    number = partition.scalar if partition else None
    table, disk = _only(install, "org.osbuild.sfdisk"), _only(install, "org.osbuild.truncate")
    if not isinstance(number, int) or kind is None or table is None or disk is None:
        return None
    size = _partition_bytes(table, number)
    whole = _number(disk.get("options", "size"))
    if size is None or whole is None:
        return None
    return RootSize(root=size, disk=whole, filesystem=(kind.text or "").removeprefix(_PREFIX))


def _only(install: Install, kind: str) -> Node | None:
    found = [each for each in install.pipeline.stages if (t := each.get("type")) and t.text == kind]
    return found[0] if len(found) == 1 else None


def _partition_bytes(table: Node, number: int) -> int | None:
    partitions, sector = table.get("options", "partitions"), table.get("options", "sector-size")
    items = (partitions.items or []) if partitions else []
    if not 0 < number <= len(items):
        return None
    size = _number(items[number - 1].get("size"))
    unit = _number(sector) if sector else SECTOR
    return None if size is None or unit is None else size * unit


def _number(node: Node | None) -> int | None:
    """A size, which may be a string of digits."""
    value = node.scalar if node else None
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def room_problems(
    manifest: Manifest, contents: Mapping[ImageId, OsImageContent], larger: str
) -> Iterator[Problem]:
    """Why images will not fit; *larger* is what makes the root larger, with {size} and {root}."""
    for install in manifest.installs:
        content, size = contents[install.image.id], find_root_size(install)
        if size is None or not content.images:
            continue
        bound = need_of(tuple(missing_layers(content.images, frozenset()).values())).bytes
        needed = content.size + bound
        room = free_bytes(size.root, size.filesystem)
        if needed > room:
            # What a file system keeps for itself grows with it.
            growth = -(-(needed - room) * 5 // 4 // GIB) * GIB
            hint = larger.format(size=size.disk + growth, root=size.root + growth)
            message = (
                f"will have {iec(room)} free in a root of {iec(size.root)}, the system needs "
                f"{iec(content.size)} and its bound images {iec(bound)}"
            )
            yield Problem(subject=install.image.name, message=message, hint=hint)
