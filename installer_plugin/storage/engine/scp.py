"""Engine ``podman-scp``: fetches images from another host with ``podman image scp``.

``podman image scp`` is not ``ssh``: before podman 5 it wants the port in every address, it logs in
through an agent alone (``--identity`` and ``IdentityFile`` go unused, podman#17309) and knows nothing
of ``ssh_config``. A host that ``ssh`` reached a moment ago may therefore turn it away, so that what it
does underneath (``podman image save`` there, load here) is done with ``ssh`` itself when it fails.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from installer_plugin.model import ResolvedImage
from installer_plugin.process.runner import Command, CommandError, Runner
from installer_plugin.storage.engine.tool_engine import ToolEngine
from installer_plugin.storage.source.ssh import parse_address, ssh_argv
from installer_plugin.storage.tool_argv import copy_argv, podman_argv, push_argv, target_image

SSH_PORT = 22
_TO_FILE = 'file=$1; shift; exec "$@" >"$file"'
"""An archive is larger than what we want to hold in memory."""


def save_argv(address: str, reference: str, archive: Path) -> tuple[str, ...]:
    """Fetch *reference* from *address* into the local file *archive*, an ``oci-archive:``."""
    save = f"podman image save --quiet --format oci-archive {shlex.quote(reference)}"
    return ("sh", "-c", _TO_FILE, "ssh", str(archive), *ssh_argv(address), save)


def scp_argv(options: Sequence[str], address: str, reference: str) -> tuple[str, ...]:
    """Fetch *reference* from *address* into the store that the global *options* name."""
    host = parse_address(address)
    image = f"{host.login}:{host.port or SSH_PORT}::{reference}"
    return podman_argv((*options, "image", "scp", "--quiet", image))


class ScpEngine(ToolEngine):
    """``podman image scp`` into a throw-away store, then pushed from there.

    podman never opens the target itself: it would leave a database with our paths in it.
    """

    name = "podman-scp"
    tools = ("podman", "skopeo", "ssh", "unshare", "setpriv")

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def copy(self, image: ResolvedImage, graph_root: Path, scratch: Path) -> None:
        """See :class:`~installer_plugin.storage.engine.tool_engine.ToolEngine`."""
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
