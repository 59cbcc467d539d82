"""Boot entries of a target that must not boot: set aside under a name that says why.

Places: Boot Loader Specification type 1 entries, ``loader/entries`` of ``/boot`` and of an EFI system
partition mounted below it; ``loader`` is a link that ostree swaps.
"""

from __future__ import annotations

from pathlib import Path

from installer_plugin.rootfs import Rootfs

PLACES = ("boot/loader/entries", "boot/efi/loader/entries", "efi/loader/entries")
SUFFIX = ".conf"
ASIDE = ".bound-images-missing"
NOTE = "bound-images-missing.txt"


def set_aside(physical_root: Path, reason: str) -> tuple[Path, ...]:
    """Rename every boot entry below *physical_root* so that no boot loader takes it.

    A note beside them tells *reason* and how to undo it. Returns the new names; raises OSError.
    """
    renamed = []
    for folder in _folders(physical_root):
        entries = sorted(folder.glob(f"*{SUFFIX}"))
        for entry in entries:
            aside = entry.with_name(entry.name + ASIDE)
            entry.rename(aside)
            renamed.append(aside)
        if entries:
            (folder.parent / NOTE).write_text(
                f"This system was set aside by bootc-bound-images: {reason}\n"
                f"Its bound images are not proven to be there. To boot it all the same, rename\n"
                f"{folder.name}/*{SUFFIX}{ASIDE} back to *{SUFFIX}.\n"
            )
    return tuple(renamed)


def _folders(physical_root: Path) -> tuple[Path, ...]:
    with Rootfs.open(physical_root) as root:
        found = [root.resolve(place).path for place in PLACES if root.is_dir(place)]
    return tuple(physical_root / path for path in dict.fromkeys(found))
