"""Receipts: what was put on a target and proven there (pure; the record stage writes them)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from installer_plugin.errors import DataError
from installer_plugin.fields import Fields, parse_document
from installer_plugin.image_json import Document, proven_json
from installer_plugin.model import (
    CopiedImage,
    Expected,
    VerifiedImage,
    parse_image_id,
    parse_manifest_digest,
)

SCHEMA = "bootc-bound-images/receipt/2"
_OF_THE_MACHINE = frozenset(("found_in", "refusal"))
"""Fields that may name places of the machine that copied."""
OLDER = ("bootc-bound-images/receipt/1",)
"""Forms that targets may still have; what is demanded stands in them by the same names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Everything a receipt says."""

    source: str
    """The OS image or source root."""
    with_places: bool = True
    """Whether it says in which stores the images were found: paths of the machine that copied."""
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
        "images": entries_of(receipt),
    }
    return _text(data)


def _text(data: Mapping[str, object]) -> str:
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def entries_of(receipt: Receipt) -> list[Document]:
    """What a receipt says of its images."""
    return [_entry(*pair, receipt) for pair in receipt.images]


def with_checks(content: bytes, where: str, images: Sequence[VerifiedImage]) -> str:
    """A receipt's text again, with the checks that its images have passed since.

    Raises DataError for what is not a receipt, and for one that lacks one of *images*.
    """
    listed = {each.reference for each in parse_receipt(content, where)}
    for image in images:
        if image.reference not in listed:
            raise DataError(where, f"does not list {image.reference}, expected what was proven")
    passed = {image.reference: list(image.checks) for image in images}
    data = json.loads(content)
    for entry in data["images"]:
        entry["verified"] = passed.get(entry["reference"], entry["verified"])
    return _text(data)


def _entry(copied: CopiedImage, verified: VerifiedImage, receipt: Receipt) -> Document:
    entry = proven_json(copied, verified)
    if not receipt.with_places:
        entry = {name: value for name, value in entry.items() if name not in _OF_THE_MACHINE}
    return entry


def parse_receipt(content: bytes, where: str) -> tuple[Expected, ...]:
    """What a receipt demands of a target; raises DataError that names *where* and the entry."""
    document = parse_document(content, where, (SCHEMA, *OLDER))
    return tuple(map(_expected, document.objects("images")))


def _expected(entry: Fields) -> Expected:
    return Expected(
        reference=entry.reference(),
        names=entry.texts("names"),
        image_id=entry.parsed("image_id", parse_image_id),
        manifest_digests=entry.all_parsed("manifest_digests", parse_manifest_digest),
        where="receipt",
    )
