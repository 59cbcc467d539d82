"""Which sources the user means (``--store``), and opening them together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.declarations.reference import parse_reference
from installer_plugin.errors import DataError
from installer_plugin.model import LAYOUTS, SourceKind
from installer_plugin.process.runner import Runner
from installer_plugin.storage.base import STORE_FORMS, ImageSource
from installer_plugin.storage.source.local import open_local_stores
from installer_plugin.storage.source.searching import Searching
from installer_plugin.storage.store.drivers import other_driver, way_out
from installer_plugin.storage.store.graph_root import IMAGES_JSON

_KINDS = "|".join(sorted(LAYOUTS))
_LAYOUT = re.compile(rf"(?:(?P<reference>[^=]+)=)?(?P<kind>{_KINDS}):(?P<path>.+)")
_STORE_SPEC = re.compile(r"\[(?:overlay@)?(?P<root>/[^+:\]]+)(?:\+[^\]]*)?\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One ``--store``, taken apart."""

    kind: SourceKind
    place: str
    """Path, or the whole ``ssh://`` address."""
    stands_for: str | None = None
    """The reference that a layout's nameless image is to be taken for."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The opened sources in search order."""

    all: tuple[ImageSource, ...]
    graph_roots: tuple[Path, ...]
    """The local stores among them, primary first."""


def parse_source_spec(text: str) -> SourceSpec:
    """One of STORE_FORMS; raises DataError."""
    layout = _LAYOUT.fullmatch(text)
    if layout:
        return SourceSpec(
            kind=SourceKind(layout["kind"]),
            place=layout["path"],
            stands_for=_reference(layout["reference"], text),
        )
    if text.startswith("ssh://"):
        from installer_plugin.storage.source.ssh import parse_address  # noqa: PLC0415 - see below

        parse_address(text)
        return SourceSpec(kind=SourceKind.SSH, place=text)
    path = text.removeprefix("containers-storage:")
    spec = _STORE_SPEC.fullmatch(path)
    place = spec["root"] if spec else path
    if not place or (":" in place and not Path(place).exists()):
        raise DataError(f"--store {text}", f"names no store, expected {STORE_FORMS}")
    return SourceSpec(kind=SourceKind.CONTAINERS_STORAGE, place=place)


def _reference(text: str | None, spec: str) -> str | None:
    if text is not None:
        try:
            parse_reference(text)
        except ValueError as error:
            raise DataError(f"--store {spec}", str(error)) from error
    return text


@contextmanager
def open_sources(
    specs: Sequence[SourceSpec],
    default_stores: Sequence[Path],
    searching: Searching,
    runner: Runner,
) -> Iterator[Sources]:
    """Open all sources; local stores are searched together, at the place of the first of them.

    Without *specs* the default stores are opened, where they exist. Raises DataError for a store
    that was named and is none.
    """
    named = [Path(spec.place) for spec in specs if spec.kind is SourceKind.CONTAINERS_STORAGE]
    for path in named:
        _require_store(path)
    paths = tuple(dict.fromkeys(named if specs else default_stores))
    with open_local_stores(paths, searching.registries, named=bool(specs)) as local:
        found: list[ImageSource] = [] if specs else [local]
        for spec in specs:
            if spec.kind is not SourceKind.CONTAINERS_STORAGE:
                found.append(_source(spec, searching, runner))
            elif local not in found:
                found.append(local)
        yield Sources(tuple(found), tuple(path for path in paths if path.is_dir()))


def _source(spec: SourceSpec, searching: Searching, runner: Runner) -> ImageSource:
    # Most images come from local stores, for which none of this has to be loaded.
    if spec.kind is SourceKind.SSH:
        from installer_plugin.storage.source.ssh import SshSource  # noqa: PLC0415

        return SshSource(spec.place, runner)
    from installer_plugin.storage.source.layout_source import LayoutSource  # noqa: PLC0415

    return LayoutSource(spec.kind, Path(spec.place), searching, stands_for=spec.stands_for)


def _require_store(path: Path) -> None:
    if (path / IMAGES_JSON).parent.is_dir():
        return
    driver = other_driver(path)
    if driver:
        message = f"is a store of the driver {driver}, expected one of overlay"
        raise DataError(str(path), message, hint=way_out(path, driver))
    inner = path / "storage"
    nearer = (inner / IMAGES_JSON).parent.is_dir()
    raise DataError(
        str(path),
        "is not a containers-storage (it has no overlay-images), expected a graph root",
        hint=f"did you mean {inner}?" if nearer else "see 'podman info' for the graph root in use",
    )
