"""What a finished target must hold, by everything on it and with it that says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from installer_plugin.errors import DataError
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


def demands_of(
    target: TargetStore,
    request: Request,
    source: Opened | None,
    also: Sequence[Expected] = (),
) -> tuple[Expected, ...]:
    """One demand a reference, from *source*, deployments, receipts, lock file and *also*.

    Raises DataError when nothing says what is expected, SourceImageError for a wrong declaration.
    """
    found = tuple(_demands(target, request, source))
    if found or also or source or request.lock or _says_something(target, request):
        return merged((*also, *found))
    raise DataError(
        str(target.physical_root),
        "has no deployment and no receipt: nothing says which images are expected",
        hint="give --receipt FILE, --lock FILE or --source ROOT",
    )


def _says_something(target: TargetStore, request: Request) -> bool:
    """Whether the target says what is on it, be it nothing."""
    return bool(_receipts(target, request) or deployments(target.physical_root))


def _receipts(target: TargetStore, request: Request) -> tuple[Path, ...]:
    return request.receipts or ((target.receipt,) if target.receipt.exists() else ())


def _demands(target: TargetStore, request: Request, source: Opened | None) -> Iterator[Expected]:
    if source:
        yield from expected_of_bound(require_sound(discover(source.root)), "")
    for path in deployments(target.physical_root):
        with open_deployment(target.physical_root, path) as deployment:
            yield from expected_of_bound(require_sound(discover(deployment)), f"{path}/")
    for receipt in _receipts(target, request):
        yield from parse_receipt(read_named(receipt), str(receipt))
    if request.lock:
        yield from expected_of_lock(read_lock(request) or {}, str(request.lock))
