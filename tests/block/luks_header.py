"""LUKS2 headers without any key: what a test needs of an encrypted volume that nobody opens.

Format: the LUKS2 on-disk format specification, version 1.1. cryptsetup itself needs a kernel with
dm-crypt to make one.
"""

import base64
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

AREA = 16384
"""Bytes of one copy of the header with its JSON area."""
BINARY = 4096
SIZE = 17 << 20
"""A header with room for keys, and a little encrypted space."""


def write_luks2_header(file: Path, tokens: Mapping[str, object] | None = None) -> None:
    """Write both copies of a header with these tokens."""
    zeros = base64.b64encode(bytes(32)).decode()
    metadata = {
        "keyslots": {},
        "tokens": {**(tokens or {})},
        "segments": {
            "0": {
                "type": "crypt", "offset": str(16 << 20), "size": "dynamic", "iv_tweak": "0",
                "encryption": "aes-xts-plain64", "sector_size": 512,
            }
        },
        "digests": {
            "0": {
                "type": "pbkdf2", "keyslots": [], "segments": ["0"], "hash": "sha256",
                "iterations": 1000, "salt": zeros, "digest": zeros,
            }
        },
        "config": {"json_size": str(AREA - BINARY), "keyslots_size": str((16 << 20) - 2 * AREA)},
    }  # fmt: skip
    area = json.dumps(metadata).encode().ljust(AREA - BINARY, b"\0")
    copies = (b"LUKS\xba\xbe", 0), (b"SKUL\xba\xbe", AREA)
    content = b"".join(_copy(magic, offset, area) for magic, offset in copies)
    file.write_bytes(content)
    os.truncate(file, SIZE)


def _copy(magic: bytes, offset: int, area: bytes) -> bytes:
    head = struct.pack(
        ">6sHQQ48s32s64s40s48sQ184s",
        magic, 2, AREA, 1, b"", b"sha256", bytes(64),
        b"3b2ddd10-d083-4b48-bb26-1d7a6b91328b", b"", offset, b"",
    )  # fmt: skip
    head = head.ljust(BINARY, b"\0")
    checksum = hashlib.sha256(head + area).digest()
    place = 448
    return head[:place] + checksum.ljust(64, b"\0") + head[place + 64 :] + area
