"""What a finished target must hold, by everything on it and with it that says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import VerificationError
from installer_plugin.expectations import (
    deployments,
    expected_of_bound,
    expected_of_lock,
    merged,
    open_deployment,
)
from installer_plugin.model import Expected
from installer_plugin.opening import Opened, read_lock, read_named
from installer_plugin.receipt import parse_receipt
from installer_plugin.request import Request
from installer_plugin.stages.discover import discover, require_sound
from installer_plugin.storage.store.target_store import TargetStore


@dataclass(frozen=True, slots=True)
class Demands:
    """What a target must hold, and what is not asked of it any more."""

    expected: tuple[Expected, ...]
    """One for each reference."""
    undeclared: tuple[str, ...] = ()
    """References of the target's own receipt that none of its deployments declares."""


def demands_of(
    target: TargetStore,
    request: Request,
    source: Opened | None,
    also: Sequence[Expected] = (),
) -> Demands:
    """Collect the demands of *source*, deployments, receipts, lock file and *also*.

    On a target with deployments these say what must be there: bootc removes an image that none of them
    declares (bootc ``crates/lib/src/deploy.rs``, prune_container_store), so what the target's own
    receipt lists counts only for what is still declared. A receipt that the caller names counts whole.

    Raises VerificationError when nothing says what is expected, SourceImageError for a wrong declaration.
    """
    declared = (*also, *_declared(target, source))
    recorded = tuple(_recorded(target, request))
    kept = recorded
    if not request.receipts and deployments(target.physical_root):
        references = {demand.reference for demand in declared}
        kept = tuple(demand for demand in recorded if demand.reference in references)
    locked = expected_of_lock(read_lock(request) or {}, str(request.lock)) if request.lock else ()
    found = (*declared, *kept, *locked)
    if not (found or source or request.lock or _says_something(target, request)):
        raise VerificationError.of(
            str(target.physical_root),
            "has no deployment and no receipt: nothing says which images are expected",
            hint="give --receipt FILE, --lock FILE or --source ROOT",
        )
    gone = dict.fromkeys(demand.reference for demand in recorded if demand not in kept)
    return Demands(expected=merged(found), undeclared=tuple(gone))


def _says_something(target: TargetStore, request: Request) -> bool:
    """Whether the target says what is on it, be it nothing."""
    return bool(_receipts(target, request) or deployments(target.physical_root))


def _receipts(target: TargetStore, request: Request) -> tuple[Path, ...]:
    return request.receipts or ((target.receipt,) if target.receipt.exists() else ())


def _declared(target: TargetStore, source: Opened | None) -> Iterator[Expected]:
    if source:
        yield from expected_of_bound(require_sound(discover(source.root)), "")
    for path in deployments(target.physical_root):
        with open_deployment(target.physical_root, path) as deployment:
            yield from expected_of_bound(require_sound(discover(deployment)), f"{path}/")


def _recorded(target: TargetStore, request: Request) -> Iterator[Expected]:
    for receipt in _receipts(target, request):
        yield from parse_receipt(read_named(receipt), str(receipt))
