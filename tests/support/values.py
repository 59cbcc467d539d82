"""Values of the model for tests that need some, with as little to say as possible."""

import hashlib

from installer_plugin.model import (
    BoundImage,
    CopiedImage,
    DiffId,
    ImageId,
    Layer,
    Location,
    ManifestDigest,
    Platform,
    ResolvedImage,
    SourceKind,
    SourceLocation,
    UnitKind,
    VerifiedImage,
)

AMD64 = Platform(os="linux", architecture="amd64")


def hexa(word: str) -> str:
    """64 hex digits that stand for a word."""
    return hashlib.sha256(word.encode()).hexdigest()


def digest(word: str) -> ManifestDigest:
    """A manifest digest that stands for a word."""
    return ManifestDigest(f"sha256:{hexa(word)}")


def diff_id(word: str) -> DiffId:
    """A diff ID that stands for a word."""
    return DiffId(f"sha256:{hexa(word)}")


def bound(reference: str, *, names: tuple[str, ...] = (), line: int | None = 2) -> BoundImage:
    """An image bound by a .container file."""
    unit = "usr/share/containers/systemd/app.container"
    location = Location(link="usr/lib/bootc/bound-images.d/app.container", unit=unit, line=line)
    return BoundImage(
        kind=UnitKind.CONTAINER,
        location=location,
        reference=reference,
        names=names or (reference,),
    )


def resolved(
    reference: str,
    *,
    layers: tuple[Layer, ...] | None = None,
    kind: SourceKind = SourceKind.CONTAINERS_STORAGE,
    manifests: tuple[str, ...] = ("manifest",),
    compressed: bool = False,
) -> ResolvedImage:
    """A resolved image; its ID stands for its reference."""
    image_id = ImageId(hexa(reference))
    usual = (
        Layer(diff_id=diff_id("base"), size=3 << 20, entries=10),
        Layer(diff_id=diff_id(reference), size=1 << 20, entries=2),
    )
    return ResolvedImage(
        bound=bound(reference),
        names=(reference,),
        source=SourceLocation(kind=kind, store="/store", item=image_id),
        image_id=image_id,
        digest=digest(manifests[0]),
        manifest_digests=tuple(map(digest, manifests)),
        layers=usual if layers is None else layers,
        compressed=compressed,
    )


def copied(image: ResolvedImage, *, already_there: bool = False) -> CopiedImage:
    """A copied image."""
    return CopiedImage(resolved=image, engine="skopeo", already_there=already_there)


def verified(image: ResolvedImage) -> VerifiedImage:
    """A verified image."""
    return VerifiedImage(
        reference=image.bound.reference,
        names=image.names,
        where=str(image.bound.location),
        image_id=image.image_id,
        digest=image.digest,
        manifest_digests=image.manifest_digests,
        diff_ids=tuple(layer.diff_id for layer in image.layers),
        size=image.size,
        checks=("store", "names", "config"),
    )
