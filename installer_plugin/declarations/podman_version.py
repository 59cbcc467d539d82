"""Reads from a root's package database which podman the system has.

Databases: dpkg's ``status`` (deb822 stanzas), rpm's SQLite (``rpmdb.sqlite``: an index table ``Name`` and
headers in ``Packages``; lib/backend/sqlite.c), pacman's directory of packages, apk's ``installed``.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs

PACKAGE = "podman"
_LIMIT = 256 << 20
"""Bytes of a package database that are read; real ones have tens of megabytes."""
_DPKG = ("var/lib/dpkg/status", "usr/lib/sysimage/dpkg/status", "usr/share/dpkg/status")
_RPM = (
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
    "usr/share/rpm/rpmdb.sqlite",
    "var/lib/rpm/rpmdb.sqlite",
)
_PACMAN = ("var/lib/pacman/local", "usr/lib/sysimage/lib/pacman/local")
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_RPM_VERSION_TAG = 1001
_SQLITE_STEPS = 20_000_000
"""Instructions after which a query ends: a database from elsewhere can make one endless."""
_VERSION = re.compile(r"(?:\d+:)?(\d+)\.(\d+)([0-9.]*)")


@dataclass(frozen=True, slots=True, order=True)
class PodmanVersion:
    """A release of podman, as far as its behaviour goes."""

    major: int
    minor: int
    rest: str = field(default="", compare=False)
    """What follows, such as ``.2``: for people."""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}{self.rest}"


def parse_version(text: str) -> PodmanVersion | None:
    """Take a package's version apart, ``5:5.6.2-1.fc42`` -> 5.6.2; None when it has no such form."""
    found = _VERSION.match(text)
    if found is None:
        return None
    return PodmanVersion(int(found[1]), int(found[2]), found[3].rstrip("."))


def installed_podman(root: Rootfs) -> PodmanVersion | None:
    """Version of the podman package in *root*; None when no database there knows one.

    Raises DataError when a database is damaged: what it would say decides which image runs.
    """
    for text in (*_from_rpm(root), *_from_dpkg(root), *_from_pacman(root), *_from_apk(root)):
        if (version := parse_version(text)) is not None:
            return version
    return None


def _from_dpkg(root: Rootfs) -> Iterator[str]:
    for path in _DPKG:
        for stanza in _stanzas(_text(root, path), f"Package: {PACKAGE}"):
            fields = dict(re.findall(r"^(Version|Status): *(.*)$", stanza, re.MULTILINE))
            if fields.get("Status", "").endswith(" installed"):
                yield fields.get("Version", "")


def _from_apk(root: Rootfs) -> Iterator[str]:
    for path in _APK:
        for stanza in _stanzas(_text(root, path), f"P:{PACKAGE}"):
            yield from re.findall(r"^V:(.*)$", stanza, re.MULTILINE)


def _stanzas(text: str, line: str) -> Iterator[str]:
    """The stanzas that have *line*; all others, thousands of them, are not looked at."""
    text = f"\n{text}\n"
    at = text.find(f"\n{line}\n")
    while at >= 0:
        start, end = text.rfind("\n\n", 0, at + 1), text.find("\n\n", at + 1)
        yield text[max(start, 0) : end if end >= 0 else len(text)]
        at = text.find(f"\n{line}\n", at + 1)


def _from_pacman(root: Rootfs) -> Iterator[str]:
    for path in _PACMAN:
        if root.is_dir(path):
            for name in root.list(path):
                if found := re.fullmatch(rf"{PACKAGE}-([^-]+)-[^-]+", name):
                    yield found[1]


def _from_rpm(root: Rootfs) -> Iterator[str]:
    for path in _RPM:
        if root.exists(path):
            for header in _rpm_headers(root, path):
                yield _rpm_version(header, path)


def _rpm_headers(root: Rootfs, path: str) -> Iterator[bytes]:
    try:
        import sqlite3  # noqa: PLC0415 - most roots do without, and it is slow to load
    except ImportError as error:  # Debian's smallest Python comes without it
        raise DataError(path, "cannot be read: this Python has no sqlite3") from error
    fd = root.open_file(path)
    try:
        # immutable: a database in an image has no writer, and no journal beside it can be made.
        with closing(sqlite3.connect(f"file:/proc/self/fd/{fd}?immutable=1", uri=True)) as database:
            database.set_progress_handler(lambda: 1, _SQLITE_STEPS)
            rows = database.execute(
                "SELECT blob FROM Packages JOIN Name USING (hnum) WHERE key = ? LIMIT 8", (PACKAGE,)
            )
            yield from (blob for (blob,) in rows if isinstance(blob, bytes))
    except sqlite3.Error as error:
        raise DataError(path, f"cannot be read as rpm's database: {error}") from error
    finally:
        os.close(fd)


def _rpm_version(header: bytes, path: str) -> str:
    """The version in an rpm header: counts of entries and bytes, entries, then a data area."""
    try:
        entries, _ = struct.unpack_from(">II", header)
        data = 8 + 16 * entries
        for at in range(8, min(data, len(header)), 16):
            tag, _, offset, _ = struct.unpack_from(">IIII", header, at)
            if tag == _RPM_VERSION_TAG:
                return header[data + offset :].partition(b"\0")[0].decode("ascii", "replace")
    except struct.error as error:
        raise DataError(path, f"has a damaged header of {PACKAGE}: {error}") from error
    return ""


def _text(root: Rootfs, path: str) -> str:
    if not root.exists(path):
        return ""
    return root.read_bytes(path, limit=_LIMIT).decode(errors="replace")
