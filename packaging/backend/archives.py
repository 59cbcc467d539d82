"""Writes the archives, the same bytes for the same files."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from backend.layout import EXECUTABLE, PLAIN, Member
from backend.project import Project, metadata
from backend.tree import PACKAGE, files, with_version

_ZIP_BEGINS = 315532800
"""1980-01-01, the first time that a zip archive can express."""
_REGULAR = 0o100000


def write_wheel(file: Path, members: Sequence[Member], record: str, epoch: int) -> None:
    """Write a wheel of these members, and their list (binary distribution format 1.0)."""
    listed = "".join(f"{m.path},{_digest(m.content)},{len(m.content)}\n" for m in members)
    when = time.gmtime(max(epoch, _ZIP_BEGINS))[:6]
    with zipfile.ZipFile(file, "w") as archive:
        for member in (*members, Member(record, f"{listed}{record},,\n".encode())):
            entry = zipfile.ZipInfo(member.path, when)
            entry.create_system = 3  # Unix, which has modes
            entry.external_attr = (_REGULAR | member.mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.content, compresslevel=9)


def write_sdist(file: Path, project: Project, epoch: int) -> None:
    """Write all files of the tree and PKG-INFO below one directory."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in _sources(project):
            entry = tarfile.TarInfo(f"{project.base_name}/{member.path}")
            entry.size, entry.mode, entry.mtime = len(member.content), member.mode, epoch
            archive.addfile(entry, io.BytesIO(member.content))
    # The header of gzip has a time and a name too; 0 and none are always the same.
    with file.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as compressed:
        compressed.write(packed.getvalue())


def _sources(project: Project) -> list[Member]:
    members = [Member("PKG-INFO", metadata(project).encode())]
    for name in files(project.root):
        if name == "PKG-INFO":
            continue
        file = project.root / name
        content = file.read_bytes()
        if name == f"{PACKAGE}/__init__.py":
            content = with_version(content.decode(), project.version).encode()
        members.append(Member(name, content, EXECUTABLE if file.stat().st_mode & 0o100 else PLAIN))
    return members


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"
