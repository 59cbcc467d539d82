"""Whether a store's own files agree with each other: locks, links, chains; no image content is read.

Verification asks it about the layers of the bound images, preflight about a whole store that is there
before anything is copied. Rules: containers/storage ``drivers/overlay/overlay.go``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from installer_plugin.errors import DataError, Problem
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.store import libpod_db
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.locks import LOCK_FILES
from installer_plugin.storage.store.records import LayerRecord, Records

LINK_ID = re.compile(r"[A-Z2-7]{26}")
SMALL_FILE = 64 << 10
"""Bytes of ``link`` and ``lower`` files: the kernel takes far fewer than 2000 layers of 29 bytes."""


def opening_problems(store: GraphRoot) -> tuple[Problem, ...]:
    """What keeps podman from opening the store, as bootc has it: read-only, at one path."""
    return (*_lock_problems(store), *libpod_db.foreign_databases(store))


def store_problems(store: GraphRoot) -> tuple[Problem, ...]:
    """Everything that is wrong with the store, its records and all of its layers."""
    # A store that holds nothing yet needs no lock files.
    opening = opening_problems(store) if store.has_images() else ()
    try:
        records = store.load()
    except DataError as error:
        return (*opening, error.problem(hint=_REMOVE))
    return (*opening, *record_problems(store, records))


def record_problems(store: GraphRoot, records: Records) -> tuple[Problem, ...]:
    """What is wrong with the records and the layers they name.

    Abandoned layers are ignored: whoever writes next removes them.
    """
    abandoned = records.abandoned()
    found: list[Problem] = []
    for image in records.images:
        try:
            records.chain(image.layer)
        except DataError as error:
            name = image.names[0] if image.names else image.id
            found.append(Problem(subject=name, message=str(error), where=str(store.path)))
    for layer in records.layers.values():
        if layer.id in abandoned:
            continue
        where = f"{store.path}, layer {short(layer.id)}"
        found += [
            Problem(subject=where, message=message, hint=_REMOVE)
            for message in (
                *layer_problems(store, records, layer),
                *_missing_parts(store, layer),
            )
        ]
    return tuple(found)


def layer_problems(store: GraphRoot, records: Records, layer: LayerRecord) -> Iterator[str]:
    """What is wrong with one layer's record, and with the files that chain it to its parents."""
    if layer.incomplete:
        yield "is marked incomplete: whoever wrote it did not finish"
    if layer.mapped:
        yield "is stored with shifted owners (uidmap, gidmap), expected the image's own"
    try:
        yield from _link_problems(store, records, layer)
    except DataError as error:
        yield str(error)


def _missing_parts(store: GraphRoot, layer: LayerRecord) -> Iterator[str]:
    """The parts that a full verification would read."""
    tar_split, diff = split_path(layer.id), tree_path(layer.id)
    for path, expected in ((tar_split, "regular file"), (diff, "directory")):
        seen = _type(store, path)
        if seen != expected:
            yield f"{path} is {seen}, expected a {expected}"


def short(layer_id: str) -> str:
    """A layer ID as people see it."""
    return layer_id[:12]


_REMOVE = "remove the damaged store, or let podman repair it, and copy again"


def _lock_problems(store: GraphRoot) -> Iterator[Problem]:
    for name in LOCK_FILES:
        seen = _type(store, name)
        if seen != "regular file":
            yield Problem(
                subject=store.shown(name),
                message=f"is {seen}, expected a lock file: read-only, the store shows no images",
                hint="create it as an empty file",
            )


def _link_problems(store: GraphRoot, records: Records, layer: LayerRecord) -> Iterator[str]:
    """``link``, ``l/`` and ``lower`` are what podman builds a container's root from."""
    link = _link(store, layer.id)
    entry = f"overlay/l/{link}"
    target = f"../{layer.id}/diff"
    try:
        text = store.root.readlink(entry)
        if text != target:
            yield f"{entry} leads to {text!r:.200}, expected {target!r}"
    except OSError as error:
        yield f"{entry} is not a link ({error.strerror}), expected one to {target!r}"
    parents = records.chain(layer.parent)[::-1]
    expected = ":".join(f"l/{_link(store, parent.id)}" for parent in parents)
    yield from _list_problems(store, f"overlay/{layer.id}/lower", expected, required=True)
    ids = ":".join(parent.id for parent in parents)
    yield from _list_problems(store, f"overlay/{layer.id}/lower-layers", ids, required=False)


def _list_problems(store: GraphRoot, path: str, expected: str, *, required: bool) -> Iterator[str]:
    if not store.root.has_entry(path):
        if required and expected:
            yield f"{path} is missing, expected {_cut(expected)}"
        return
    if required and not expected:
        yield f"{path} is there, expected none below a base layer"
        return
    seen = _text(store, path)
    if seen != expected:
        yield f"{path} is {_cut(seen)}, expected {_cut(expected)}"


def _link(store: GraphRoot, layer_id: str) -> str:
    path = f"overlay/{layer_id}/link"
    link = _text(store, path)
    if not LINK_ID.fullmatch(link):
        raise DataError(path, f"is {link!r:.60}, expected 26 characters of A-Z and 2-7")
    return link


def _text(store: GraphRoot, path: str) -> str:
    return store.read(path, SMALL_FILE).decode("latin-1")


def _type(store: GraphRoot, path: str) -> str:
    """The word for what is at *path*, "missing" when nothing is."""
    try:
        return store.root.type_of(path)
    except OSError:
        return "missing"


def _cut(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "...")
