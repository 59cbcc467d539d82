"""Requests that mean the same wherever a stage is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from installer_plugin.declared import configured
from installer_plugin.model import SourceKind
from installer_plugin.request import IMAGE_PREFIX, Request
from installer_plugin.storage.base import TRANSPORTS
from installer_plugin.storage.source.store_option import parse_source_spec


def with_absolute_paths(request: Request) -> Request:
    """*request* without paths that depend on the working directory; raises ConfigError."""
    with configured():
        stores = tuple(map(_absolute_store, request.stores))
    return replace(
        request,
        source=_absolute_source(request.source),
        stores=stores,
        target=_absolute(request.target),
        lock=_absolute(request.lock),
        scratch=_absolute(request.scratch),
        receipts=tuple(path.absolute() for path in request.receipts),
    )


def _absolute_source(source: str) -> str:
    """A root or an image; what follows the path in an image's name stays where it is."""
    if source.startswith((IMAGE_PREFIX, "docker://")):
        return source
    transport = next((each for each in TRANSPORTS if source.startswith(each)), "")
    return f"{transport}{Path(source.removeprefix(transport)).absolute()}"


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path else None


def _absolute_store(text: str) -> str:
    """A ``--store`` with an absolute path; raises DataError when it is none."""
    spec = parse_source_spec(text)
    if spec.kind is SourceKind.SSH:
        return text
    place = str(Path(spec.place).absolute())
    if spec.kind is SourceKind.CONTAINERS_STORAGE:
        return place
    name = f"{spec.stands_for}=" if spec.stands_for else ""
    return f"{name}{spec.kind}:{place}"
