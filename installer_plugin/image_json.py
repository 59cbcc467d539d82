"""The one JSON form of an image, for every document: it has more fields the more is known.

Described in docs/formats.md.
"""

from __future__ import annotations

from installer_plugin.fields import Fields
from installer_plugin.model import (
    BoundImage,
    CopiedImage,
    Layer,
    Location,
    Platform,
    ResolvedImage,
    SourceKind,
    SourceLocation,
    UnitKind,
    VerifiedImage,
    parse_diff_id,
    parse_image_id,
    parse_manifest_digest,
)

Document = dict[str, object]


def bound_json(image: BoundImage) -> Document:
    """A declared image."""
    return {
        "reference": image.reference,
        "names": list(image.names),
        "declaration": {
            "kind": str(image.kind),
            "link": image.location.link,
            "file": image.location.unit,
            "line": image.location.line,
            "names": list(image.names),
            "bootc_name": image.bootc_name,
        },
    }


def resolved_json(image: ResolvedImage) -> Document:
    """An image that was found."""
    return {
        **bound_json(image.bound),
        "names": list(image.names),
        "image_id": image.image_id,
        "digest": image.digest,
        "manifest_digests": list(image.manifest_digests),
        "layers": [
            {"diff_id": layer.diff_id, "size": layer.size, "entries": layer.entries}
            for layer in image.layers
        ],
        "size": image.size,
        "compressed": image.compressed,
        "platform": _platform_json(image.platform),
        "found_in": {
            "kind": str(image.source.kind),
            "store": image.source.store,
            "item": image.source.item,
        },
    }


def copied_json(image: CopiedImage) -> Document:
    """An image that was copied."""
    return {
        **resolved_json(image.resolved),
        "engine": image.engine,
        "already_there": image.already_there,
        "refusal": image.refusal,
    }


def verified_json(image: VerifiedImage) -> Document:
    """An image that was proven, by whatever demanded it."""
    return {
        "reference": image.reference,
        "names": list(image.names),
        "image_id": image.image_id,
        "digest": image.digest,
        "manifest_digests": list(image.manifest_digests),
        "layers": [{"diff_id": diff_id} for diff_id in image.diff_ids],
        "size": image.size,
        "where": image.where,
        "verified": list(image.checks),
    }


def proven_json(copied: CopiedImage, verified: VerifiedImage) -> Document:
    """An image that was copied and proven."""
    return {
        **copied_json(copied),
        "names": list(verified.names),
        "where": verified.where,
        "verified": list(verified.checks),
    }


def parse_bound(data: Fields) -> BoundImage:
    """The image that :func:`bound_json` wrote, without its findings; raises DataError."""
    place = data.inner("declaration")
    return BoundImage(
        kind=place.one_of("kind", UnitKind),
        location=Location(
            link=place.text("link"), unit=place.text("file"), line=place.optional("line", int)
        ),
        reference=data.text("reference"),
        names=place.texts("names"),
        bootc_name=place.optional("bootc_name", str),
    )


def parse_resolved(data: Fields) -> ResolvedImage:
    """The image that :func:`resolved_json` wrote; raises DataError."""
    source = data.inner("found_in")
    return ResolvedImage(
        bound=parse_bound(data),
        names=data.texts("names"),
        source=SourceLocation(
            kind=source.one_of("kind", SourceKind),
            store=source.text("store"),
            item=source.text("item"),
        ),
        image_id=data.parsed("image_id", parse_image_id),
        digest=data.parsed("digest", parse_manifest_digest),
        manifest_digests=data.all_parsed("manifest_digests", parse_manifest_digest),
        layers=tuple(
            Layer(
                diff_id=layer.parsed("diff_id", parse_diff_id),
                size=layer.number("size"),
                entries=layer.number("entries"),
            )
            for layer in data.objects("layers")
        ),
        compressed=data.flag("compressed"),
        platform=_parse_platform(data),
    )


def _platform_json(platform: Platform | None) -> Document | None:
    if platform is None:
        return None
    return {
        "os": platform.os,
        "architecture": platform.architecture,
        "variant": platform.variant,
    }


def _parse_platform(data: Fields) -> Platform | None:
    if data.optional("platform", dict) is None:
        return None
    platform = data.inner("platform")
    return Platform(
        os=platform.text("os"),
        architecture=platform.text("architecture"),
        variant=platform.text("variant"),
    )


def parse_copied(data: Fields) -> CopiedImage:
    """The image that :func:`copied_json` wrote; raises DataError."""
    return CopiedImage(
        resolved=parse_resolved(data),
        engine=data.text("engine"),
        already_there=data.flag("already_there"),
        refusal=data.text("refusal"),
    )


def parse_verified(data: Fields) -> VerifiedImage:
    """The image that :func:`verified_json` wrote; raises DataError."""
    return VerifiedImage(
        reference=data.text("reference"),
        names=data.texts("names"),
        where=data.text("where"),
        image_id=data.parsed("image_id", parse_image_id),
        digest=data.parsed("digest", parse_manifest_digest),
        manifest_digests=data.all_parsed("manifest_digests", parse_manifest_digest),
        diff_ids=tuple(layer.parsed("diff_id", parse_diff_id) for layer in data.objects("layers")),
        size=data.number("size"),
        checks=data.texts("verified"),
    )
