"""Open, list and read files below a directory that is treated as ``/``: nothing leads out of it.

Paths resolve as ``openat2(2)`` does with ``RESOLVE_IN_ROOT``: absolute links start again at the
root and ``..`` at the root stays there. The walk is done here, over directory descriptors, because
it has to tell where a path ended up and must work where ``openat2`` is filtered (old container
runtimes).
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from installer_plugin.errors import DataError

MAX_LINKS = 40
"""Links followed in one path, as the kernel's own limit (``path_resolution(7)``)."""
DEFAULT_READ_LIMIT = 1 << 20
"""Bytes read from a file unless the caller knows better; declarations are far smaller."""
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Of what should be a file: a fifo in its place must not make us wait for its writer."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a path ended after all links were followed."""

    path: str
    """Relative to the root, without links or dots; "" is the root itself."""
    climbed: bool
    """True when a ``..`` above the root was ignored on the way."""


@dataclass(slots=True)
class _Walk:
    """Directories entered so far; owns their descriptors."""

    root: int
    fds: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    climbed: bool = False
    links: int = 0

    @property
    def here(self) -> int:
        return self.fds[-1] if self.fds else self.root

    def up(self) -> None:
        if not self.names:
            self.climbed = True
            return
        os.close(self.fds.pop())
        self.names.pop()

    def down(self, name: str) -> None:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
        self.fds.append(os.open(name, flags, dir_fd=self.here))
        self.names.append(name)

    def to_root(self) -> None:
        while self.fds:
            os.close(self.fds.pop())
        self.names.clear()

    def count_link(self, path: str) -> None:
        self.links += 1
        if self.links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def at(self, name: str | None) -> str:
        return "/".join([*self.names, name] if name else self.names)


class Closing(ABC):
    """Holds descriptors that are given back by :meth:`close`, or when its context is left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Give back what is held."""


class Rootfs(Closing):
    """A directory opened as a root. Use as a context manager, or call :meth:`close`."""

    def __init__(self, fd: int, label: str) -> None:
        """Take over *fd*, a directory descriptor; *label* names the root in messages."""
        self._fd = fd
        self.label = label

    @classmethod
    def open(cls, path: Path) -> Rootfs:
        """Open the directory *path* as a root; raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), str(path))

    @property
    def fd(self) -> int:
        """The root's own descriptor."""
        return self._fd

    def close(self) -> None:
        """Release the root; further calls do nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def _walked(self, path: str, *, follow_last: bool) -> Iterator[tuple[_Walk, str | None]]:
        """Walk to *path*; yields the walk and the last name, None when it ended on a directory.

        The last name is not a symlink when *follow_last* is set, but it need not exist.
        """
        walk = _Walk(self._fd)
        pending = _parts(path)
        last: str | None = None
        try:
            while pending:
                name = pending.pop()
                if name == ".":
                    continue
                if name == "..":
                    walk.up()
                    continue
                mode = _mode(name, walk.here)
                if stat.S_ISLNK(mode) and (pending or follow_last):
                    walk.count_link(path)
                    text = os.readlink(name, dir_fd=walk.here)
                    if text.startswith("/"):
                        walk.to_root()
                    pending += _parts(text)
                elif pending or stat.S_ISDIR(mode):
                    walk.down(name)
                else:
                    last = name
            yield walk, last
        finally:
            walk.to_root()

    def resolve(self, path: str) -> Resolved:
        """Follow every link of *path*; raises OSError (ENOENT for a dangling link, ELOOP)."""
        with self._walked(path, follow_last=True) as (walk, last):
            return Resolved(walk.at(last), walk.climbed)

    def climbs(self, path: str) -> bool:
        """Whether following *path* meets a ``..`` above the root, even if it then leads nowhere."""
        try:
            return self.resolve(path).climbed
        except OSError:
            return self._climbs_by_text(path)

    def _climbs_by_text(self, path: str) -> bool:
        """The lexical answer for a dangling path: its own link's text is counted, not followed."""
        folder, _, _ = path.rpartition("/")
        try:
            text = self.readlink(path)
        except OSError:
            return False
        depth = 0 if text.startswith("/") else len([p for p in folder.split("/") if p])
        for part in text.split("/"):
            if part == "..":
                depth -= 1
            elif part not in ("", "."):
                depth += 1
            if depth < 0:
                return True
        return False

    def exists(self, path: str) -> bool:
        """Whether *path* leads to something inside the root."""
        try:
            self.resolve(path)
        except OSError:
            return False
        return True

    def has_entry(self, path: str) -> bool:
        """Whether *path* itself is there, be it a link that leads nowhere."""
        try:
            with self._walked(path, follow_last=False) as (walk, last):
                return last is None or bool(_mode(last, walk.here))
        except OSError:
            return False

    def is_dir(self, path: str) -> bool:
        """Whether *path* leads to a directory inside the root."""
        try:
            with self._walked(path, follow_last=True) as (_, last):
                return last is None
        except OSError:
            return False

    def is_link(self, path: str) -> bool:
        """Whether *path* itself is a symbolic link; raises OSError when it does not exist."""
        with self._walked(path, follow_last=False) as (walk, last):
            return last is not None and stat.S_ISLNK(_mode(last, walk.here))

    def type_of(self, path: str) -> str:
        """The word for *path*'s file type, a link not followed; raises OSError."""
        with self._walked(path, follow_last=False) as (walk, last):
            return "directory" if last is None else file_type(_mode(last, walk.here))

    def readlink(self, path: str) -> str:
        """Text of the symbolic link *path*; raises OSError (EINVAL when it is not a link)."""
        with self._walked(path, follow_last=False) as (walk, last):
            if last is None:
                raise OSError(errno.EINVAL, "is a directory, not a symbolic link", path)
            return os.readlink(last, dir_fd=walk.here)

    def list(self, path: str) -> tuple[str, ...]:
        """Names in the directory *path*, sorted; raises OSError."""
        fd = self.open_directory(path)
        try:
            return tuple(sorted(os.listdir(fd)))  # noqa: PTH208 - pathlib takes no descriptor
        finally:
            os.close(fd)

    def open_file(self, path: str) -> int:
        """A descriptor of the regular file *path*; raises OSError, and DataError for other types."""
        with self._walked(path, follow_last=True) as (walk, last):
            if last is None:
                raise DataError(path, "is a directory, expected a regular file")
            return open_regular(last, walk.here, path)

    def open_directory(self, path: str) -> int:
        """A descriptor of the directory *path*; raises OSError."""
        with self._walked(path, follow_last=True) as (walk, last):
            if last is not None:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=walk.here)

    @contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """A descriptor of the directory *path*, its last component not followed; raises OSError."""
        with self._walked(path, follow_last=False) as (walk, last):
            if last is not None:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=walk.here)
        try:
            yield fd
        finally:
            os.close(fd)

    def read_bytes(self, path: str, *, limit: int = DEFAULT_READ_LIMIT) -> bytes:
        """Content of the regular file *path*.

        Raises OSError when it cannot be read, DataError when it is not a regular file or longer than
        *limit* bytes. Never blocks on a fifo and never opens a device for reading.
        """
        with os.fdopen(self.open_file(path), "rb") as file:
            # A file that says how long it is, is believed: it need not be read first.
            known = os.fstat(file.fileno()).st_size
            content = file.read(limit + 1) if known <= limit else b""
        if max(known, len(content)) > limit:
            raise DataError(path, f"is longer than {limit} bytes, expected a small file")
        return content

    def read_text(self, path: str, *, limit: int = DEFAULT_READ_LIMIT) -> str:
        """Like :meth:`read_bytes`, decoded; raises DataError when it is not UTF-8."""
        try:
            return self.read_bytes(path, limit=limit).decode()
        except UnicodeDecodeError as error:
            raise DataError(path, f"is not UTF-8 at byte {error.start}") from error


def open_regular(name: str | bytes, folder: int, shown: str) -> int:
    """Open the regular file *name* in the directory descriptor *folder* for reading.

    The last component is never followed when it is a link. The type is looked at before the file is
    opened for reading, because opening a device can have effects of its own. Raises OSError, and
    DataError (about *shown*) for any other file type.
    """
    mode = _mode(name, folder)
    if not stat.S_ISREG(mode):
        raise DataError(shown, f"is a {file_type(mode)}, expected a regular file")
    return os.open(name, READ_FLAGS, dir_fd=folder)


def file_type(mode: int) -> str:
    """The word for the file type in *mode*."""
    names = {
        stat.S_IFREG: "regular file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
    }
    return names[stat.S_IFMT(mode)]


def printable(path: str) -> str:
    """*path* for people: what a terminal would act on, or UTF-8 cannot hold, is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in path
    )


def _parts(path: str) -> list[str]:
    """Components of *path*, last one first.

    A slash at the end asks for a directory: it stays, as a dot, so that the walk has to enter it.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.endswith(("/", "/.")) or path == ".":
        parts.append(".")
    return parts[::-1]


def _mode(name: str | bytes, folder: int) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
