"""Databases that podman leaves in a store it was pointed at; they pin the store to one path.

A store with a database of another place makes bootc's podman fail ("database configuration
mismatch"). bootc's own podman runs with the store mounted at one fixed path and may have left its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from installer_plugin.errors import DataError, Problem
from installer_plugin.storage.store.graph_root import GraphRoot

BOOTC_PATH = "/run/bootc/storage"
"""Where bootc mounts its store for podman (crates/lib/src/podstorage.rs, STORAGE_ALIAS_DIR)."""
SQLITE = "db.sql"
"""podman 4.8 and later."""
BOLT = "libpod/bolt_state.db"
"""podman up to 5; podman 6 refuses to run where it is."""
LIMIT = 64 << 20
"""Bytes of a database; one without containers has some tens of KiB."""
STEPS = 1_000_000
"""Instructions that a query may take: a hostile schema could make one run for ever."""


def foreign_databases(store: GraphRoot) -> Iterator[Problem]:
    """The databases that name another path than bootc's, or none that can be read."""
    for name, path_of in ((SQLITE, _sqlite_path), (BOLT, _bolt_path)):
        if not store.root.has_entry(name):
            continue
        try:
            seen = path_of(store, name)
        except DataError as error:
            yield error.problem(hint=_HINT)
            continue
        if seen != BOOTC_PATH:
            other = "another path" if seen is None else f"{seen!r:.200}"
            yield Problem(
                subject=store.shown(name),
                message=f"ties the store to {other}, expected {BOOTC_PATH!r} or no database",
                hint=_HINT,
            )


_HINT = "remove the database: podman was run on this store with --root, which nothing needs"


def _sqlite_path(store: GraphRoot, name: str) -> str | None:
    """The graph root in the one row of the table that podman compares its configuration with."""
    import sqlite3  # noqa: PLC0415 - slow to load, and few stores have a database

    content = store.read(name, LIMIT)
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(content)
            database.set_progress_handler(lambda: 1, STEPS)
            row = database.execute("SELECT GraphRoot FROM DBConfig").fetchone()
    except (sqlite3.Error, ValueError, OverflowError) as error:
        raise DataError(store.shown(name), f"is not a database of podman: {error}") from error
    if row is None or not isinstance(row[0], str):
        raise DataError(store.shown(name), "has no row in DBConfig, expected podman's settings")
    return row[0]


def _bolt_path(store: GraphRoot, name: str) -> str | None:
    """A bolt file is not parsed: its values stand in it as they are, and one of them is the path."""
    return BOOTC_PATH if BOOTC_PATH.encode() in store.read(name, LIMIT) else None
