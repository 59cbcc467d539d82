"""Boot entries of a target that must not boot yet: set aside under a name that says why.

Places: Boot Loader Specification entries, type 1 in ``loader/entries`` and type 2 (unified kernel
images) in ``EFI/Linux``, of ``/boot``, of an EFI system partition, and of a boot file system that is
mounted for itself; ``loader`` is a link that ostree swaps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from installer_plugin.errors import InterruptedBySignal
from installer_plugin.events import Events, after_failure
from installer_plugin.files.atomic import sync_directory
from installer_plugin.files.rootfs import Rootfs

Entries = frozenset[tuple[str, int, int]]
"""Boot entries: path below the file system they were looked for in, bytes, time of the last change.

No inode number: VFAT has none that lasts.
"""

NOBODY = Events()
STAGE = "install"
PREFIXES = ("", "boot/", "boot/efi/", "efi/")
"""Below a physical root, or the top of a boot file system."""
KINDS = {"loader/entries": ".conf", "EFI/Linux": ".efi"}
"""Folders and the suffix of what a boot loader takes from them."""
ASIDE = ".bound-images-missing"
NOTE = "bound-images-missing.txt"
NOTE_TEXT = """\
bootc-bound-images has set the boot entries of this system aside: {reason}.
Its bound images are not proven to be there. Install it again; or, to boot it all the same, rename
{folder}/*{suffix}{aside} back to *{suffix}.
"""


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory from which a boot loader takes entries."""

    path: Path
    suffix: str
    top: Path
    """Of the file system in which it was looked for."""

    def entries(self) -> list[Path]:
        """What a boot loader takes."""
        return sorted(self.path.glob(f"*{self.suffix}"))

    def aside(self) -> list[Path]:
        """What it does not take any more."""
        return sorted(self.path.glob(f"*{self.suffix}{ASIDE}"))

    def identity(self, entry: Path) -> tuple[str, int, int]:
        """See :data:`Entries`."""
        seen = entry.lstat()
        return str(entry.relative_to(self.top)), seen.st_size, seen.st_mtime_ns


@contextmanager
def held_back(
    places: Sequence[Path], events: Events, *, keep: bool, spare: Entries = frozenset()
) -> Iterator[bool]:
    """Keep the target from booting while its images are on their way, and for good if that fails.

    The entries below *places* are set aside first and come back last, so that neither a power cut nor
    a kill leaves a system that boots without its images. With *keep* they come back also after a
    failure; what is in *spare* is left alone. Yields whether there are any. Raises OSError, but for
    what fails after the body has: its error goes on.
    """
    reason = "the copying of its bound images has not come to its end"
    held = set_aside(places, reason, spare, events)
    if not held:
        events.warn(
            STAGE,
            "no boot entries found: nothing keeps the target from booting "
            "should its bound images fail",
        )
    try:
        yield bool(held)
    except BaseException as failure:
        if keep:
            with after_failure(events, STAGE, "the boot entries could not be given back"):
                restore(held)
        else:
            _note(places, reason_of(failure), events)
        raise
    restore(held)


def reason_of(failure: BaseException) -> str:
    """*failure* in one line."""
    if isinstance(failure, InterruptedBySignal):
        return f"interrupted by {failure.signal_name}"
    return next(iter(f"{failure}".splitlines()), "") or type(failure).__name__


def entries(top: Path) -> Entries:
    """The boot entries below *top*; raises OSError."""
    return frozenset(
        folder.identity(entry) for folder in _folders([top]) for entry in folder.entries()
    )


def set_aside(
    places: Iterable[Path],
    reason: str,
    spare: Entries = frozenset(),
    events: Events = NOBODY,
) -> tuple[Path, ...]:
    """Rename every boot entry below *places* but *spare* so that no boot loader takes it.

    A note next to them tells *reason* and how to undo it; where there is no room for it, *events* get
    a warning. All of it is on the disk on return. Returns the new names; raises OSError.
    """
    places = tuple(places)
    renamed = []
    for folder in _folders(places):
        for entry in folder.entries():
            if folder.identity(entry) in spare:
                continue
            aside = entry.with_name(entry.name + ASIDE)
            entry.rename(aside)
            renamed.append(aside)
        if folder.aside():
            sync_directory(folder.path)
    _note(places, reason, events)
    return tuple(renamed)


def restore(held: Iterable[Path]) -> None:
    """Give entries that :func:`set_aside` has renamed their names back; raises OSError.

    Others stay aside: on a shared EFI system partition they are another system's.
    """
    for folder, renamed in groupby(sorted(held), lambda entry: entry.parent):
        for aside in renamed:
            with suppress(FileNotFoundError):  # a hook has had its own way with it
                aside.rename(aside.with_name(aside.name.removesuffix(ASIDE)))
        if not any(folder.glob(f"*{ASIDE}")):
            _note_file(folder).unlink(missing_ok=True)
        sync_directory(folder)
        sync_directory(folder.parent)


def _note(places: Iterable[Path], reason: str, events: Events) -> None:
    """Write down *reason* where entries are aside: a help, without which they stay aside all the same."""
    with after_failure(events, STAGE, f"{NOTE} could not be written next to the boot entries"):
        for folder in _folders(places):
            if folder.aside():
                text = NOTE_TEXT.format(
                    reason=reason.rstrip("."),
                    folder=folder.path.name,
                    suffix=folder.suffix,
                    aside=ASIDE,
                )
                _write_note(_note_file(folder.path), text)


def _note_file(folder: Path) -> Path:
    """The file that tells why *folder* has no entries."""
    return folder.parent / NOTE


def _write_note(file: Path, text: str) -> None:
    """Write *text* to a file that is new: one that is there may be a link to anywhere."""
    file.unlink(missing_ok=True)
    with file.open("x") as new:
        new.write(text)
        new.flush()
        os.fsync(new.fileno())
    sync_directory(file.parent)


def _folders(places: Iterable[Path]) -> tuple[Folder, ...]:
    """Each folder once, however many names lead to it."""
    found: dict[tuple[int, int], Folder] = {}
    for top in places:
        with Rootfs.open(top) as root:
            for prefix in PREFIXES:
                for name, suffix in KINDS.items():
                    if root.is_dir(prefix + name):
                        path = top / root.resolve(prefix + name).path
                        seen = path.stat()
                        found.setdefault((seen.st_dev, seen.st_ino), Folder(path, suffix, top))
    return tuple(found.values())
