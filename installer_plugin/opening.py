"""Targets, sources and stores, opened for a request and closed again; and the files that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from installer_plugin.block.base import OpenedTarget
from installer_plugin.block.target import open_target
from installer_plugin.declarations.os_platform import platform_of
from installer_plugin.declared import configured
from installer_plugin.errors import (
    BoundImagesError,
    ConfigError,
    DataError,
)
from installer_plugin.events import Event, Events, Step, Warned
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.lockfile import LockedImage, parse_lock
from installer_plugin.process.pool import Crew
from installer_plugin.request import Request, Work
from installer_plugin.storage.store.target_store import TargetStore, find_target_store

if TYPE_CHECKING:
    from installer_plugin.storage.source.store_option import Sources

FILE_LIMIT = 16 << 20
"""Bytes of a lock file or receipt."""


class UnopenedError(ConfigError):
    """A target cannot be opened with what the caller has given; what is on it nobody knows."""


@dataclass(frozen=True, slots=True)
class _Retelling:
    """Passes events on, with paths on a disk as the user would say them."""

    target: OpenedTarget
    events: Events

    def send(self, event: Event) -> None:
        """Pass *event* on."""
        if isinstance(event, Step | Warned):
            event = replace(event, message=self.target.shown(event.message))
        self.events.send(event)


@contextmanager
def on_target(work: Work) -> Iterator[tuple[Work, OpenedTarget | None]]:
    """*work* with its target as a directory, and how that came about; see ``open_target``.

    What happens on a disk is reported by the name that the user gave it. When the context has been
    left, everything is on the disk, and the disk is free.
    """
    request = work.request
    if request.target is None:
        yield work, None
        return
    with ExitStack() as stack:
        opening = open_target(request.target, work.opening, work.runner, work.events)
        try:
            target = stack.enter_context(opening)
        except ConfigError as error:
            raise UnopenedError(*error.problems) from error
        inner = work.asking(replace(request, target=target.physical_root))
        try:
            yield inner.telling(Events([_Retelling(target, work.events)])), target
        except BoundImagesError as error:
            if target.device is None:
                raise
            raise error.retold(target.retold) from error


class Opened:
    """The source root and the stores of a request, each opened when it is first asked for.

    A context manager; all is closed when it is left.
    """

    def __init__(self, work: Work, disk: OpenedTarget | None = None) -> None:
        """*disk* is how the target of *work* was opened, when it was."""
        self.disk = disk
        self._work = work
        self._stack = ExitStack()
        self._root: Rootfs | None = None
        self._sources: Sources | None = None
        self._crew: Crew | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def root(self) -> Rootfs:
        """The source root; raises ConfigError and PreflightError when it cannot be opened."""
        if self._root is None:
            from installer_plugin.sources import open_root  # noqa: PLC0415 - a proof needs none

            with configured():
                self._root = self._stack.enter_context(open_root(self._work))
        return self._root

    @property
    def sources(self) -> Sources:
        """The stores; raises ConfigError and PreflightError when they cannot be opened."""
        if self._sources is None:
            from installer_plugin.sources import open_stores  # noqa: PLC0415 - as above

            with configured():
                self._sources = self._stack.enter_context(
                    open_stores(self._work, platform_of(self.root))
                )
        return self._sources

    @property
    def crew(self) -> Crew:
        """Processes of ours that share work, kept for all that is done with the request."""
        if self._crew is None:
            self._crew = self._stack.enter_context(Crew(self._work.runner))
        return self._crew


def read_named(path: Path) -> bytes:
    """A file that the user named; raises DataError."""
    try:
        with Rootfs.open(path.absolute().parent) as folder:
            return folder.read_bytes(path.name, limit=FILE_LIMIT)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from error


def read_lock(request: Request) -> Mapping[str, LockedImage] | None:
    """The lock file of *request* by reference, None without one; raises DataError."""
    return parse_lock(read_named(request.lock), str(request.lock)) if request.lock else None


def require_target(request: Request) -> TargetStore:
    """The target store of *request*; raises ConfigError when its place is not a target."""
    if request.target is None:
        raise RuntimeError("this part of the recipe needs a target")
    with configured():
        return find_target_store(request.target, request.backend)


def scratch_places(work: Work, target: TargetStore) -> tuple[Path, ...]:
    """Where temporary files may go; the target itself is the last resort, it is cleaned up too."""
    if work.request.scratch:
        return (work.request.scratch,)
    usual = Path(work.context.env.get("TMPDIR") or "/var/tmp")  # noqa: S108 - a mkdtemp parent
    return (usual, target.physical_root)
