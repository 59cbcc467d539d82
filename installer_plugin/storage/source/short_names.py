"""Which full names a reference can mean in a local store, as podman tries them (pure).

Follows c/image pkg/shortnames (ResolveLocally) and common/libimage (LookupImage): an alias, then
``localhost``, then the unqualified-search registries, then Docker Hub.
"""

from __future__ import annotations

from installer_plugin.declarations.reference import (
    DEFAULT_REGISTRY,
    ImageReference,
    parse_reference,
)
from installer_plugin.storage.source.containers_conf import RegistriesConf

LOCALHOST = "localhost"


def candidates(reference: ImageReference, registries: RegistriesConf) -> tuple[str, ...]:
    """Names to look for, in order; every one is complete (domain, and tag or digest)."""
    if not reference.is_short:
        return (str(reference.normalised()),)
    named: list[ImageReference] = []
    alias = registries.aliases.get(reference.repository)
    if alias:
        named.append(_with_version_of(parse_reference(alias), reference))
    registry_names = (LOCALHOST, *registries.search, DEFAULT_REGISTRY)
    named += [parse_reference(f"{registry}/{reference}") for registry in registry_names]
    return tuple(dict.fromkeys(str(name.normalised()) for name in named))


def same_short_name(reference: ImageReference, stored: str) -> bool:
    """Whether the stored name is *reference* with any registry and namespace before it.

    podman's last resort for an unpinned short name (libimage, lookupImageInDigestsAndRepoTags).
    """
    try:
        name = parse_reference(stored)
    except ValueError:
        return False
    wanted = reference.normalised()
    return name.tag == wanted.tag and f"/{name.repository}".endswith(f"/{wanted.path}")


def _with_version_of(alias: ImageReference, reference: ImageReference) -> ImageReference:
    version = str(reference).removeprefix(reference.repository)
    return parse_reference(alias.repository + version)
