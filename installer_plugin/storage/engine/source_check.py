"""What keeps a stored layer from being copied and proven, read off its tar-split file and its tree.

No content is read. What is wrong here every engine would find out, but late: with the target written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError, Problem
from installer_plugin.files.rootfs import file_type
from installer_plugin.process.pool_worker import Progress
from installer_plugin.storage.layer.file_copy import ATTRIBUTE_HINT, file_system_of
from installer_plugin.storage.layer.metadata_check import OPAQUE_NAME, WHITEOUT_PREFIX
from installer_plugin.storage.layer.proof import TICK_ENTRIES
from installer_plugin.storage.layer.tar_header import GLOBAL, Header, HeaderReader
from installer_plugin.storage.layer.tar_split import Entry, FileEntry, Segment
from installer_plugin.storage.layer.tree import LayerTree, cleaned, joined, shown

ALWAYS_HELD = 512
"""Bytes of attributes that every file system with attributes holds at one file."""
NOT_HELD = (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EOPNOTSUPP)
"""What setxattr(2) says of a value that is too large for a file system, or of a kind that it lacks."""
_NOT_USUAL = frozenset((b"", b"."))
"""What names begin with that are whiteouts, lead elsewhere, or end with a slash."""
REPULL = "remove the image from that store and pull it again"
REBUILD = "build the image again without such an entry: no engine can carry it"


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """The files of a layer."""

    tree: LayerTree
    diff: int | None
    """The layer's directory for a reader that confines no link to it; None when nobody else reads."""
    shown: str
    """That directory as messages show it."""

    def path(self, name: bytes) -> str:
        """Where *name* is, for people."""
        return f"{self.shown}{shown(name)}"

    def fault(self, entry: FileEntry) -> str:
        """Why the content of *entry* is not in a regular file of the layer's own; empty when it is.

        containers-storage opens whatever has the name of a file with content: it would wait for the
        writer of a fifo, read a device without end, and follow a link out of the store
        (containers/storage drivers/fsdiff.go, tar-split tar/storage/getter.go).
        """
        try:
            found = self.tree.lstat(self.tree.place(entry.name))
            reached = found
            if self.diff is not None:
                reached = os.stat(cleaned(entry.name).lstrip(b"/"), dir_fd=self.diff)
        except (DataError, OSError) as error:
            return _unusable(error)
        if not stat.S_ISREG(found.st_mode):
            return f"is a {file_type(found.st_mode)}, expected a regular file"
        if (found.st_dev, found.st_ino) != (reached.st_dev, reached.st_ino):
            return "is reached through a link out of the layer, expected a regular file"
        if found.st_size != entry.size:
            return f"has {found.st_size} bytes, expected {entry.size}"
        return ""


def _unusable(error: DataError | OSError) -> str:
    if isinstance(error, DataError):
        return error.message
    if isinstance(error, FileNotFoundError):
        return "is missing from the source, expected a file"
    return f"cannot be read: {error.strerror}"


class LayerWalk:
    """One layer, or parts of it, while its tar-split file is read."""

    def __init__(self, files: LayerFiles, split: str, target: Path | None) -> None:
        self._files = files
        self._target = target
        self.untried = False
        """Whether there are attributes that only a target could show to be too large."""
        self._tried: set[tuple[tuple[str, int], ...]] = set()
        """Names and sizes of attributes that were tried on the target."""
        self._split = split
        self.size = 0
        """Bytes of the stream so far."""
        self._folder: bytes | None = None
        """The directory of the last name that stood in the stream as :func:`_plain` has it."""
        self._seen: dict[bytes, bool] = {}
        """Names that have had an entry, and whether it had content."""
        self._removed: set[bytes] = set()
        """Names that whiteouts remove."""
        self._faults: dict[bytes, tuple[str, str]] = {}
        """Fault and hint, by name."""

    @property
    def problems(self) -> Iterator[Problem]:
        """What is wrong with single files and entries."""
        for name, (fault, hint) in self._faults.items():
            yield Problem(subject=self._files.path(name), message=fault, hint=hint)

    @property
    def names(self) -> Collection[bytes]:
        """Names that have had an entry."""
        return self._seen.keys()

    @property
    def removed(self) -> Collection[bytes]:
        """Names that whiteouts remove."""
        return self._removed

    def run(self, entries: Iterable[Entry], headers: HeaderReader, progress: Progress) -> None:
        """Read all *entries*; raises DataError when they make no tar stream."""
        for index, entry in enumerate(entries):
            if not index % TICK_ENTRIES:
                progress(0)
            if isinstance(entry, Segment):
                self.size += len(entry.payload)
                try:
                    for header in headers.feed(entry.payload):
                        self._take(header)
                except DataError as error:
                    raise DataError(error.subject, error.message, hint=REBUILD) from error
            elif entry.size and headers.content(entry.name, entry.size):
                self.size += entry.size
                if fault := self._files.fault(entry):
                    self._faults.setdefault(_plain(entry.name), (fault, REPULL))

    def size_problems(self, recorded: int | None) -> Iterator[Problem]:
        """Whether the stream is as long as the store says."""
        if recorded is not None and self.size != recorded:
            yield Problem(
                subject=self._split,
                message=f"describes {self.size} bytes, expected {recorded} as the store recorded",
                hint=REPULL,
            )

    def _take(self, header: Header) -> None:
        if header.kind == GLOBAL:
            return
        if self._is_usual(header):
            self._seen[header.name] = bool(header.size)
            return
        name = _plain(header.name)
        if header.xattrs:
            self._try_xattrs(name, header.xattrs)
        folder, _, base = name.rpartition(b"/")
        inside = b".." not in name.split(b"/")
        self._folder = folder if inside and name == header.name else None
        if not inside:
            self._faults[name] = "leads out of the layer", REBUILD
        elif base == OPAQUE_NAME:
            return
        elif base.startswith(WHITEOUT_PREFIX):
            if header.size:
                self._faults[name] = "is a whiteout with content, which unpacking drops", REBUILD
            removed = joined(folder, base.removeprefix(WHITEOUT_PREFIX))
            self._removed.add(removed)
            if self._seen.pop(removed, False):
                self._faults[removed] = "is removed by the same layer that has its content", REBUILD
        elif self._seen.get(name) or (name in self._seen and header.size):
            self._faults[name] = "is twice in the layer's tar stream, expected once", REBUILD
        else:
            self._seen[name] = bool(header.size)

    def _is_usual(self, header: Header) -> bool:
        """Whether this is a new name without attributes, in the directory of the one before it."""
        folder, _, base = header.name.rpartition(b"/")
        return (
            folder == self._folder
            and base[:1] not in _NOT_USUAL
            and not header.xattrs
            and header.name not in self._seen
        )

    def _try_xattrs(self, name: bytes, xattrs: Mapping[str, bytes]) -> None:
        sizes = tuple(sorted((key, len(value)) for key, value in xattrs.items()))
        if sizes in self._tried or sum(size for _, size in sizes) < ALWAYS_HELD:
            return
        self._tried.add(sizes)
        if self._target is None:
            self.untried = True
        elif fault := xattr_fault(xattrs, self._target):
            self._faults[name] = fault, ATTRIBUTE_HINT


def xattr_fault(xattrs: Mapping[str, bytes], folder: Path) -> str:
    """Why the file system of *folder* does not hold these attributes at one file; empty when it does.

    A file without a name tries it out. Empty also where that cannot be tried.
    """
    try:
        fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:
        return ""  # read-only for now, or a file system without such files: copying will tell
    try:
        for name, value in sorted(xattrs.items()):
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in NOT_HELD:
                    continue
                kind = file_system_of(folder.resolve())
                return (
                    f"its extended attribute {name} of {len(value)} bytes does not fit on the target's "
                    f"file system ({kind}): {error.strerror}"
                )
    finally:
        os.close(fd)
    return ""


def _plain(name: bytes) -> bytes:
    return cleaned(name).removeprefix(b"./").strip(b"/")
