"""What a request takes its images from: its root, and the stores that are looked into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from installer_plugin.declarations.os_platform import this_machine
from installer_plugin.declarations.reference import find_image_id, parse_reference
from installer_plugin.declared import source_directory
from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.files.scratch import scratch_directory, usual_place
from installer_plugin.model import Platform
from installer_plugin.request import IMAGE_PREFIX, Work
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
