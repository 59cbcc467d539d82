"""Boot entries of a target that must not boot yet: set aside under a name that says why.

Places: Boot Loader Specification type 1 entries, ``loader/entries`` of ``/boot`` and of an EFI system
partition mounted below it; ``loader`` is a link that ostree swaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.errors import InterruptedBySignal
from installer_plugin.events import Events
from installer_plugin.rootfs import Rootfs

Entries = frozenset[tuple[str, int, int]]
"""Boot entries: path below the physical root, inode number, time of the last change."""

STAGE = "install"
PLACES = ("boot/loader/entries", "boot/efi/loader/entries", "efi/loader/entries")
SUFFIX = ".conf"
ASIDE = ".bound-images-missing"
NOTE = "bound-images-missing.txt"
NOTE_TEXT = """\
bootc-bound-images has set the boot entries of this system aside: {reason}.
Its bound images are not proven to be there. Install it again; or, to boot it all the same, rename
{folder}/*{suffix}{aside} back to *{suffix}.
"""


@contextmanager
def held_back(physical_root: Path, events: Events, *, keep: bool) -> Iterator[None]:
    """Keep the target from booting while its images are on their way, and for good if that fails.

    The entries are set aside first and come back last, so that neither a power cut nor a kill leaves
    a system that boots without its images. With *keep* they come back also after a failure. Raises
    OSError.
    """
    if not set_aside(physical_root, "the copying of its bound images has not come to its end"):
        events.warn(
            STAGE,
            "no boot entries on the root file system: nothing keeps the target from booting "
            "should its bound images fail",
        )
    try:
        yield
    except BaseException as failure:
        if keep:
            restore(physical_root)
        else:
            _note(physical_root, reason_of(failure))
        raise
    restore(physical_root)


def reason_of(failure: BaseException) -> str:
    """*failure* in one line."""
    if isinstance(failure, InterruptedBySignal):
        return f"interrupted by {failure.signal_name}"
    return next(iter(f"{failure}".splitlines()), "") or type(failure).__name__


def entries(physical_root: Path) -> Entries:
    """The boot entries below *physical_root*; raises OSError."""
    return frozenset(
        _identity(entry, physical_root)
        for folder in _folders(physical_root)
        for entry in folder.glob(f"*{SUFFIX}")
    )


def _identity(entry: Path, physical_root: Path) -> tuple[str, int, int]:
    seen = entry.lstat()
    return str(entry.relative_to(physical_root)), seen.st_ino, seen.st_mtime_ns


def set_aside(physical_root: Path, reason: str, spare: Entries = frozenset()) -> tuple[Path, ...]:
    """Rename every boot entry below *physical_root* but *spare* so that no boot loader takes it.

    A note beside them tells *reason* and how to undo it. Returns the new names; raises OSError.
    """
    renamed = []
    for folder in _folders(physical_root):
        for entry in sorted(folder.glob(f"*{SUFFIX}")):
            if _identity(entry, physical_root) in spare:
                continue
            aside = entry.with_name(entry.name + ASIDE)
            entry.rename(aside)
            renamed.append(aside)
    _note(physical_root, reason)
    return tuple(renamed)


def restore(physical_root: Path) -> None:
    """Give all entries that were set aside their names back; raises OSError."""
    for folder in _folders(physical_root):
        for aside in sorted(folder.glob(f"*{SUFFIX}{ASIDE}")):
            aside.rename(aside.with_name(aside.name.removesuffix(ASIDE)))
        (folder.parent / NOTE).unlink(missing_ok=True)


def _note(physical_root: Path, reason: str) -> None:
    for folder in _folders(physical_root):
        if any(folder.glob(f"*{SUFFIX}{ASIDE}")):
            text = NOTE_TEXT.format(
                reason=reason.rstrip("."), folder=folder.name, suffix=SUFFIX, aside=ASIDE
            )
            (folder.parent / NOTE).write_text(text)


def _folders(physical_root: Path) -> tuple[Path, ...]:
    with Rootfs.open(physical_root) as root:
        found = [root.resolve(place).path for place in PLACES if root.is_dir(place)]
    return tuple(physical_root / path for path in dict.fromkeys(found))
