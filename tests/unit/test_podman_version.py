"""Which podman an OS image has is in its package database, whatever packages it is made of."""

import sqlite3
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from installer_plugin.declarations.podman_version import (
    PodmanVersion,
    installed_podman,
    parse_version,
)
from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs

DPKG = "var/lib/dpkg/status"
RPM = "usr/share/rpm/rpmdb.sqlite"
INSTALLED = "Status: install ok installed"


def version_in(root: Path) -> str | None:
    with Rootfs.open(root) as opened:
        found = installed_podman(opened)
    return None if found is None else str(found)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def header(version: bytes, *, tag: int = 1001) -> bytes:
    """An rpm header of a name and a version."""
    data = b"podman\0" + version + b"\0"
    entries = [(1000, 6, 0, 1), (tag, 6, 7, 1)]
    return struct.pack(">II", len(entries), len(data)) + b"".join(
        struct.pack(">IIII", *entry) for entry in entries
    ) + data  # fmt: skip


def write_rpm(root: Path, packages: Sequence[tuple[str, bytes]], path: str = RPM) -> None:
    """A database as rpm's SQLite backend makes it, its write-ahead log put away."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(root / path)
    database.executescript(
        "PRAGMA journal_mode = WAL;"
        "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);"
        "CREATE TABLE 'Name' (key 'TEXT' NOT NULL, hnum INTEGER NOT NULL, idx INTEGER NOT NULL)"
    )
    for number, (name, blob) in enumerate(packages, 1):
        database.execute("INSERT INTO Packages VALUES (?, ?)", (number, blob))
        database.execute("INSERT INTO Name VALUES (?, ?, 0)", (name, number))
    database.commit()
    database.close()


DPKG_CASES = {
    "first": (f"Package: podman\n{INSTALLED}\nVersion: 5.4.2+ds1-2+b2\n", "5.4.2"),
    "among others": (
        (f"Package: a\n{INSTALLED}\nVersion: 1\n\nPackage: podman\n{INSTALLED}\nVersion: 4.9.3-1\n\n"
        f"Package: z\n{INSTALLED}\nVersion: 2\n"),
        "4.9.3",
    ),
    "with an epoch": (f"Package: podman\n{INSTALLED}\nVersion: 1:5.8.6\n", "5.8.6"),
    "removed": ("Package: podman\nStatus: deinstall ok config-files\nVersion: 5.4.2\n", None),
    "another's name": (f"Package: podman-docker\n{INSTALLED}\nVersion: 5.4.2\n", None),
    "named in a description": (
        f"Package: a\n{INSTALLED}\nDescription: x\n Package: podman\nVersion: 5.4.2\n", None,
    ),
    "no version": (f"Package: podman\n{INSTALLED}\n", None),
    "odd version": (f"Package: podman\n{INSTALLED}\nVersion: git\n", None),
    "empty": ("", None),
}  # fmt: skip


@pytest.mark.parametrize(("text", "version"), DPKG_CASES.values(), ids=DPKG_CASES)
def test_dpkg_knows_the_installed_package(tmp_path: Path, text: str, version: str | None) -> None:
    write(tmp_path, DPKG, text)
    assert version_in(tmp_path) == version


def test_rpm_knows_it_wherever_the_database_lies(tmp_path: Path) -> None:
    for path in ("usr/share/rpm", "usr/lib/sysimage/rpm", "var/lib/rpm"):
        root = tmp_path / path.replace("/", "-")
        packages = [("podman-tui", header(b"0.1")), ("podman", header(b"5.6.2"))]
        write_rpm(root, packages, f"{path}/rpmdb.sqlite")
        assert version_in(root) == "5.6.2"


def test_rpm_without_podman_has_no_version(tmp_path: Path) -> None:
    write_rpm(tmp_path, [("podman-tui", header(b"0.1")), ("podman", header(b"5.6.2", tag=9))])
    assert version_in(tmp_path) is None


def test_pacman_and_apk_know_it(tmp_path: Path) -> None:
    (tmp_path / "arch/var/lib/pacman/local/podman-5.7.1-1").mkdir(parents=True)
    (tmp_path / "arch/var/lib/pacman/local/podman-compose-1.5.0-1").mkdir()
    write(
        tmp_path,
        "alpine/lib/apk/db/installed",
        "C:Q1\nP:podman-tui\nV:1.0-r0\n\nC:Q2\nP:podman\nV:5.5.2-r1\n",
    )
    assert version_in(tmp_path / "arch") == "5.7.1"
    assert version_in(tmp_path / "alpine") == "5.5.2"


def test_root_without_a_database_does_not_say(tmp_path: Path) -> None:
    assert version_in(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(200)])
def test_damaged_database_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RPM).parent.mkdir(parents=True)
    (tmp_path / RPM).write_bytes(content)
    with pytest.raises(DataError, match=r"rpmdb\.sqlite"):
        version_in(tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60))
def test_damaged_header_raises_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, blob: bytes
) -> None:
    root = tmp_path_factory.mktemp("rpm")
    write_rpm(root, [("podman", blob)])
    with suppress(DataError):
        version_in(root)


def test_database_that_would_never_answer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / RPM).parent.mkdir(parents=True)
    database = sqlite3.connect(tmp_path / RPM)
    database.executescript(
        "CREATE VIEW Name AS WITH RECURSIVE n(hnum) AS (SELECT 1 UNION ALL SELECT hnum + 1 FROM n) "
        "SELECT hnum || 'x' AS key, hnum FROM n; CREATE TABLE Packages (hnum INTEGER, blob BLOB);"
        "INSERT INTO Packages VALUES (0, x'00')"
    )
    database.close()
    with pytest.raises(DataError, match="interrupted"):
        version_in(tmp_path)


def test_python_without_sqlite_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rpm(tmp_path, [("podman", header(b"5.6.2"))])
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(DataError, match="no sqlite3"):
        version_in(tmp_path)


def test_database_that_is_read_stays_as_it_was(tmp_path: Path) -> None:
    write_rpm(tmp_path, [("podman", header(b"5.6.2"))])
    before = {path.name: path.read_bytes() for path in (tmp_path / RPM).parent.iterdir()}
    assert version_in(tmp_path) == "5.6.2"
    assert before == {path.name: path.read_bytes() for path in (tmp_path / RPM).parent.iterdir()}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("5.8.6+ds1-3", "5.8.6"),
        ("5:5.6.2-1.fc42", "5.6.2"),
        ("4.10", "4.10"),
        ("6.0.0~rc1", "6.0.0"),
        ("", None),
        ("five", None),
        ("5", None),
    ],
)
def test_version_is_taken_apart(text: str, version: str | None) -> None:
    found = parse_version(text)
    assert (None if found is None else str(found)) == version


def test_versions_compare_as_numbers() -> None:
    assert (
        PodmanVersion(4, 9) < PodmanVersion(4, 10) < PodmanVersion(5, 0, ".9") < PodmanVersion(5, 1)
    )
    assert PodmanVersion(5, 6, ".1") <= PodmanVersion(5, 6)
