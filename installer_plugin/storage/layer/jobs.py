"""Work on single layers, as values that another process of ours can be told."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.process.pool_worker import Progress
from installer_plugin.storage.layer.proof import LayerClaim, LayerProof, Reading, prove_layer
from installer_plugin.storage.layer.tree_copy import READ_HINT, copy_tree


@dataclass(frozen=True, slots=True)
class CopyLayer:
    """Copy a layer's tree into an empty directory."""

    store: Path
    """Graph root of the source."""
    layer_id: str
    target: Path
    weight: int
    shown: str = ""
    """The tree as messages show it."""

    def run(self, progress: Progress) -> None:
        """See :func:`~installer_plugin.storage.layer.tree_copy.copy_tree`."""
        with ExitStack() as stack:
            try:
                store = stack.enter_context(Rootfs.open(self.store))
                source = stack.enter_context(store.directory(f"overlay/{self.layer_id}/diff"))
            except OSError as error:
                message = f"cannot be read from the source: {error.strerror}"
                raise DataError(self.shown or self.layer_id, message, hint=READ_HINT) from error
            target = stack.enter_context(Rootfs.open(self.target))
            try:
                copy_tree(source, target.fd, progress)
            except DataError as error:
                subject = f"{self.shown}{error.subject}"
                raise DataError(subject, error.message, hint=error.hint) from error


@dataclass(frozen=True, slots=True)
class ProveLayer:
    """Read a layer from the disk and prove what is said about it."""

    store: Path
    """Graph root."""
    claim: LayerClaim
    reading: Reading

    @property
    def weight(self) -> int:
        """Bytes to be read, as far as they are known."""
        return (self.claim.size or 0) if self.reading.content else 0

    def run(self, progress: Progress) -> LayerProof:
        """See :func:`~installer_plugin.storage.layer.proof.prove_layer`."""
        with Rootfs.open(self.store) as root:
            return prove_layer(root, self.claim, progress, self.reading)


def path_for_others(root: Rootfs) -> Path:
    """Where other processes of ours find an open directory, whatever its path means to them."""
    return Path(f"/proc/{os.getpid()}/fd/{root.fd}")
