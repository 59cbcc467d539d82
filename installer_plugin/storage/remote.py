"""Images on another host, reached by ssh: found with its podman, fetched with ``podman image scp``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from installer_plugin.errors import DataError
from installer_plugin.model import (
    Layer,
    ResolvedImage,
    SourceKind,
    SourceLocation,
    parse_diff_id,
    parse_image_id,
    parse_manifest_digest,
)
from installer_plugin.process import Command, CommandError, Runner, private_mounts_argv
from installer_plugin.reference import parse_reference
from installer_plugin.storage.base import Found
from installer_plugin.storage.podman import push_argv
from installer_plugin.storage.skopeo import target_image

_ABSENT = ("no such image", "image not known", "unable to find")


def inspect_argv(address: str, reference: str) -> tuple[str, ...]:
    """Ask the podman of the host at *address* (``ssh://[user@]host[:port]``) about an image."""
    return (*_ssh_argv(address), f"podman image inspect {shlex.quote(reference)}")


def _ssh_argv(address: str) -> tuple[str, ...]:
    """Ssh without questions; the remote command is one argument, read by the remote shell."""
    parts = urlsplit(address)
    host = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
    port = ("-p", str(parts.port)) if parts.port else ()
    return ("ssh", "-o", "BatchMode=yes", *port, "--", host)


def scp_argv(options: Sequence[str], address: str, reference: str) -> tuple[str, ...]:
    """Fetch *reference* from *address* into the store that the global *options* name."""
    host = address.removeprefix("ssh://").rstrip("/")
    return private_mounts_argv(
        ("podman", *options, "image", "scp", "--quiet", f"{host}::{reference}")
    )


class SshSource:
    """The images of another host's podman."""

    def __init__(self, address: str, runner: Runner) -> None:
        self._address = address
        self._runner = runner

    @property
    def label(self) -> str:
        """``ssh://...``."""
        return self._address

    def find(self, reference: str) -> Found | None:
        """See :class:`~installer_plugin.storage.base.ImageSource`."""
        command = Command(
            argv=inspect_argv(self._address, reference),
            purpose=f"look for {reference} on {self._address}",
        )
        try:
            output = self._runner.run(command).stdout
        except CommandError as error:
            if any(words in error.stderr for words in _ABSENT):
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
        )
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(where, f"gave what is no image: {error}") from error


def _share(entry: Mapping[str, object], count: int) -> int:
    """Podman tells the size of all layers only: each gets an equal share, which sums up right."""
    size = entry["Size"]
    return size // count if isinstance(size, int) else 0


class ScpEngine:
    """``podman image scp`` into a throw-away store, then pushed from there.

    podman never opens the target itself: it would leave a database with our paths in it.
    """

    name = "podman-scp"

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """See :class:`~installer_plugin.storage.base.Engine`."""
        reference = image.bound.reference
        options = ("--root", str(scratch / "fetched"), "--runroot", str(scratch / "run-fetched"))
        env = {"TMPDIR": str(scratch)}
        fetch = scp_argv(options, image.source.store, reference)
        self._runner.run(Command(argv=fetch, purpose=f"fetch {reference}", env=env))
        target = target_image(image.image_id, graph_root, scratch)
        push = push_argv(options, image.image_id, target)
        self._runner.run(Command(argv=push, purpose=f"copy {reference}", env=env))
