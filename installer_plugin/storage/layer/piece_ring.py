"""Pieces of one stream, prepared by several processes and hashed in their order by one of them.

Who prepares has a few slots of shared memory for itself, and says in a pipe that all write to which of
them holds the next piece of which chunk of the stream. A slot is free again when its number comes back.
Large files are only named: who hashes reads them himself, past the page cache.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Self

from installer_plugin.files.rootfs import Closing
from installer_plugin.model import DiffId
from installer_plugin.storage.layer.tar_stream import BUFFER, Hash, Progress

SLOTS = 6
"""Pieces that one process prepares before the first of them is hashed."""
_RECORD = struct.Struct("<HHHIIQQ")
"""A :class:`_Said`; shorter than what a pipe takes at once."""


class _Kind(IntEnum):
    PIECE = 1
    """A slot has a piece; its length."""
    FILE = 2
    """A slot stands for a large file; its size."""
    CUT = 3
    """The chunk is complete."""
    BYE = 4
    """The worker has nothing more to say."""
    FAIL = 5
    """The worker cannot go on: what is hashed means nothing."""


class _Said(NamedTuple):
    kind: int
    worker: int
    slot: int
    pid: int
    fd: int
    """A large file that process ``pid`` has open."""
    chunk: int
    size: int


@dataclass(frozen=True, slots=True)
class Ring:
    """The shared memory and the pipes, by paths that other processes find them by."""

    memory: Path
    said: Path
    free: tuple[Path, ...]
    """Of each worker: the pipe by which its slots come back."""


@contextmanager
def ring(workers: int) -> Iterator[Ring]:
    """A ring for *workers* processes of ours, kept until the context is left."""
    with ExitStack() as stack:
        memory = os.memfd_create("pieces")
        stack.callback(os.close, memory)
        os.truncate(memory, workers * SLOTS * BUFFER)
        pipes = [os.pipe() for _ in range(workers + 1)]
        for fd in (fd for ends in pipes for fd in ends):
            stack.callback(os.close, fd)
        said, *free = (Path(f"/proc/{os.getpid()}/fd/{ends[0]}") for ends in pipes)
        yield Ring(Path(f"/proc/{os.getpid()}/fd/{memory}"), said, tuple(free))


class _Opened(Closing):
    """The ring in one process. Use as a context manager."""

    def __init__(self, ring: Ring) -> None:
        with ExitStack() as stack:
            memory = os.open(ring.memory, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, memory)
            self._memory = mmap.mmap(memory, 0)
        self._bytes = memoryview(self._memory)
        self._fds = ExitStack()

    def open(self, pipe: Path) -> int:
        """Open one of the pipes until this is closed."""
        fd = os.open(pipe, os.O_RDWR | os.O_CLOEXEC)
        self._fds.callback(os.close, fd)
        return fd

    def slot(self, worker: int, slot: int) -> memoryview:
        """The memory of a slot."""
        start = (worker * SLOTS + slot) * BUFFER
        return self._bytes[start : start + BUFFER]

    def close(self) -> None:
        """Give back memory and pipes; memory in use is given back by who uses it."""
        self._fds.close()


class Preparer(_Opened):
    """Where one process puts its pieces: a :class:`~.tar_stream.Sink`."""

    def __init__(self, ring: Ring, worker: int, progress: Progress) -> None:
        super().__init__(ring)
        self._worker = worker
        self._progress = progress
        self._said = self.open(ring.said)
        self._free_pipe = self.open(ring.free[worker])
        self._free = deque(range(SLOTS))
        self._files: dict[int, int] = {}
        """Descriptors of large files that wait to be hashed, by slot."""
        self._current = self._free.popleft()
        self.chunk = 0
        """The chunk that the pieces belong to."""

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Say that nothing more comes, and wait until all that came was taken."""
        self._say(_Kind.BYE)
        while len(self._free) < SLOTS - 1:
            self._take_back()
        super().close()

    def room(self) -> memoryview:
        """See :class:`~.tar_stream.Sink`."""
        return self.slot(self._worker, self._current)

    def put(self, used: int) -> None:
        """See :class:`~.tar_stream.Sink`."""
        if used:
            self._say(_Kind.PIECE, used)
            self._progress(used)
            self._next_slot()

    def put_file(self, fd: int, size: int) -> bool:
        """See :class:`~.tar_stream.Sink`; what is wrong with it, who hashes it finds."""
        self._files[self._current] = os.dup(fd)
        self._say(_Kind.FILE, size)
        self._progress(size)
        self._next_slot()
        return True

    def cut(self) -> None:
        """Say that the chunk is complete."""
        self._say(_Kind.CUT)

    def fail(self) -> None:
        """Say that the chunk will never be complete."""
        self._say(_Kind.FAIL)

    def _next_slot(self) -> None:
        while not self._free:
            self._take_back()
        self._current = self._free.popleft()

    def _take_back(self) -> None:
        for slot in os.read(self._free_pipe, SLOTS):
            self._free.append(slot)
            if slot in self._files:
                os.close(self._files.pop(slot))

    def _say(self, kind: _Kind, size: int = 0) -> None:
        fd = self._files.get(self._current, 0)
        said = _Said(kind, self._worker, self._current, os.getpid(), fd, self.chunk, size)
        os.write(self._said, _RECORD.pack(*said))


class OrderedHash(_Opened):
    """Hashes what all processes prepare."""

    def __init__(self, ring: Ring) -> None:
        super().__init__(ring)
        self._said = self.open(ring.said)
        self._free = [self.open(pipe) for pipe in ring.free]
        self._waiting: defaultdict[int, deque[_Said]] = defaultdict(deque)
        """What was said of chunks whose turn has not come."""
        self._next = 0
        self._failed = False

    def run(self) -> DiffId | None:
        """Hash until everybody has said goodbye; None when that means nothing."""
        left = len(self._free)
        with Hash(lambda _: None) as hashed:
            while left:
                said = _Said._make(_RECORD.unpack(os.read(self._said, _RECORD.size)))
                if said.kind == _Kind.BYE:
                    left -= 1
                    continue
                self._failed |= said.kind == _Kind.FAIL
                self._waiting[said.chunk].append(said)
                self._catch_up(hashed)
            return None if self._failed or self._waiting else hashed.diff_id()

    def _catch_up(self, hashed: Hash) -> None:
        """Take all that can be taken: the next chunk's pieces; everything once it means nothing."""
        while not self._failed and (queue := self._waiting.get(self._next)):
            said = queue.popleft()
            if said.kind == _Kind.CUT:
                del self._waiting[self._next]
                self._next += 1
            else:
                self._failed = not self._add(said, hashed)
                self._give_back(said)
        if self._failed:
            for queue in self._waiting.values():
                for said in queue:
                    self._give_back(said)
            self._waiting.clear()

    def _add(self, said: _Said, hashed: Hash) -> bool:
        """Hash a piece; whether it was all there."""
        if said.kind == _Kind.PIECE:
            hashed.add(self.slot(said.worker, said.slot)[: said.size])
            return True
        try:
            fd = os.open(f"/proc/{said.pid}/fd/{said.fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return hashed.put_file(fd, said.size)
        except OSError:
            return False
        finally:
            os.close(fd)

    def _give_back(self, said: _Said) -> None:
        if said.kind in (_Kind.PIECE, _Kind.FILE):
            os.write(self._free[said.worker], bytes([said.slot]))
