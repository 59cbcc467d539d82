"""What was found in an OS image, for those who need not look themselves."""

from __future__ import annotations

from dataclasses import dataclass

from installer_plugin.hosts.image_builder.rewrite import Payload, Wanted
from installer_plugin.model import Finding, ImageId, ResolvedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class OsImageContent:
    """An OS image that passed every check."""

    images: tuple[ResolvedImage, ...]
    """Bound images; none where it declares none."""
    findings: tuple[tuple[str, Finding], ...]
    size: int
    """Bytes of the OS image itself, uncompressed."""
    created: int
    """Seconds since 1970."""
    new_python: bool
    """Whether a stage of ours can run in a build root made of it."""
    id: ImageId | None
    """None where the name that it was asked for by does not say at once which one it is."""

    @property
    def payload(self) -> Payload:
        """The same as a manifest needs it."""
        return Payload(images=tuple(map(Wanted.of, self.images)), created=self.created)
