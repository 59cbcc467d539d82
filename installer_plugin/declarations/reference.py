"""Image references, ``[domain/]path[:tag][@digest]``, and transports that may stand before them.

The grammar is the one of ``distribution/reference``, which podman, skopeo and registries share::

    domain     name components joined by ".", optionally ":" and a port; or an IPv6 address in []
    path       lower-case components joined by "/", in each "." "_" "__" and dashes as separators
    tag        a letter, digit or "_", then up to 127 letters, digits, "_", "." or "-"
    digest     algorithm ":" hex digits

The first component is a domain only when it has a "." or ":" in it or is ``localhost``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_NAME_LENGTH = 255
"""Characters of domain and path together, as containers-storage and registries allow."""
DEFAULT_TAG = "latest"
DEFAULT_REGISTRY = "docker.io"

_DOMAIN_COMPONENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(
    rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
)
_PATH_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]+")
_DIGEST_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PLACEHOLDER = re.compile(
    r"\$\{[^}]*\}?|\$\([^)]*\)?|\$\w*|\{\{.*?\}\}|@@?[A-Za-z_]\w*@@?(?![\w:])|<[^>]*>"
)
"""What shells, systemd, Jinja, configure scripts and manuals write where a value is to stand."""
_TRANSPORTS = frozenset({
    "atomic",
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "sif",
    "tarball",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """An image reference taken apart; made by :func:`parse_reference`."""

    domain: str | None
    """Registry host, with its port; None in a short name."""
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def is_short(self) -> bool:
        """Whether no registry is named: who pulls it has to guess one."""
        return self.domain is None

    @property
    def is_pinned(self) -> bool:
        """Whether a digest fixes the content."""
        return self.digest is not None

    @property
    def repository(self) -> str:
        """Domain and path, without tag and digest."""
        return self.path if self.domain is None else f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{self.repository}{tag}{digest}"

    def normalised(self) -> ImageReference:
        """The form in which podman's stores write the name.

        ``:latest`` when there is neither tag nor digest, no tag beside a digest, ``library/`` on
        Docker's registry. A short name stays short: only its resolution says which registry it is.
        """
        path, domain = self.path, self.domain
        if domain in (DEFAULT_REGISTRY, "index.docker.io"):
            domain = DEFAULT_REGISTRY
            path = path if "/" in path else f"library/{path}"
        tag = None if self.is_pinned else self.tag or DEFAULT_TAG
        return ImageReference(domain=domain, path=path, tag=tag, digest=self.digest)


@lru_cache(maxsize=1024)  # each name is compared with those of all other images
def parse_reference(text: str) -> ImageReference:
    """Take *text* apart; raises ValueError that says what is wrong and at which character."""
    if not text:
        raise ValueError("the reference is empty, expected [registry/]name[:tag][@digest]")
    if _IMAGE_ID.fullmatch(text):
        raise ValueError(f"{text!r} is an image ID, expected a name")
    rest, digest = _split_digest(text)
    name, tag = _split_tag(text, rest)
    if len(name) > MAX_NAME_LENGTH:
        seen = f"the name {name[:20]!r}... has {len(name)} characters"
        raise ValueError(f"{seen}, expected {MAX_NAME_LENGTH} at most")
    domain, path = _split_domain(text, name)
    return ImageReference(domain=domain, path=path, tag=tag, digest=digest)


def placeholder(text: str) -> str | None:
    """The first variable in *text* that nobody has replaced, None when there is none.

    No character that begins one may stand in a reference but for the ``@`` of a digest.
    """
    found = _PLACEHOLDER.search(text)
    return found[0] if found else None


def find_image_id(text: str) -> str | None:
    """The 64 hex digits of an image ID, with or without ``sha256:``; None for anything else."""
    return text.removeprefix("sha256:") if _IMAGE_ID.fullmatch(text) else None


def split_transport(text: str) -> tuple[str | None, str]:
    """``oci:/x`` -> ``("oci", "/x")``; a plain reference -> ``(None, text)``.

    ``docker:24`` is a plain reference, the image *docker*: that transport needs ``//``. For the
    others podman takes ``oci:1`` as the transport, also where an image of that name might be meant.
    """
    scheme = _SCHEME.fullmatch(text)
    if scheme:
        return scheme[1], scheme[2]
    transport, colon, rest = text.partition(":")
    if colon and transport in _TRANSPORTS:
        return transport, rest
    return None, text


def _split_digest(text: str) -> tuple[str, str | None]:
    rest, at, digest = text.partition("@")
    if not at:
        return text, None
    algorithm, _, digits = digest.partition(":")
    expected = _DIGEST_DIGITS.get(algorithm)
    if expected is None:
        raise _wrong(
            text, len(rest) + 1, "not a known digest", "sha256:, sha384: or sha512: and hex"
        )
    if len(digits) != expected or not _HEX.fullmatch(digits):
        wanted = f"{expected} lower-case hex digits"
        raise _wrong(text, len(rest) + 1, f"not a {algorithm} digest", wanted)
    return rest, digest


def _split_tag(text: str, rest: str) -> tuple[str, str | None]:
    """A ``:`` starts the tag only after the last ``/``: before it, it belongs to the port."""
    colon = rest.find(":", rest.rfind("/") + 1)
    if colon < 0:
        return rest, None
    tag = rest[colon + 1 :]
    if not _TAG.fullmatch(tag):
        raise _wrong(text, colon + 1, "not a tag", "1 to 128 letters, digits, '_', '.' and '-'")
    return rest[:colon], tag


def _is_domain(component: str) -> bool:
    return component == "localhost" or "." in component or ":" in component


def _split_domain(text: str, name: str) -> tuple[str | None, str]:
    first, slash, path = name.partition("/")
    if not slash or not _is_domain(first):
        _require_path(text, name, 0)
        return None, name
    if not _DOMAIN.fullmatch(first):
        raise _wrong(text, 0, "not a registry host", "letters, digits, '.' and '-', maybe a port")
    _require_path(text, path, len(first) + 1)
    return first, path


def _require_path(text: str, path: str, at: int) -> None:
    for component in path.split("/"):
        if not _PATH_COMPONENT.fullmatch(component):
            seen = "not lower-case" if component != component.lower() else "not a name component"
            expected = "lower-case letters and digits, '.', '_' or dashes between them"
            raise _wrong(text, at, seen, expected)
        at += len(component) + 1


def _wrong(text: str, at: int, seen: str, expected: str) -> ValueError:
    part = re.split(r"[/@]" if seen.startswith("not a ") else "/", text[at:], maxsplit=1)[0]
    return ValueError(f"{text!r}: {part!r} at character {at + 1} is {seen}, expected {expected}")
