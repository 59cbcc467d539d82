"""Which platforms a machine runs, and which instance of a manifest list is for it (pure).

The order of variants is that of c/image (``internal/pkg/platform``, WantedPlatforms), which knows the
ARM ones; the levels of x86-64 are those of the System V psABI.
"""

from __future__ import annotations

from collections.abc import Sequence

from installer_plugin.model import Platform
from installer_plugin.storage.store.manifests import Descriptor

VARIANTS = {
    "arm": ("v8", "v7", "v6", "v5"),
    "arm64": ("v9", "v8"),
    "amd64": ("v4", "v3", "v2", "v1"),
}
"""Variants of an architecture, each of which runs all that follow it."""
BASELINE = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
"""What a machine can be expected to run when nothing says which variant it is."""


def variants_run_by(machine: Platform) -> tuple[str, ...]:
    """Variants of its architecture that *machine* runs, the best one first; "" is always among them."""
    known = VARIANTS.get(machine.architecture, ())
    own = machine.variant or BASELINE.get(machine.architecture, "")
    below = known[known.index(own) :] if own in known else (own,)
    return tuple(dict.fromkeys((*below, ""))) if machine.variant else ("", *filter(None, below))


def runs(machine: Platform, image: Platform) -> bool:
    """Whether *machine* runs *image*; what an image does not say does not count against it."""
    return (
        image.os in ("", machine.os)
        and image.architecture in ("", machine.architecture)
        and (not image.variant or image.variant in variants_run_by(machine))
    )


def choose_instance(instances: Sequence[Descriptor], machine: Platform) -> Descriptor | None:
    """The instance that *machine* runs best; one of no platform is the last resort, as for c/image."""
    for variant in variants_run_by(machine):
        wanted = Platform(os=machine.os, architecture=machine.architecture, variant=variant)
        for instance in instances:
            if instance.platform == wanted:
                return instance
    return next((instance for instance in instances if instance.platform is None), None)
