"""Names under which a store must answer, and declarations that want one name for two images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from installer_plugin.declarations.declaration import Declaration, stored_name, well_formed
from installer_plugin.errors import Problem

Claims = Mapping[str, set[str]]
"""Images (by stored name) that want to be found under a name."""


def _own_names(declaration: Declaration) -> tuple[str, ...]:
    """Names that the declaration itself gives its image."""
    tag = () if declaration.image_tag is None else (declaration.image_tag,)
    return (declaration.reference, *tag)


def claimed_names(declarations: Sequence[Declaration]) -> Claims:
    """Names that the declarations give their images."""
    claims: defaultdict[str, set[str]] = defaultdict(set)
    for declaration in declarations:
        for name in _own_names(declaration):
            claims[stored_name(name)].add(stored_name(declaration.reference))
    return claims


def disputed(declarations: Sequence[Declaration], claims: Claims) -> list[Problem]:
    """Names that two images want: a store can give a name to one image alone."""
    return [
        Problem(
            subject=declaration.reference,
            where=str(declaration.location),
            message=f"its ImageTag={declaration.image_tag} is also the name of "
            + ", ".join(sorted(claims[stored_name(declaration.image_tag)] - {own})),
            hint="give each image a name of its own",
        )
        for declaration in declarations
        for own in (stored_name(declaration.reference),)
        if declaration.image_tag is not None and claims[stored_name(declaration.image_tag)] - {own}
    ]


def bootc_claims(declarations: Sequence[Declaration], claims: Claims) -> Claims:
    """Like *claims*, with the names that bootc reads."""
    wanted = defaultdict(set, {name: set(images) for name, images in claims.items()})
    for declaration in declarations:
        name = declaration.bootc.value
        if name is not None and well_formed(name):
            wanted[stored_name(name)].add(stored_name(declaration.reference))
    return wanted


def store_names(declaration: Declaration, wanted: Claims) -> tuple[str, ...]:
    """Own names, and bootc's where no other image is meant by it: it may be another's true name."""
    names = list(_own_names(declaration))
    name = declaration.bootc.value
    if name is not None and well_formed(name) and len(wanted[stored_name(name)]) == 1:
        names.append(name)
    return tuple(dict.fromkeys(names))
