"""Layers made without any container tool: a tar stream is split and unpacked as containers-storage does."""

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import DiffId
from installer_plugin.storage.layer.crc64 import Crc64
from installer_plugin.storage.layer.proof import LayerClaim, LayerProof, Reading, prove_layer
from tests.support.crafted import Entry, layer_tar
from tests.support.together import proven_together

LAYER = "1" * 64
Line = Mapping[str, object]


def segment(payload: bytes) -> Line:
    return {"type": 2, "payload": base64.b64encode(payload).decode(), "position": 0}


def file_entry(name: bytes, content: bytes) -> Line:
    line: dict[str, object] = {"type": 1}
    try:
        line["name"] = name.decode()
    except UnicodeDecodeError:
        line["name_raw"] = base64.b64encode(name).decode()
    checksum = Crc64()
    checksum.update(content)
    if content:
        line["size"] = len(content)
    line["payload"] = base64.b64encode(checksum.digest()).decode() if content else None
    return line


def split(tar: bytes) -> list[Line]:
    """Take the files' contents out of a tar stream, as tar-split does."""
    lines: list[Line] = []
    done = 0
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as members:
        for member in members:
            lines.append(segment(tar[done : member.offset_data]))
            size = member.size if member.isreg() else 0
            name = os.fsencode(member.name)
            slash = b"/" if member.isdir() else b""
            done = member.offset_data + size
            lines.append(file_entry(name + slash, tar[member.offset_data : done]))
    return [*lines, segment(tar[done:]), segment(b"")]


def packed(lines: Iterable[Line]) -> bytes:
    """Write lines as Go's JSON encoder does, compressed."""
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return gzip.compress(text.encode())


@dataclass(frozen=True, slots=True)
class Handmade:
    """A store directory with one layer."""

    root: Path
    tar: bytes

    @property
    def diff(self) -> Path:
        return self.root / "overlay" / LAYER / "diff"

    @property
    def tar_split(self) -> Path:
        return self.root / f"overlay-layers/{LAYER}.tar-split.gz"

    def prove(self, *, size: int | None = None, drop_cache: bool = False) -> LayerProof:
        """Prove the layer to be the tar stream it was made of: by one process and by two together."""
        claim = self._claim(len(self.tar) if size is None else size)
        reading = Reading(drop_cache=drop_cache)
        alone = self._proven_alone(claim, reading)
        assert proven_together(self.root, claim, reading) == alone
        return alone

    def prove_alone(self) -> LayerProof:
        """The same by one process, from the disk."""
        return self._proven_alone(self._claim(len(self.tar)), Reading())

    def _claim(self, size: int) -> LayerClaim:
        diff_id = DiffId("sha256:" + hashlib.sha256(self.tar).hexdigest())
        return LayerClaim(id=LAYER, parent=None, diff_id=diff_id, size=size)

    def _proven_alone(self, claim: LayerClaim, reading: Reading) -> LayerProof:
        with Rootfs.open(self.root) as root:
            return prove_layer(root, claim, lambda _: None, reading)

    def defects(self) -> list[tuple[str, str]]:
        """What the proof finds: pairs of path and message."""
        return [(defect.path, defect.message) for defect in self.prove().defects]


def handmade(root: Path, entries: Sequence[Entry]) -> Handmade:
    """Make a layer of the entries."""
    layer = Handmade(root, layer_tar(entries))
    layer.diff.mkdir(parents=True)
    layer.diff.chmod(0o555)
    layer.tar_split.parent.mkdir()
    layer.tar_split.write_bytes(packed(split(layer.tar)))
    for entry in entries:
        _unpack(layer.diff, entry)
    return layer


def _unpack(diff: Path, entry: Entry) -> None:
    path = diff / entry.name.lstrip("/")
    if entry.name.strip("/") in {"", "."}:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name == ".wh..wh..opq":
        os.setxattr(path.parent, "trusted.overlay.opaque", b"y")
    elif path.name.startswith(".wh."):
        os.mknod(path.with_name(path.name.removeprefix(".wh.")), 0o020000, 0)
    else:
        _make(path, entry, diff)


def _make(path: Path, entry: Entry, diff: Path) -> None:
    match entry.type:
        case tarfile.DIRTYPE:
            path.mkdir(exist_ok=True)
        case tarfile.LNKTYPE:
            path.hardlink_to(diff / entry.target)
        case tarfile.SYMTYPE:
            path.symlink_to(entry.target)
        case tarfile.CHRTYPE:
            os.mknod(path, 0o020000, os.makedev(*entry.device))
        case tarfile.BLKTYPE:
            os.mknod(path, 0o060000, os.makedev(*entry.device))
        case tarfile.FIFOTYPE:
            os.mkfifo(path)
        case _:
            path.write_bytes(entry.content)
    os.chown(path, *entry.owner, follow_symlinks=False)
    if entry.type != tarfile.SYMTYPE:
        path.chmod(entry.mode)
        seconds = float(entry.pax.get("mtime", "1500000000"))
        os.utime(path, (seconds, seconds))
    for key, value in entry.pax.items():
        if key.startswith("SCHILY.xattr."):
            name = key.removeprefix("SCHILY.xattr.")
            os.setxattr(path, name, value.encode("latin-1"), follow_symlinks=False)
