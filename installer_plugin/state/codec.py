"""Requests and images as JSON and back, complete: what one stage knows, for the next (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from installer_plugin.model import (
    BoundImage,
    CopiedImage,
    Layer,
    Location,
    ResolvedImage,
    SourceKind,
    SourceLocation,
    UnitKind,
    VerifiedImage,
    parse_diff_id,
    parse_image_id,
    parse_manifest_digest,
)
from installer_plugin.request import Request
from installer_plugin.storage.engine.select import EngineChoice
from installer_plugin.storage.store.target_store import Backend

Json = Mapping[str, object]
Kind = TypeVar("Kind")


def request_json(request: Request) -> Json:
    """*request* as JSON; its fields by their names."""
    return {
        "source": request.source,
        "stores": list(request.stores),
        "target": _text(request.target),
        "backend": _text(request.backend),
        "engine": str(request.engine),
        "lock": _text(request.lock),
        "scratch": _text(request.scratch),
        "receipts": [str(path) for path in request.receipts],
        "require_bound_images": request.require_bound_images,
        "dry_run": request.dry_run,
        "jobs": request.jobs,
        "fetched": _text(request.fetched),
    }


def parse_request(data: Json) -> Request:
    """The request that :func:`request_json` wrote; raises ValueError."""
    backend = _optional(data, "backend", str)
    return Request(
        source=_field(data, "source", str),
        stores=tuple(_strings(data, "stores")),
        target=_path(data, "target"),
        backend=Backend(backend) if backend else None,
        engine=EngineChoice(_field(data, "engine", str)),
        lock=_path(data, "lock"),
        scratch=_path(data, "scratch"),
        receipts=tuple(map(Path, _strings(data, "receipts"))),
        require_bound_images=_field(data, "require_bound_images", bool),
        dry_run=_field(data, "dry_run", bool),
        jobs=_optional(data, "jobs", int),
        fetched=_path(data, "fetched"),
    )


def bound_json(image: BoundImage) -> Json:
    """*image* without its findings, which are for people."""
    return {
        "reference": image.reference,
        "kind": str(image.kind),
        "names": list(image.names),
        "declaration": {
            "link": image.location.link,
            "file": image.location.unit,
            "line": image.location.line,
        },
        "bootc_name": image.bootc_name,
    }


def parse_bound(data: Json) -> BoundImage:
    """The image that :func:`bound_json` wrote; raises ValueError."""
    place = _object(data, "declaration")
    return BoundImage(
        kind=UnitKind(_field(data, "kind", str)),
        location=Location(
            link=_field(place, "link", str),
            unit=_field(place, "file", str),
            line=_optional(place, "line", int),
        ),
        reference=_field(data, "reference", str),
        names=tuple(_strings(data, "names")),
        bootc_name=_optional(data, "bootc_name", str),
    )


def resolved_json(image: ResolvedImage) -> Json:
    """*image* as JSON."""
    return {
        "bound": bound_json(image.bound),
        "reference": image.bound.reference,
        "names": list(image.names),
        "found_in": {
            "kind": str(image.source.kind),
            "store": image.source.store,
            "item": image.source.item,
        },
        "image_id": image.image_id,
        "digest": image.digest,
        "manifest_digests": list(image.manifest_digests),
        "layers": [
            {"diff_id": layer.diff_id, "size": layer.size, "entries": layer.entries}
            for layer in image.layers
        ],
        "size": image.size,
        "compressed": image.compressed,
    }


def parse_resolved(data: Json) -> ResolvedImage:
    """The image that :func:`resolved_json` wrote; raises ValueError."""
    source = _object(data, "found_in")
    return ResolvedImage(
        bound=parse_bound(_object(data, "bound")),
        names=tuple(_strings(data, "names")),
        source=SourceLocation(
            kind=SourceKind(_field(source, "kind", str)),
            store=_field(source, "store", str),
            item=_field(source, "item", str),
        ),
        image_id=parse_image_id(data.get("image_id")),
        digest=parse_manifest_digest(data.get("digest")),
        manifest_digests=tuple(map(parse_manifest_digest, _strings(data, "manifest_digests"))),
        layers=tuple(map(_parse_layer, objects(data, "layers"))),
        compressed=_field(data, "compressed", bool),
    )


def copied_json(image: CopiedImage) -> Json:
    """*image* as JSON."""
    return {
        **resolved_json(image.resolved),
        "engine": image.engine,
        "already_there": image.already_there,
        "refusal": image.refusal,
    }


def parse_copied(data: Json) -> CopiedImage:
    """The image that :func:`copied_json` wrote; raises ValueError."""
    return CopiedImage(
        resolved=parse_resolved(data),
        engine=_field(data, "engine", str),
        already_there=_field(data, "already_there", bool),
        refusal=_field(data, "refusal", str),
    )


def parse_verified(data: Json) -> VerifiedImage:
    """The image that ``report.verified_json`` wrote; raises ValueError."""
    return VerifiedImage(
        reference=_field(data, "reference", str),
        names=tuple(_strings(data, "names")),
        where=_field(data, "where", str),
        image_id=parse_image_id(data.get("image_id")),
        digest=parse_manifest_digest(data.get("digest")),
        manifest_digests=tuple(map(parse_manifest_digest, _strings(data, "manifest_digests"))),
        diff_ids=tuple(map(parse_diff_id, _strings(data, "diff_ids"))),
        size=_field(data, "size", int),
        checks=tuple(_strings(data, "verified")),
    )


def objects(data: Json, name: str) -> list[Json]:
    """The array of objects *name* of *data*; raises ValueError."""
    return _array(data, name, dict)


def _parse_layer(data: Json) -> Layer:
    return Layer(
        diff_id=parse_diff_id(data.get("diff_id")),
        size=_field(data, "size", int),
        entries=_field(data, "entries", int),
    )


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _path(data: Json, name: str) -> Path | None:
    text = _optional(data, name, str)
    return None if text is None else Path(text)


def _object(data: Json, name: str) -> Json:
    return cast("Json", _field(data, name, dict))


def _strings(data: Json, name: str) -> list[str]:
    return _array(data, name, str)


def _array(data: Json, name: str, kind: Callable[..., Kind]) -> list[Kind]:
    value = _field(data, name, list)
    if not all(type(each) is kind for each in value):
        raise ValueError(f"{name} has an entry that is no {_called(kind)}")
    return cast("list[Kind]", value)


def _optional(data: Json, name: str, kind: type[Kind]) -> Kind | None:
    return None if data.get(name) is None else _field(data, name, kind)


def _field(data: Json, name: str, kind: type[Kind]) -> Kind:
    value = data.get(name)
    if type(value) is not kind:  # a bool is no number here
        raise ValueError(f"{name} is {value!r}, expected {_called(kind)}")
    return value


def _called(kind: Callable[..., object]) -> str:
    names: Mapping[object, str] = {
        str: "a string", int: "a number", bool: "true or false", list: "an array", dict: "an object"
    }  # fmt: skip
    return names[kind]
