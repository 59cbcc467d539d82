"""A request as JSON and back, complete: what one stage was asked, for the next (pure)."""

from __future__ import annotations

from pathlib import Path

from installer_plugin.fields import Fields, Json
from installer_plugin.request import Request
from installer_plugin.storage.base import Backend, EngineChoice


def request_json(request: Request) -> Json:
    """*request* as JSON; its fields by their names."""
    return {
        "source": request.source,
        "stores": list(request.stores),
        "target": _text(request.target),
        "backend": _text(request.backend),
        "engine": str(request.engine),
        "allow_other_architecture": request.allow_other_architecture,
        "no_space_check": request.no_space_check,
        "lock": _text(request.lock),
        "scratch": _text(request.scratch),
        "receipts": [str(path) for path in request.receipts],
        "receipt_source": request.receipt_source,
        "require_bound_images": request.require_bound_images,
        "dry_run": request.dry_run,
        "jobs": request.jobs,
        "fetched": _text(request.fetched),
    }


def parse_request(data: Fields) -> Request:
    """The request that :func:`request_json` wrote; raises DataError."""
    backend = data.optional("backend", str)
    return Request(
        source=data.text("source"),
        stores=data.texts("stores"),
        target=_path(data, "target"),
        backend=data.one_of("backend", Backend) if backend else None,
        engine=data.one_of("engine", EngineChoice),
        allow_other_architecture=data.flag("allow_other_architecture"),
        no_space_check=data.flag("no_space_check"),
        lock=_path(data, "lock"),
        scratch=_path(data, "scratch"),
        receipts=tuple(map(Path, data.texts("receipts"))),
        receipt_source=data.text("receipt_source"),
        require_bound_images=data.flag("require_bound_images"),
        dry_run=data.flag("dry_run"),
        jobs=data.optional("jobs", int),
        fetched=_path(data, "fetched"),
    )


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _path(data: Fields, name: str) -> Path | None:
    text = data.optional(name, str)
    return None if text is None else Path(text)
