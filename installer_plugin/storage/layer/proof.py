"""Proof of one layer: its tar stream rebuilt from tar-split and the files on disk, and hashed.

While the stream goes by, its headers are compared with the files (``metadata``), so that the layer is
read once. Only when the hash is wrong and no file explains it, the layer is read again and each file
compared with the checksum that tar-split has of it: that names the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Resolved
from installer_plugin.model import DiffId
from installer_plugin.storage.layer.crc64 import Crc64
from installer_plugin.storage.layer.defects import Defect, Defects
from installer_plugin.storage.layer.metadata_check import MetadataCheck
from installer_plugin.storage.layer.page_cache import forget
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.layer.tar_header import HeaderReader
from installer_plugin.storage.layer.tar_split import Entry, FileEntry, Segment, read_entries
from installer_plugin.storage.layer.tar_stream import Hash, Progress, TarStream
from installer_plugin.storage.layer.tree import LayerTree, Place

CHECKSUM_PIECE = 1 << 16
MAX_LAYER = 1 << 40
"""Bytes of a stream whose length is not recorded; sparse files can pretend to any size."""
TICK_ENTRIES = 256
TAR_SPLIT = "tar-split file"
"""Where the reader of headers finds them, in messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerClaim:
    """What is said about a layer, to be proven."""

    id: str
    parent: str | None
    diff_id: DiffId
    size: int | None
    """Bytes of the tar stream; None when nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProof:
    """What was found out; the layer is proven when there are no defects."""

    defects: tuple[Defect, ...]
    size: int
    """Bytes of the tar stream."""


class LayerRoot(Protocol):
    """A directory laid out as a store is; paths lead nowhere else, as those of ``Rootfs``."""

    def resolve(self, path: str) -> Resolved:
        """Follow every link of *path*; raises OSError."""

    def open_directory(self, path: str) -> int:
        """A descriptor of a directory; raises OSError."""

    def open_file(self, path: str) -> int:
        """A descriptor of a regular file; raises OSError, and DataError for other types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a layer is read."""

    content: bool = True
    """Whether its files are read; else all but their content is compared."""
    drop_cache: bool = True
    """Whether the kernel is to forget cached pages first, so that the disk is what is read."""


def prove_layer(
    root: LayerRoot, claim: LayerClaim, progress: Progress, reading: Reading
) -> LayerProof:
    """Read the layer *claim* of the store at *root* and compare; raises nothing but what *progress* does.

    Memory is bounded by the number of names in the layer.
    """
    defects = Defects()
    drop_cache = reading.drop_cache
    limit = MAX_LAYER if claim.size is None else claim.size
    hashed = Hash(progress)
    stream = TarStream(limit, progress, defects.add, hashed if reading.content else None)
    try:
        with opened_tree(root, claim.id, drop_cache=drop_cache) as tree, hashed, stream:
            check = MetadataCheck(tree, defects, parent_root(root, claim.parent))
            with stored_entries(root, claim.id, drop_cache=drop_cache) as entries:
                Rebuild(tree, check, stream).run(entries, HeaderReader(TAR_SPLIT))
            stream.drain()
            check.finish(stream.tick)
            if stream.broken and not defects.found:
                defects.append(Defect("", "has content in its tar stream that unpacking drops"))
            found = hashed.diff_id()
            if reading.content and not stream.broken and found != claim.diff_id:
                hashes = f"the layer's tar stream hashes to {found}, expected {claim.diff_id}"
                with stored_entries(root, claim.id) as entries:
                    _blame(entries, tree, defects, stream, hashes)
            if not stream.broken and claim.size not in {None, stream.size}:
                sizes = f"has {stream.size} bytes, expected {claim.size} as recorded"
                defects.append(Defect("", f"the layer's tar stream {sizes}"))
    except DataError as error:
        defects.append(Defect("", f"{error.subject}: {error.message}"))
    except OSError as error:
        defects.append(Defect("", f"cannot be read: {error.strerror}"))
    if defects.more:
        defects.found.append(Defect("", f"{defects.more} more defects are not listed"))
    return LayerProof(defects=tuple(defects.found), size=stream.size)


@dataclass(frozen=True, slots=True)
class Rebuild:
    """One pass over the tar-split entries that feeds the hash and the metadata check."""

    tree: LayerTree
    check: MetadataCheck
    stream: TarStream

    def run(self, entries: Iterable[Entry], headers: HeaderReader) -> None:
        """Read all of it; the stream is marked broken where content is missing."""
        place: Place | None = None
        for index, entry in enumerate(entries):
            if isinstance(entry, Segment):
                self.stream.write(entry.payload)
                for header in headers.feed(entry.payload):
                    place = self.check.check(header)
            elif entry.size and headers.content(entry.name, entry.size):
                # The last header was this content's, so the place is its file's.
                self._add(place, entry.size)
            if not index % TICK_ENTRIES:
                self.stream.tick()

    def _add(self, place: Place | None, size: int) -> None:
        """Append the content of the file at *place*; None when there is no such file."""
        if place is None:
            self.stream.broken = True
        else:
            self.stream.add_file(self.tree.take_file(), size, place)


def _blame(
    entries: Iterable[Entry],
    tree: LayerTree,
    defects: Defects,
    stream: TarStream,
    hashes: str,
) -> None:
    """Name the files whose content is wrong, now that the hash is; *hashes* says so."""
    known = len(defects.found) + defects.more
    for entry in entries:
        if isinstance(entry, FileEntry) and entry.size and entry.checksum:
            place = tree.place(entry.name)
            if _checksum(tree, place, stream.tick) != entry.checksum:
                defects.add(place.path, f"has other content than in the image: {hashes}")
    if len(defects.found) + defects.more == known:
        why = "its files agree with their own checksums, so headers were changed"
        defects.append(Defect("", f"{hashes}; {why}"))


def _checksum(tree: LayerTree, place: Place, tick: Callable[[], None]) -> bytes:
    checksum = Crc64()
    tree.open_file(place)
    with os.fdopen(tree.take_file(), "rb", buffering=0) as file:
        while piece := file.read(CHECKSUM_PIECE):
            checksum.update(piece)
            tick()
    return checksum.digest()


def opened_tree(root: LayerRoot, layer_id: str, *, drop_cache: bool) -> LayerTree:
    """The layer's tree, to be closed by the caller; raises DataError."""
    path = tree_path(layer_id)
    with _located(path):
        if root.resolve(path).path != path:
            raise DataError(path, "is reached through a link, expected directories")
        return LayerTree(root.open_directory(path), drop_cache=drop_cache)


def parent_root(root: LayerRoot, parent: str | None) -> os.stat_result | None:
    """Status of the parent layer's root; None for a base layer. Raises DataError."""
    if parent is None:
        return None
    path = tree_path(parent)
    with _located(path):
        fd = root.open_directory(path)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


@contextmanager
def stored_entries(
    root: LayerRoot, layer_id: str, *, drop_cache: bool = False
) -> Iterator[Iterator[Entry]]:
    """What a layer's tar-split file has, until the context is left; raises DataError."""
    with stored_split(root, layer_id, drop_cache=drop_cache) as (file, path):
        yield read_entries(file, path)


@contextmanager
def stored_split(
    root: LayerRoot, layer_id: str, *, drop_cache: bool = False
) -> Iterator[tuple[BinaryIO, str]]:
    """A layer's tar-split file, open, and its path in the store; raises DataError."""
    path = split_path(layer_id)
    with _located(path):
        fd = root.open_file(path)
    with os.fdopen(fd, "rb") as file:
        if drop_cache:
            forget(fd)
        yield file, path


@contextmanager
def _located(path: str) -> Iterator[None]:
    """Make an OSError one that says which file of the store it is about."""
    try:
        yield
    except OSError as error:
        raise DataError(path, f"cannot be opened: {error.strerror}") from error
