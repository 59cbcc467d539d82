"""Stores that are not ours to read: those of other storage drivers than overlay, and Docker's own."""

from __future__ import annotations

from pathlib import Path

OTHER_DRIVERS = ("btrfs", "vfs", "zfs", "aufs", "devicemapper")
"""Drivers of containers/storage beside overlay; each keeps records in folders of its own name."""
DOCKER = "docker"
_DOCKER_FOLDER = "image"
"""Of Docker's data root: a folder a driver in it."""


def other_driver(path: Path) -> str | None:
    """The driver whose images are in the store *path*, or :data:`DOCKER`; None when it has no others."""
    for driver in OTHER_DRIVERS:
        if (path / f"{driver}-images/images.json").is_file():
            return driver
    repositories = path.glob(f"{_DOCKER_FOLDER}/*/repositories.json")
    return DOCKER if any(repositories) else None


def way_out(path: Path, driver: str, reference: str = "REFERENCE") -> str:
    """What to do with images that a store of another driver has."""
    if driver == DOCKER:
        return (
            f"docker save --output FILE {reference}, and name that with --store docker-archive:FILE"
        )
    store = f"[{driver}@{path.absolute()}+/run/containers/storage]"
    copy = f"skopeo copy 'containers-storage:{store}{reference}' 'oci:DIR:{reference}'"
    return f"{copy}, and name that with --store oci:DIR"
