"""Images on another host, reached by ssh and found with its podman."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from installer_plugin.declarations.reference import parse_reference
from installer_plugin.errors import DataError
from installer_plugin.model import (
    Layer,
    Platform,
    SourceKind,
    SourceLocation,
    parse_diff_id,
    parse_image_id,
    parse_manifest_digest,
)
from installer_plugin.process.foreign_texts import podman_lacks_image
from installer_plugin.process.runner import Command, CommandError, Runner
from installer_plugin.storage.base import Found

_ADDRESS = re.compile(
    r"ssh://(?P<login>(?:[A-Za-z0-9_.][^:@/\s]*@)?(?:[A-Za-z0-9_.][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]))"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?/?"
)
_NO_BRACKETS = str.maketrans("", "", "[]")


@dataclass(frozen=True, slots=True)
class Address:
    """``ssh://[user@]host[:port]``, taken apart."""

    login: str
    """``[user@]host``, an IPv6 address in brackets."""
    port: int | None


def parse_address(text: str) -> Address:
    """Take *text* apart; raises DataError, which does not repeat what may be a password."""
    found = _ADDRESS.fullmatch(text)
    if not found:
        shown = re.sub(r":[^@/]*@", ":...@", text)
        raise DataError(shown, "is not an address, expected ssh://[USER@]HOST[:PORT]")
    return Address(found["login"], int(found["port"]) if found["port"] else None)


def inspect_argv(address: str, reference: str) -> tuple[str, ...]:
    """Ask the podman of the host at *address* (``ssh://[user@]host[:port]``) about an image."""
    return (*ssh_argv(address), f"podman image inspect {shlex.quote(reference)}")


def ssh_argv(address: str) -> tuple[str, ...]:
    """Ssh without questions; the remote command is one argument, read by the remote shell."""
    host = parse_address(address)
    port = ("-p", str(host.port)) if host.port else ()
    return ("ssh", "-o", "BatchMode=yes", *port, "--", host.login.translate(_NO_BRACKETS))


class SshSource:
    """The images of another host's podman."""

    def __init__(self, address: str, runner: Runner) -> None:
        self._address = address
        self._runner = runner

    @property
    def label(self) -> str:
        """``ssh://...``."""
        return self._address

    def remedy(self, reference: str) -> str:
        """See :class:`~installer_plugin.storage.base.ImageSource`."""
        return f"podman pull {reference}, on {self._address}"

    def find(self, reference: str) -> Found | None:
        """See :class:`~installer_plugin.storage.base.ImageSource`."""
        command = Command(
            argv=inspect_argv(self._address, reference),
            purpose=f"look for {reference} on {self._address}",
        )
        try:
            output = self._runner.run(command).stdout
        except CommandError as error:
            if podman_lacks_image(error.stderr):
                return None
            raise
        if parse_reference(reference).is_pinned:
            raise DataError(
                reference,
                f"is pinned by digest, and 'podman image scp' from {self._address} keeps no digest",
                hint="copy it there with 'skopeo copy' into an oci-archive: and use that as a store",
            )
        return parse_inspected(output, self._address, reference)


def parse_inspected(output: bytes, address: str, reference: str) -> Found:
    """The output of ``podman image inspect`` as an image on *address*; raises DataError."""
    where = f"podman image inspect {reference} on {address}"
    try:
        entry = json.loads(output)[0]
        diff_ids = [parse_diff_id(layer) for layer in entry["RootFS"]["Layers"]]
        return Found(
            location=SourceLocation(kind=SourceKind.SSH, store=address, item=reference),
            image_id=parse_image_id(entry["Id"]),
            digest=parse_manifest_digest(entry["Digest"]),
            manifest_digests=(),
            layers=tuple(
                Layer(diff_id=diff_id, size=_share(entry, len(diff_ids))) for diff_id in diff_ids
            ),
            platform=Platform(
                os=str(entry.get("Os", "")), architecture=str(entry.get("Architecture", ""))
            ),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(where, f"gave what is not an image: {error}") from error


def _share(entry: Mapping[str, object], count: int) -> int:
    """Podman tells the size of all layers only: each gets an equal share, which sums up right."""
    size = entry["Size"]
    return size // count if isinstance(size, int) else 0
