"""Image files that are not raw: known by their first bytes; qemu opens some, others are refused."""

from __future__ import annotations

import os
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import ConfigError

HEAD = 4096
"""Bytes from the start of a file by which its format is known."""
VMDK_COMPRESSED = 1 << 16
FOOT = 512
"""Bytes from the end: a fixed-size VHD is raw but for a footer."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format and what makes a raw image of it."""

    name: str
    converter: str
    """Command line with ``{source}`` and ``{raw}``."""
    driver: str = ""
    """qemu's name for it; "" for what is not a disk before it is unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormattedImage:
    """A disk image that a program of qemu is to show as a raw disk."""

    path: Path
    driver: str
    read_only: bool

    @property
    def direct(self) -> bool:
        """Whether what is read of it can come from the disk itself, and not from memory."""
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
        except OSError:
            return False
        return True


_QEMU = "qemu-img convert -O raw {source} {raw}"
_MAGIC = (
    (0, b"QFI\xfb", Format("qcow2", _QEMU, "qcow2")),
    (0, b"QED\0", Format("qed", _QEMU, "qed")),
    (0, b"KDMV", Format("vmdk", _QEMU, "vmdk")),
    (0, b"COWD", Format("vmdk", _QEMU, "vmdk")),
    (0, b"# Disk DescriptorFile", Format("vmdk", _QEMU, "vmdk")),
    (0x40, b"\x7f\x10\xda\xbe", Format("vdi", _QEMU, "vdi")),
    (0, b"vhdxfile", Format("vhdx", _QEMU, "vhdx")),
    (0, b"conectix", Format("vhd", _QEMU, "vpc")),
    (0, b"\xfd7zXZ\0", Format("xz", "xz -dc {source} > {raw}")),
    (0, b"\x1f\x8b", Format("gzip", "gzip -dc {source} > {raw}")),
    (0, b"\x28\xb5\x2f\xfd", Format("zstd", "zstd -d {source} -o {raw}")),
    (0, b"BZh", Format("bzip2", "bzip2 -dc {source} > {raw}")),
    (0, b"\x04\x22\x4d\x18", Format("lz4", "lz4 -d {source} {raw}")),
)
_VHD = Format("vhd", _QEMU, "vpc")
_ENDINGS = frozenset((".qcow2", ".qcow", ".qed", ".vmdk", ".vdi", ".vhdx", ".vhd", ".vpc", ".img"))
_COMPRESSED = frozenset((".xz", ".gz", ".zst", ".zstd", ".bz2", ".lz4"))


def find_format(head: bytes, foot: bytes = b"") -> Format | None:
    """The format of a file with these first and last bytes; None for what may be a raw image."""
    for offset, magic, form in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return form
    return _VHD if foot[-FOOT:].startswith(b"conectix") else None


def convert_line(path: Path, form: Format) -> str:
    """The exact command that makes a raw image of *path*."""
    return form.converter.format(source=shlex.quote(str(path)), raw=shlex.quote(str(_raw(path))))


def _raw(path: Path) -> Path:
    if path.suffix in _COMPRESSED and len(path.suffixes) > 1:
        return path.with_suffix("")
    known = path.suffix in _ENDINGS or path.suffix in _COMPRESSED
    return path.with_suffix(".raw") if known else path.with_name(f"{path.name}.raw")


def format_of(path: Path) -> Format | None:
    """The format of an image; None for a raw one. Raises ConfigError for an empty file, and OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - FOOT))
        form = find_format(head, file.read(FOOT))
    if not size:
        message = "is empty, expected a disk image"
        raise ConfigError.of(str(path), message, hint="name another file")
    return form


def require_disk(path: Path, *, to_write: bool) -> None:
    """Raise ConfigError for a file that cannot be opened as a disk, and OSError."""
    form = format_of(path)
    if form and not form.driver:
        raise _other(path, form, "a disk image")
    if form and to_write and _is_compressed_vmdk(path):
        message = "is a compressed vmdk file (streamOptimized), which cannot be written in place"
        hint = f"convert it: {convert_line(path, form)}"
        raise ConfigError.of(str(path), message, hint=hint)


def _is_compressed_vmdk(path: Path) -> bool:
    """Whether the header's flags say so (VMDK specification 5.0, SparseExtentHeader)."""
    with path.open("rb") as file:
        magic, _, flags = struct.unpack("<4sII", file.read(12))
    return bool(magic == b"KDMV" and flags & VMDK_COMPRESSED)


def require_raw(path: Path) -> None:
    """Raise ConfigError for an image that is empty or in a known other format, and OSError."""
    form = format_of(path)
    if form:
        raise _other(path, form, "a raw disk image")


def _other(path: Path, form: Format, expected: str) -> ConfigError:
    return ConfigError.of(
        str(path),
        f"is a {form.name} file, expected {expected}",
        hint=f"convert it: {convert_line(path, form)}",
    )
