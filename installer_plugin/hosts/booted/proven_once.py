"""Proves each deployment of a running system once: a stamp says what has been proven so far.

The stamp names deployments and the digest of the receipt. With a deployment that it does not name, or
with another receipt, everything is proven again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.declared import configured
from installer_plugin.errors import ConfigError, DataError
from installer_plugin.events import Events
from installer_plugin.expectations import deployments
from installer_plugin.fields import parse_document
from installer_plugin.files.atomic import replace_file
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import VerifiedImage
from installer_plugin.opening import read_named, require_target
from installer_plugin.proving import verify_target
from installer_plugin.request import Work
from installer_plugin.stages.verify import STAGE
from installer_plugin.storage.base import Backend
from installer_plugin.storage.store.target_store import TargetStore

SCHEMA = "bootc-bound-images/proven/1"
OPTION = "--once"
COMPOSEFS_DEPLOYMENTS = ("state/deploy", "sysroot/state/deploy")
"""Of a physical root, and of a system booted from it (bootc ``crates/lib/src/bootc_composefs``)."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a system has proven."""

    deployments: frozenset[str]
    """``CHECKSUM.SERIAL`` of ostree's, digests of the composefs backend's."""
    receipt: str
    """``sha256:...`` of the target's receipt; empty when it has none."""

    def covers(self, now: Stamp) -> bool:
        """Whether nothing of *now* is left to be proven; never where no deployment says what is there."""
        return (
            bool(now.deployments)
            and now.deployments <= self.deployments
            and now.receipt == self.receipt
        )


def verify_once(work: Work, file: Path) -> tuple[VerifiedImage, ...] | None:
    """Prove the target as :func:`verify_target` does, unless *file* says that this has been done.

    None: it has. *file* is written when the proof holds; one that is damaged counts for nothing.
    Raises ConfigError for a target that is not a directory, and what verification raises.
    """
    path = work.request.target
    if path is None or not path.is_dir():
        message = f"is for a running system's root, {path} is not a directory"
        raise ConfigError.of(OPTION, message, hint=f"leave {OPTION} out")
    now = _seen(require_target(work.request))
    before = _read(file, work.events)
    if before and before.covers(now):
        return None
    images = verify_target(work)
    # What was there when it began: what has come since is proven next time.
    data = {
        "schema": SCHEMA,
        "deployments": sorted(now.deployments),
        "receipt": now.receipt,
    }
    try:
        replace_file(file, f"{json.dumps(data, indent=2)}\n".encode(), mode=0o644)
    except OSError as error:
        message = f"{file}: cannot be written ({error.strerror}), so this will be proven again"
        work.events.warn(STAGE, message)
    return images


def _seen(target: TargetStore) -> Stamp:
    with configured():
        names = _deployment_names(target)
        receipt = ""
        if target.receipt.exists():
            receipt = f"sha256:{hashlib.sha256(read_named(target.receipt)).hexdigest()}"
    return Stamp(frozenset(names), receipt)


def _deployment_names(target: TargetStore) -> tuple[str, ...]:
    if target.backend is Backend.OSTREE:
        return tuple(Path(path).name for path in deployments(target.physical_root))
    with Rootfs.open(target.physical_root) as root:
        places = (place for place in COMPOSEFS_DEPLOYMENTS if root.is_dir(place))
        return tuple(name for place in places for name in root.list(place))


def _read(file: Path, events: Events) -> Stamp | None:
    if not file.exists():
        return None
    try:
        data = parse_document(read_named(file), str(file), (SCHEMA,))
        return Stamp(frozenset(data.texts("deployments")), data.text("receipt"))
    except DataError as error:
        events.warn(STAGE, f"{error}; everything is proven again")
        return None
