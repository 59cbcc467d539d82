"""Root directories of OS images with bound-image declarations."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

UNITS = PurePosixPath("usr/share/containers/systemd")
LINKS = PurePosixPath("usr/lib/bootc/bound-images.d")
_BINDABLE = (".container", ".image")


class SourceRootBuilder:
    """Makes source roots, each in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def __call__(self, units: Mapping[str, str], *, links: Mapping[str, str] | None = None) -> Path:
        """Write units and links, and return the root.

        `units` maps paths below /usr/share/containers/systemd to their text; a key that begins
        with `/` is a path in the root instead. `links` maps names in bound-images.d to link
        targets; without it every .container and .image directly in the unit directory is bound by
        an absolute link.
        """
        self._count += 1
        root = self._directory / f"root-{self._count}"
        for directory in (LINKS, UNITS):
            (root / directory).mkdir(parents=True)
        for name, text in units.items():
            path = root / name[1:] if name.startswith("/") else root / UNITS / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if links is None:
            links = {
                name: f"/{UNITS / name}"
                for name in units
                if "/" not in name and name.endswith(_BINDABLE)
            }
        for name, target in links.items():
            (root / LINKS / name).symlink_to(target)
        return root
