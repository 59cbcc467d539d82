"""Image files that are not raw: known by their first bytes, refused with the line that converts them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import ConfigError

HEAD = 4096
"""Bytes from the start of a file by which its format is known."""
FOOT = 512
"""Bytes from the end: a fixed-size VHD is raw but for a footer."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format and what makes a raw image of it."""

    name: str
    converter: str
    """Command line with ``{source}`` and ``{raw}``."""


_QEMU = "qemu-img convert -O raw {source} {raw}"
_MAGIC = (
    (0, b"QFI\xfb", Format("qcow2", _QEMU)),
    (0, b"QED\0", Format("qed", _QEMU)),
    (0, b"KDMV", Format("vmdk", _QEMU)),
    (0, b"COWD", Format("vmdk", _QEMU)),
    (0, b"# Disk DescriptorFile", Format("vmdk", _QEMU)),
    (0x40, b"\x7f\x10\xda\xbe", Format("vdi", _QEMU)),
    (0, b"vhdxfile", Format("vhdx", _QEMU)),
    (0, b"conectix", Format("vhd", _QEMU)),
    (0, b"\xfd7zXZ\0", Format("xz", "xz -dc {source} > {raw}")),
    (0, b"\x1f\x8b", Format("gzip", "gzip -dc {source} > {raw}")),
    (0, b"\x28\xb5\x2f\xfd", Format("zstd", "zstd -d {source} -o {raw}")),
    (0, b"BZh", Format("bzip2", "bzip2 -dc {source} > {raw}")),
    (0, b"\x04\x22\x4d\x18", Format("lz4", "lz4 -d {source} {raw}")),
)
_VHD = Format("vhd", _QEMU)
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


def require_raw(path: Path) -> None:
    """Raise ConfigError for an image that is empty or in a known other format, and OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - FOOT))
        form = find_format(head, file.read(FOOT))
    if form:
        raise ConfigError.of(
            str(path),
            f"is a {form.name} file, expected a raw disk image",
            hint=f"convert it: {convert_line(path, form)}",
        )
    if not size:
        message = "is empty, expected a raw disk image"
        raise ConfigError.of(str(path), message, hint="name another file")
