"""Sources, stores and targets, opened for a request and closed again; and the files that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from installer_plugin.block.base import OpenedTarget
from installer_plugin.block.target import open_target
from installer_plugin.declarations.os_platform import platform_of, this_machine
from installer_plugin.declarations.reference import find_image_id, parse_reference
from installer_plugin.declared import configured, source_directory
from installer_plugin.errors import (
    BoundImagesError,
    ConfigError,
    DataError,
)
from installer_plugin.events import Event, Events, Step, Warned
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.files.scratch import scratch_directory, usual_place
from installer_plugin.lockfile import LockedImage, parse_lock
from installer_plugin.model import Platform
from installer_plugin.process.pool import Crew
from installer_plugin.request import IMAGE_PREFIX, Request, Work
from installer_plugin.storage.base import TRANSPORTS
from installer_plugin.storage.source.containers_conf import (
    RegistriesConf,
    load_registries_conf,
    load_storage_conf,
)
from installer_plugin.storage.source.fetch import NAME as FETCHED_NAME
from installer_plugin.storage.source.fetch import fetch_image
from installer_plugin.storage.source.local import LocalStores, open_local_stores
from installer_plugin.storage.source.overlay_mount import mounted_layers
from installer_plugin.storage.source.searching import Searching
from installer_plugin.storage.source.store_option import Sources, open_sources, parse_source_spec
from installer_plugin.storage.store.records import LayerRecord
from installer_plugin.storage.store.target_store import TargetStore, find_target_store

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
            with configured():
                self._root = self._stack.enter_context(open_root(self._work))
        return self._root

    @property
    def sources(self) -> Sources:
        """The stores; raises ConfigError and PreflightError when they cannot be opened."""
        if self._sources is None:
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


@contextmanager
def open_stores(work: Work, machine: Platform | None = None) -> Iterator[Sources]:
    """The stores of the request, or those that podman would use on this system.

    Of an image for several platforms, the one for *machine* (this one unless given) is taken where the
    store leaves a choice.
    """
    system, env = work.context.system, work.context.env
    searching = Searching(load_registries_conf(system, env), machine or this_machine())
    specs = tuple(parse_source_spec(text) for text in work.request.stores)
    default = () if specs else load_storage_conf(system, env).stores
    with open_sources(specs, default, searching, work.runner) as sources:
        yield sources


@contextmanager
def open_root(work: Work) -> Iterator[Rootfs]:
    """The source as a root: a directory, or an image that is mounted for the time being."""
    source = work.request.source
    if source.startswith(IMAGE_PREFIX):
        opened_root = _stored_image(work)
    elif source.startswith(TRANSPORTS):
        opened_root = _fetched_image(work)
    else:
        opened_root = source_directory(Path(source))
    with opened_root as root:
        yield root


@contextmanager
def _stored_image(work: Work) -> Iterator[Rootfs]:
    source = work.request.source
    reference = source.removeprefix(IMAGE_PREFIX)
    try:
        if find_image_id(reference) is None:
            parse_reference(reference)
    except ValueError as error:
        raise DataError(source, str(error), hint="name a stored image") from error
    with open_stores(work) as stores:
        for store in stores.all:
            layers = store.image_layers(reference) if isinstance(store, LocalStores) else None
            if layers is not None:
                with _mounted(layers, work) as root:
                    yield root
                return
        places = ", ".join(map(str, stores.graph_roots))
        raise DataError(
            reference,
            f"is in none of {places}" if places else "cannot be looked for: no local store is here",
            hint=stores.all[0].remedy(reference) if stores.all else "name a store with --store",
        )


@contextmanager
def _fetched_image(work: Work) -> Iterator[Rootfs]:
    source = work.request.source
    with ExitStack() as stack:
        place = work.request.fetched or stack.enter_context(scratch_directory(usual_place()))
        store = fetch_image(source, place, work.runner)
        registries = RegistriesConf(aliases={})
        local = stack.enter_context(open_local_stores([store], registries))
        layers = local.image_layers(FETCHED_NAME)
        if layers is None:
            raise DataError(source, "was fetched, but is not in the throw-away store")
        yield stack.enter_context(_mounted(layers, work))


@contextmanager
def _mounted(layers: Sequence[tuple[Path, LayerRecord]], work: Work) -> Iterator[Rootfs]:
    with (
        scratch_directory(usual_place()) as scratch,
        mounted_layers(layers, work.request.source, scratch, work.runner) as root,
    ):
        yield root


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
