"""Stage record: the receipt beside the store, written when everything has been verified."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from installer_plugin.errors import ConfigError, CopyError, Problem, is_full
from installer_plugin.files.atomic import replace_file, sync_directory
from installer_plugin.files.scratch import scratch_directory
from installer_plugin.model import CopiedImage, VerifiedImage
from installer_plugin.receipt import Receipt, dump_receipt
from installer_plugin.storage.engine.space import room_hint

HINT = "make the place writable and run the command again"


def pair(
    copied: Sequence[CopiedImage], verified: Sequence[VerifiedImage]
) -> tuple[tuple[CopiedImage, VerifiedImage], ...]:
    """Each copied image with its proof; RuntimeError when one has none: then nothing is recorded."""
    proofs = {(proof.reference, proof.image_id): proof for proof in verified}
    pairs = []
    for image in copied:
        resolved = image.resolved
        proof = proofs.get((resolved.bound.reference, resolved.image_id))
        if proof is None:
            raise RuntimeError(f"{resolved.bound.reference} was copied but not verified")
        pairs.append((image, proof))
    return tuple(pairs)


def creation_time(env: Mapping[str, str]) -> str:
    """Now, or ``SOURCE_DATE_EPOCH`` for reproducible output, as ISO 8601 in UTC.

    Raises ConfigError when the variable is not a number of seconds.
    """
    epoch = env.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(_seconds(epoch), UTC) if epoch else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as error:
        problem = Problem(
            subject="SOURCE_DATE_EPOCH",
            message=f"is {epoch!r}, expected seconds since 1970",
            hint="unset it or give a whole number",
        )
        raise ConfigError(problem) from error
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _seconds(epoch: str) -> int:
    """Decimal digits and nothing else, as the specification has it; raises ValueError."""
    if not (epoch.isascii() and epoch.isdigit()):
        raise ValueError(epoch)
    return int(epoch)


def receipt_problems(places: Sequence[Path]) -> Iterator[Problem]:
    """What will keep receipts from being written to *places*; no name is made in them."""
    for place in places:
        fault = _folder_fault(place.absolute().parent)
        if place.is_dir():
            fault = "it is a directory, expected a file or nothing"
        if fault:
            message = f"the receipt cannot be written: {fault}"
            yield Problem(subject=str(place), message=message, hint="name another --receipt file")


def _folder_fault(folder: Path) -> str:
    """Why no file can be made in *folder*; empty when one can. A file without a name tries it out."""
    try:
        try:
            os.close(os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # This file system knows none without a name.
            import tempfile  # noqa: PLC0415 - slow to load

            Path(tempfile.mkdtemp(prefix=".", dir=folder)).rmdir()
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return ""


def record(receipt: Receipt, places: Sequence[Path]) -> str:
    """Write *receipt* to all *places*, each atomically, and return its text; raises CopyError."""
    text = dump_receipt(receipt)
    write_receipt(text, places)
    return text


def remove_receipt(place: Path) -> bool:
    """Remove the receipt of an earlier run at *place*; whether there was one. Raises CopyError."""
    try:
        place.unlink()
        sync_directory(place.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        message = f"the receipt of an earlier installation cannot be removed: {error.strerror}"
        raise CopyError.of(str(place), message, hint=HINT) from error
    return True


def write_receipt(text: str, places: Sequence[Path]) -> None:
    """Write the text of a receipt to all *places*, each atomically; raises CopyError."""
    for place in places:
        try:
            # What a killed run leaves in there, the next one removes.
            with scratch_directory(place.parent) as scratch:
                replace_file(place, text.encode(), mode=0o644, staging=scratch)
            sync_directory(place.parent)
        except OSError as error:
            problem = Problem(
                subject=str(place),
                message=f"the receipt cannot be written: {error.strerror}",
                hint=room_hint(error, (place.parent,)) if is_full(error) else HINT,
            )
            raise CopyError(problem) from error
