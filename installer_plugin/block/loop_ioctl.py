"""Loop devices by the kernel's own calls (``linux/loop.h``), in one step and without a program.

A program that attaches a device may live longer than we do when we are killed, and attach it after
somebody has looked for what we left. Needs Linux 5.8 (LOOP_CONFIGURE).
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

CONTROL = Path("/dev/loop-control")
GET_FREE = 0x4C82
CONFIGURE = 0x4C0A
READ_ONLY = 1
AUTOCLEAR = 4
"""The kernel lets go of the file with the device's last user."""
PARTSCAN = 8
_CONFIG = struct.Struct("=II5Q4I64s64s32s2Q64s")
"""struct loop_config: file, block size; loop_info64 (device, inode, rdevice, offset, size limit, number,
encryption type and key size, flags, file name, encryption name and key, init); reserved."""
SECTOR = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """What a loop device is to stand on."""

    path: Path
    read_only: bool
    offset: int = 0
    size: int = 0
    """Bytes from *offset* on; 0 for all there are."""
    sector: int = SECTOR
    direct: bool = True
    """Whether it may be read past the page cache: not where FUSE shows it, see ``image_export``."""


def free_number() -> int:
    """Number of a loop device that is free just now; raises OSError."""
    fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(fd, GET_FREE)
    finally:
        os.close(fd)


def loop_config(file: int, backing: Backing) -> bytes:
    """The kernel's description of a device on the open *file*."""
    flags = AUTOCLEAR | PARTSCAN | (READ_ONLY if backing.read_only else 0)
    name = os.fsencode(backing.path)[:63]
    return _CONFIG.pack(
        file, backing.sector,
        0, 0, 0, backing.offset, backing.size,
        0, 0, 0, flags,
        name, b"", b"", 0, 0,
        b"",
    )  # fmt: skip


def configure(device: Path, backing: Backing) -> int:
    """Attach *device*; it stays so while the descriptor that is returned, or another user, does.

    Raises OSError: EBUSY when somebody else has taken the device meanwhile.
    """
    access = os.O_RDONLY if backing.read_only else os.O_RDWR
    file = os.open(backing.path, access | os.O_CLOEXEC)
    try:
        loop = os.open(device, access | os.O_CLOEXEC)
        try:
            fcntl.ioctl(loop, CONFIGURE, loop_config(file, backing))
            # What keeps it is not open for writing: a kernel may refuse to mount it then.
            return os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(loop)
    finally:
        os.close(file)
