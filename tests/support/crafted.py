"""An `oci:` layout written byte by byte, with tar streams that no container tool would write."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.tricky import CAPABILITY, LONG_PATH, NON_UTF8_NAME

_OCI = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a layer's tar stream."""

    name: str
    content: bytes = b""
    type: bytes = tarfile.REGTYPE
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    target: str = ""
    device: tuple[int, int] = (0, 0)
    pax: dict[str, str] = field(default_factory=dict)


def _directory(name: str, mode: int = 0o755) -> Entry:
    return Entry(name=name, type=tarfile.DIRTYPE, mode=mode)


LOWER = (
    _directory("./"),
    _directory("./etc"),
    Entry(name="./etc/gone", content=b"removed above\n"),
    _directory("./etc/opaque"),
    Entry(name="./etc/opaque/hidden", content=b"hidden above\n"),
    Entry(
        name="./etc/precise",
        content=b"time with a fraction\n",
        pax={"mtime": "1600000000.123456789", "atime": "1600000001.5"},
    ),
    Entry(
        name="./etc/before-1970", content=b"negative time\n", pax={"mtime": "-86400.5"}
    ),
    Entry(name="./etc/" + os.fsdecode(NON_UTF8_NAME), content=b"raw name\n"),
    Entry(name="./" + LONG_PATH, content=b"long\n"),
    Entry(
        name="./etc/capable",
        content=b"#!/bin/sh\n",
        mode=0o755,
        pax={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")},
    ),
    Entry(name="./etc/large-owner", owner=(3_000_000_000, 3_000_000_001)),
)  # fmt: skip

UPPER = (
    # No "./" and no entries for parent directories: both are legal.
    Entry(name="etc/.wh.gone"),
    _directory("etc/opaque/"),
    Entry(name="etc/opaque/.wh..wh..opq"),
    Entry(name="etc/opaque/visible", content=b"alone\n"),
    Entry(name="usr/bin/first", content=b"shared\n", mode=0o6755),
    Entry(name="usr/bin/second", type=tarfile.LNKTYPE, target="usr/bin/first", mode=0o6755),
    Entry(name="usr/bin/third", type=tarfile.SYMTYPE, target="/usr/bin/first", mode=0o777),
    Entry(name="dev/fifo", type=tarfile.FIFOTYPE),
    Entry(name="dev/tty9", type=tarfile.CHRTYPE, device=(4, 9), mode=0o620),
    Entry(name="etc/empty"),
)


def layer_tar(entries: Sequence[Entry]) -> bytes:
    """Write a tar stream of the entries, in their order."""
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.linkname = entry.type, entry.mode, entry.target
            info.uid, info.gid = entry.owner
            info.devmajor, info.devminor = entry.device
            info.size, info.mtime = len(entry.content), 1_500_000_000
            info.pax_headers = dict(entry.pax)
            tar.addfile(info, io.BytesIO(entry.content))
    return stream.getvalue()


def diff_id(layer: bytes) -> str:
    """Digest of an uncompressed layer, `sha256:...`."""
    return f"sha256:{hashlib.sha256(layer).hexdigest()}"


def write_layout(layout: Path, tag: str, layers: Sequence[bytes]) -> str:
    """Write an image of uncompressed layers as an OCI layout; return its image ID in hex."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(content: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    described = [add(layer, f"{_OCI}.layer.v1.tar") for layer in layers]
    diff_ids = [entry["digest"] for entry in described]
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"made.by": "hand"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": add(config, f"{_OCI}.config.v1+json"),
        "layers": described,
    }
    entry = add(_json(manifest), f"{_OCI}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return hashlib.sha256(config).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
