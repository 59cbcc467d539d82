"""Images on another host, reached by ssh: found with its podman, fetched with ``podman image scp``.

``podman image scp`` is not ``ssh``: before podman 5 it wants the port in every address, it logs in
through an agent alone (``--identity`` and ``IdentityFile`` go unused, podman#17309) and knows nothing
of ``ssh_config``. A host that ``ssh`` reached a moment ago may therefore turn it away, so that what it
does underneath (``podman image save`` there, load here) is done with ``ssh`` itself when it fails.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.declarations.reference import parse_reference
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
from installer_plugin.process.runner import Command, CommandError, Runner
from installer_plugin.storage.base import Found
from installer_plugin.storage.podman import podman_argv, push_argv
from installer_plugin.storage.skopeo import copy_argv, target_image
from installer_plugin.storage.toolengine import ToolEngine

_ABSENT = ("no such image", "image not known", "unable to find")
SSH_PORT = 22
_ADDRESS = re.compile(
    r"ssh://(?P<login>(?:[A-Za-z0-9_.][^:@/\s]*@)?(?:[A-Za-z0-9_.][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]))"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?/?"
)
_NO_BRACKETS = str.maketrans("", "", "[]")
_TO_FILE = 'file=$1; shift; exec "$@" >"$file"'
"""An archive is larger than what we want to hold in memory."""


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
        raise DataError(shown, "is no address, expected ssh://[USER@]HOST[:PORT]")
    return Address(found["login"], int(found["port"]) if found["port"] else None)


def inspect_argv(address: str, reference: str) -> tuple[str, ...]:
    """Ask the podman of the host at *address* (``ssh://[user@]host[:port]``) about an image."""
    return (*_ssh_argv(address), f"podman image inspect {shlex.quote(reference)}")


def save_argv(address: str, reference: str, archive: Path) -> tuple[str, ...]:
    """Fetch *reference* from *address* into the local file *archive*, an ``oci-archive:``."""
    save = f"podman image save --quiet --format oci-archive {shlex.quote(reference)}"
    return ("sh", "-c", _TO_FILE, "ssh", str(archive), *_ssh_argv(address), save)


def _ssh_argv(address: str) -> tuple[str, ...]:
    """Ssh without questions; the remote command is one argument, read by the remote shell."""
    host = parse_address(address)
    port = ("-p", str(host.port)) if host.port else ()
    return ("ssh", "-o", "BatchMode=yes", *port, "--", host.login.translate(_NO_BRACKETS))


def scp_argv(options: Sequence[str], address: str, reference: str) -> tuple[str, ...]:
    """Fetch *reference* from *address* into the store that the global *options* name."""
    host = parse_address(address)
    image = f"{host.login}:{host.port or SSH_PORT}::{reference}"
    return podman_argv((*options, "image", "scp", "--quiet", image))


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


class ScpEngine(ToolEngine):
    """``podman image scp`` into a throw-away store, then pushed from there.

    podman never opens the target itself: it would leave a database with our paths in it.
    """

    name = "podman-scp"
    tools = ("podman", "skopeo", "ssh", "unshare", "setpriv")

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """See :class:`~installer_plugin.storage.toolengine.ToolEngine`."""
        options = ("--root", str(scratch / "fetched"))
        target = target_image(image.image_id, graph_root, scratch)
        try:
            self._run(scp_argv(options, image.source.store, image.source.item), image, scratch)
        except CommandError as refused:
            archive = scratch / "fetched.tar"
            self._save(image, archive, scratch, refused)
            self._run(copy_argv(f"oci-archive:{archive}", target, scratch), image, scratch)
        else:
            self._run(push_argv(options, image.image_id, target), image, scratch)

    def _save(
        self, image: ResolvedImage, archive: Path, scratch: Path, refused: CommandError
    ) -> None:
        try:
            self._run(save_argv(image.source.store, image.source.item, archive), image, scratch)
        except CommandError as error:
            both = f"{refused.stderr}\n{error.stderr}"
            raise CommandError(error.command, error.ending, both) from error

    def _run(self, argv: tuple[str, ...], image: ResolvedImage, scratch: Path) -> None:
        purpose = f"copy {image.bound.reference} from {image.source}"
        self._runner.run(Command(argv=argv, purpose=purpose, env={"TMPDIR": str(scratch)}))
