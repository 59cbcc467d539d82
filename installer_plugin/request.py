"""What a user asks for, and what is opened to do it: the source root, the stores, named files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin.block.base import OpenedTarget, OpenOptions
from installer_plugin.block.target import open_target
from installer_plugin.declarations.reference import parse_reference
from installer_plugin.errors import (
    BoundImagesError,
    ConfigError,
    DamagedStoreError,
    DataError,
    PreflightError,
)
from installer_plugin.events import Event, Events, Step, Warned
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.files.scratch import scratch_directory
from installer_plugin.process.runner import Runner
from installer_plugin.storage.engine.select import EngineChoice
from installer_plugin.storage.source.containers_conf import (
    RegistriesConf,
    load_registries_conf,
    load_storage_conf,
)
from installer_plugin.storage.source.fetch import NAME as FETCHED_NAME
from installer_plugin.storage.source.fetch import TRANSPORTS, fetch_image
from installer_plugin.storage.source.local import LocalStores, open_local_stores
from installer_plugin.storage.source.overlay_mount import mounted_layers
from installer_plugin.storage.source.specs import Sources, open_sources, parse_source_spec
from installer_plugin.storage.store.records import LayerRecord
from installer_plugin.storage.store.target_store import Backend

IMAGE_PREFIX = "containers-storage:"
TARGET_ITSELF = ""
"""Source of a verification that has no other than the target's own deployments."""
FILE_LIMIT = 16 << 20
"""Bytes of a lock file or receipt."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the recipes need of the world around them."""

    runner: Runner
    events: Events
    env: Mapping[str, str]
    system: Path = Path("/")
    """Whose ``/etc/containers`` is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for."""

    source: str = "/"
    """A root directory, or ``containers-storage:REFERENCE``."""
    stores: tuple[str, ...] = ()
    target: Path | None = None
    backend: Backend | None = None
    engine: EngineChoice = EngineChoice.AUTO
    lock: Path | None = None
    scratch: Path | None = None
    receipts: tuple[Path, ...] = ()
    require_bound_images: bool = False
    dry_run: bool = False
    jobs: int | None = None
    """Layers verified at once; None for as many as there are processors, up to a bound."""
    fetched: Path | None = None
    """A directory that keeps a source image from elsewhere for later stages; None to fetch it anew."""


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


def retelling(context: Context, target: OpenedTarget | None) -> Context:
    """*context* with events that name what is on *target* as the user does."""
    if target is None:
        return context
    return replace(context, events=Events([_Retelling(target, context.events)]))


@contextmanager
def on_target(
    request: Request, context: Context, options: OpenOptions
) -> Iterator[tuple[Request, OpenedTarget | None]]:
    """*request* with its target as a directory, and how that came about; see ``open_target``.

    What fails on a disk is told by the name that the user gave it. When the context has been left, all
    is on the disk, and the disk is free.
    """
    if request.target is None:
        yield request, None
        return
    with open_target(request.target, options, context.runner, context.events) as target:
        try:
            yield replace(request, target=target.physical_root), target
        except BoundImagesError as error:
            if target.device is None:
                raise
            raise error.retold(target.retold) from error


@contextmanager
def opened(request: Request, context: Context) -> Iterator[tuple[Rootfs, Sources]]:
    """The source root and the stores of *request*; raises ConfigError for what cannot be opened."""
    with (
        configured(),
        open_root(request, context) as root,
        open_stores(request, context) as stores,
    ):
        yield root, stores


@contextmanager
def open_stores(request: Request, context: Context) -> Iterator[Sources]:
    """The stores of the request, or those that podman would use on this system."""
    registries = load_registries_conf(context.system, context.env)
    specs = tuple(parse_source_spec(text) for text in request.stores)
    default = () if specs else load_storage_conf(context.system, context.env).stores
    with open_sources(specs, default, registries, context.runner) as sources:
        yield sources


@contextmanager
def open_root(request: Request, context: Context) -> Iterator[Rootfs]:
    """The source as a root: a directory, or an image that is mounted for the time being."""
    if request.source.startswith(IMAGE_PREFIX):
        opened_root = _stored_image(request, context)
    elif request.source.startswith(TRANSPORTS):
        opened_root = _fetched_image(request, context)
    else:
        opened_root = _directory(Path(request.source))
    with opened_root as root:
        yield root


@contextmanager
def _stored_image(request: Request, context: Context) -> Iterator[Rootfs]:
    reference = request.source.removeprefix(IMAGE_PREFIX)
    try:
        parse_reference(reference)
    except ValueError as error:
        raise DataError(request.source, str(error), hint="name a stored image") from error
    with open_stores(request, context) as stores:
        for source in stores.all:
            layers = source.image_layers(reference) if isinstance(source, LocalStores) else None
            if layers is not None:
                with _mounted(layers, request.source, context) as root:
                    yield root
                return
        places = ", ".join(map(str, stores.graph_roots))
        raise DataError(
            reference,
            f"is in none of {places}" if places else "cannot be looked for: no local store is here",
            hint=stores.all[0].remedy(reference) if stores.all else "name a store with --store",
        )


@contextmanager
def _fetched_image(request: Request, context: Context) -> Iterator[Rootfs]:
    source = request.source
    with ExitStack() as stack:
        place = request.fetched or stack.enter_context(
            scratch_directory(Path(tempfile.gettempdir()))
        )
        store = fetch_image(source, place, context.runner)
        registries = RegistriesConf(aliases={})
        local = stack.enter_context(open_local_stores([store], registries))
        layers = local.image_layers(FETCHED_NAME)
        if layers is None:
            raise DataError(source, "was fetched, but is not in the throw-away store")
        yield stack.enter_context(_mounted(layers, source, context))


@contextmanager
def _mounted(
    layers: Sequence[tuple[Path, LayerRecord]], label: str, context: Context
) -> Iterator[Rootfs]:
    with (
        scratch_directory(Path(tempfile.gettempdir())) as scratch,
        mounted_layers(layers, label, scratch, context.runner) as root,
    ):
        yield root


@contextmanager
def _directory(path: Path) -> Iterator[Rootfs]:
    try:
        root = Rootfs.open(path)
    except OSError as error:
        raise DataError(
            str(path),
            f"cannot be opened as a source root: {error.strerror}",
            hint="give a directory or containers-storage:REFERENCE",
        ) from error
    with root:
        yield root


@contextmanager
def configured() -> Iterator[None]:
    """Turn complaints about what the caller named or configured into errors of the caller."""
    try:
        yield
    except DamagedStoreError as error:
        hint = "repair the store, or pull the images into another one and name it with --store"
        raise PreflightError(error.problem(hint=hint)) from error
    except DataError as error:
        hint = "correct the file or option that is named"
        raise ConfigError(error.problem(hint=hint)) from error


def read_named(path: Path) -> bytes:
    """A file that the user named; raises DataError."""
    try:
        with Rootfs.open(path.absolute().parent) as folder:
            return folder.read_bytes(path.name, limit=FILE_LIMIT)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from error
