"""What one file's status and extended attributes say against what its tar header says (pure).

Only what containers-storage sets when it unpacks a layer is compared (``pkg/archive``: createTarFile):
link times and directory times differ in layers that were pulled in parts, and the kernel or the
policy of the machine add attributes of their own.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from installer_plugin.files.rootfs import file_type
from installer_plugin.storage.layer import tar_header
from installer_plugin.storage.layer.tar_header import Header

OPAQUE = "trusted.overlay.opaque"
"""Marks a directory that hides what lower layers have in it; the value is ``y``."""

FILE_TYPES: Mapping[bytes, int] = {
    tar_header.REGULAR: stat.S_IFREG,
    tar_header.SYMLINK: stat.S_IFLNK,
    tar_header.CHARACTER: stat.S_IFCHR,
    tar_header.BLOCK_DEVICE: stat.S_IFBLK,
    tar_header.DIRECTORY: stat.S_IFDIR,
    tar_header.FIFO: stat.S_IFIFO,
}

_COMPARED = ("user.", "trusted.", "security.", "system.posix_acl_")
"""Other names are a file system's own properties, such as ``btrfs.compression``."""
_NEVER = ("security.selinux", "user.overlay.", OPAQUE)
"""Labels are another step's; rootless overlay marks and opaque marks are compared by their meaning."""
_BY_KERNEL = ("security.ima", "security.evm", "security.SMACK64", "security.apparmor")
"""Set by a security module when the file is made; wrong only when the image has another value."""
_CAPABILITY = "security.capability"

_OLD_SECONDS = 2**31
_LAST_SECONDS = (2**31 - 1, 15032385535)
"""Where XFS without bigtime, and ext4 with 128 or 256-byte inodes, stop counting."""
_GO_SECONDS = 9223372036
"""Go's last nanosecond in 64 bits; what is later, or before 1970, containers-storage makes 1970."""


class Fault(NamedTuple):
    """One thing that differs."""

    attribute: str
    """What kind of thing: ``mode``, ``owner``, ``time`` or the name of an extended attribute."""
    message: str
    """What was seen, and what was expected."""


def type_fault(header: Header, seen: os.stat_result) -> Fault | None:
    """Whether the file is of another type than the header's; nothing else is comparable then."""
    expected = FILE_TYPES[header.kind]
    if stat.S_IFMT(seen.st_mode) == expected:
        return None
    return Fault("type", f"is a {file_type(seen.st_mode)}, expected a {file_type(expected)}")


def is_as_said(header: Header, seen: os.stat_result) -> bool:
    """Whether this is a regular file without attributes, as nearly all are, and all that is said of it
    is so to the letter.
    """
    return (
        header.kind == tar_header.REGULAR
        and not header.xattrs
        and seen.st_mode == stat.S_IFREG | header.mode
        and seen.st_size == header.size
        and seen[stat.ST_MTIME] == header.mtime
        and seen.st_uid == header.uid
        and seen.st_gid == header.gid
    )


def faults(header: Header, seen: os.stat_result, xattrs: Mapping[str, bytes]) -> Iterator[Fault]:
    """Everything that differs; the type is known to be right."""
    kind = stat.S_IFMT(seen.st_mode)
    if (seen.st_uid, seen.st_gid) != (header.uid, header.gid):
        yield Fault(
            "owner", f"belongs to {seen.st_uid}:{seen.st_gid}, expected {header.uid}:{header.gid}"
        )
    # The mode of a symbolic link cannot be set on Linux.
    if kind != stat.S_IFLNK and stat.S_IMODE(seen.st_mode) != header.mode:
        yield mode_fault(seen, header.mode)
    if kind == stat.S_IFREG:
        if header.kind == tar_header.REGULAR and seen.st_size != header.size:
            yield Fault("size", f"has {seen.st_size} bytes, expected {header.size}")
        yield from _time_faults(header, seen)
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        numbers = os.major(seen.st_rdev), os.minor(seen.st_rdev)
        if header.kind != tar_header.HARD_LINK and numbers != header.device:
            yield Fault(
                "device", f"is device {_device(numbers)}, expected {_device(header.device)}"
            )
    if xattrs or header.xattrs:
        yield from xattr_faults(header.xattrs, xattrs)


def mode_fault(seen: os.stat_result, expected: int) -> Fault:
    """The fault of a mode other than *expected*."""
    return Fault("mode", f"has mode {stat.S_IMODE(seen.st_mode):04o}, expected {expected:04o}")


def is_whiteout(seen: os.stat_result) -> bool:
    """Whether the file says that the layer removes a name: a character device 0:0."""
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def xattr_faults(expected: Mapping[str, bytes], seen: Mapping[str, bytes]) -> Iterator[Fault]:
    """Extended attributes that are missing, too many or different."""
    for name in sorted({*expected, *seen}):
        if name.startswith(_NEVER) or not name.startswith(_COMPARED):
            continue
        wanted, found = expected.get(name), seen.get(name)
        if wanted is None and name.startswith(_BY_KERNEL):
            continue
        if name == _CAPABILITY:
            wanted, found = _capability(wanted), _capability(found)
        if wanted != found:
            yield Fault(name, f"has {name} {_value(found)}, expected {_value(wanted)}")


def _time_faults(header: Header, seen: os.stat_result) -> Iterator[Fault]:
    found = seen.st_mtime_ns // 10**9
    wanted = header.mtime
    if found == wanted:
        return
    if found == 0 and not 0 <= wanted <= _GO_SECONDS:
        return
    if wanted >= _OLD_SECONDS and found in _LAST_SECONDS and found < wanted:
        return
    yield Fault("time", f"was modified {_moment(found)}, expected {_moment(wanted)}")


def _capability(value: bytes | None) -> bytes | None:
    """The kernel shows a version 3 capability of its own root user as version 2 (commoncap.c)."""
    if value is None or len(value) != struct.calcsize("<6I"):
        return value
    magic, *words = struct.unpack("<6I", value)
    if magic & 0xFF000000 != 0x03000000 or words[-1] != 0:
        return value
    return struct.pack("<5I", (magic & 0x00FFFFFF) | 0x02000000, *words[:-1])


def _value(value: bytes | None) -> str:
    if value is None:
        return "not set"
    return f"0x{value[:40].hex()}" + ("..." if len(value) > 40 else "")


def _device(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}:{numbers[1]}"


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return f"{seconds} s after 1970"
