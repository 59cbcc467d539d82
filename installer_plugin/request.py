"""What a user asks for, and what is opened to do it: the source root, the stores, named files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import ConfigError, DataError
from installer_plugin.events import Events
from installer_plugin.process import Runner
from installer_plugin.rootfs import Rootfs
from installer_plugin.storage.conf import load_registries_conf, load_storage_conf
from installer_plugin.storage.engines import EngineChoice
from installer_plugin.storage.local import LocalStores
from installer_plugin.storage.mounted import mounted_layers
from installer_plugin.storage.scratch import scratch_directory
from installer_plugin.storage.sources import Sources, open_sources, parse_source_spec
from installer_plugin.storage.target import Backend

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
    """The source as a root: a directory, or a stored image that is mounted for the time being."""
    if not request.source.startswith(IMAGE_PREFIX):
        with _directory(Path(request.source)) as root:
            yield root
        return
    reference = request.source.removeprefix(IMAGE_PREFIX)
    with ExitStack() as stack:
        stores = stack.enter_context(open_stores(request, context))
        layers = next(
            (
                layers
                for source in stores.all
                if isinstance(source, LocalStores) and (layers := source.image_layers(reference))
            ),
            None,
        )
        if layers is None:
            raise DataError(
                reference,
                f"is in none of {', '.join(map(str, stores.graph_roots)) or 'no store'}",
                hint=f"podman pull {reference}",
            )
        scratch = stack.enter_context(scratch_directory(Path(tempfile.gettempdir())))
        yield stack.enter_context(mounted_layers(layers, request.source, scratch, context.runner))


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
