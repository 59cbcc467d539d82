"""Receipts: what was put on a target and proven there (pure; the record stage writes them)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from installer_plugin.errors import DataError
from installer_plugin.lockfile import load_entries
from installer_plugin.model import (
    CopiedImage,
    Expected,
    VerifiedImage,
    parse_image_id,
    parse_manifest_digest,
)

SCHEMA = "bootc-bound-images/receipt/1"
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Everything a receipt says."""

    source: str
    """The OS image or source root."""
    created: str
    """ISO 8601, UTC."""
    tools: Mapping[str, str]
    """Versions of the programs that took part."""
    images: Sequence[tuple[CopiedImage, VerifiedImage]]


def dump_receipt(receipt: Receipt) -> str:
    """The receipt's text: sorted keys, so that the same facts give the same bytes."""
    data = {
        "schema": SCHEMA,
        "source": receipt.source,
        "created": receipt.created,
        "tools": dict(receipt.tools),
        "images": [_entry(copied, verified) for copied, verified in receipt.images],
    }
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def _entry(copied: CopiedImage, verified: VerifiedImage) -> Mapping[str, object]:
    bound = copied.resolved.bound
    return {
        "reference": bound.reference,
        "names": list(verified.names),
        "declaration": {
            "link": bound.location.link,
            "file": bound.location.unit,
            "line": bound.location.line,
        },
        "source": str(copied.resolved.source),
        "engine": copied.engine,
        "image_id": verified.image_id,
        "digest": copied.resolved.digest,
        "manifest_digests": list(copied.resolved.manifest_digests),
        "diff_ids": list(verified.diff_ids),
        "size": verified.size,
        "verified": list(verified.checks),
    }


def parse_receipt(content: bytes, where: str) -> tuple[Expected, ...]:
    """What a receipt demands of a target; raises DataError that names *where* and the entry."""
    entries = load_entries(content, where, SCHEMA)
    return tuple(_expected(entry, f"{where}: images[{i}]") for i, entry in enumerate(entries))


def _expected(entry: Mapping[str, object], where: str) -> Expected:
    reference = entry.get("reference")
    if not isinstance(reference, str) or not reference:
        raise DataError(where, f"reference is {reference!r}, expected an image reference")
    try:
        return Expected(
            reference=reference,
            names=_array(entry, "names", where, _text),
            image_id=parse_image_id(entry.get("image_id")),
            manifest_digests=_array(entry, "manifest_digests", where, parse_manifest_digest),
            where="receipt",
        )
    except ValueError as error:
        raise DataError(where, str(error)) from error


def _array(
    entry: Mapping[str, object], key: str, where: str, parse: Callable[[object], Parsed]
) -> tuple[Parsed, ...]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise DataError(where, f"{key} is {value!r}, expected an array")
    return tuple(map(parse, value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no name")  # noqa: TRY004 - a wrong value in a file
    return value
