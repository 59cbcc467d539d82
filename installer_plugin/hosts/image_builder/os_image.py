"""What an OS image brings: its bound images as this machine's store has them, bootc, a Python."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from installer_plugin.declared import configured
from installer_plugin.errors import DataError, PreflightError, Problem, SourceImageError, joined
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.hosts.image_builder.os_content import OsImageContent
from installer_plugin.model import ImageId, ResolvedImage
from installer_plugin.opening import Opened
from installer_plugin.pipeline import looked_at
from installer_plugin.request import IMAGE_PREFIX, Work
from installer_plugin.sources import open_root
from installer_plugin.steps import Known
from installer_plugin.storage.source.local import LocalStores
from installer_plugin.storage.source.store_option import Sources
from installer_plugin.storage.store.graph_root import GraphRoot

BOOTC = ("usr/bin/bootc", "usr/sbin/bootc", "usr/local/bin/bootc", "usr/local/sbin/bootc")
OLDEST = 11
"""Minor version of the oldest Python 3 that runs our program."""
_PYTHON = re.compile(r"python3\.(\d+)")
_LIBRARIES = ("usr/lib64", "usr/lib")


def read_os_image(image: str, work: Work) -> OsImageContent:
    """Everything that can be known before a build; *image* is a name or ID in the machine's store.

    Raises all problems at once: SourceImageError, PreflightError, and ConfigError where the image is
    not in the store.
    """
    work = _on_image(image, work)
    with Opened(work) as opened, configured():
        known = _looked_at(image, work, opened)
        store, graph_root = _local(opened.sources)
        _require_reachable(known.images, str(graph_root))
        layers = store.image_layers(image) or ()
        return OsImageContent(
            images=known.images,
            findings=known.findings,
            size=sum(layer.diff_size or 0 for _, layer in layers),
            created=store.image_created(image) or 0,
            new_python=newest_python(opened.root) >= OLDEST,
            id=_find_id(image, graph_root),
        )


def _looked_at(image: str, work: Work, opened: Opened) -> Known:
    missing = () if any(map(opened.root.exists, BOOTC)) else (_no_bootc(image),)
    try:
        known = looked_at(work, opened)
    except (SourceImageError, PreflightError) as error:
        raise joined([error, SourceImageError(*missing)] if missing else [error]) from error
    if missing:
        raise SourceImageError(*missing)
    return known


def _find_id(image: str, graph_root: Path) -> ImageId | None:
    """Which image the store has under this very name or ID."""
    with GraphRoot.open(graph_root) as root:
        images = root.load().images
    return next((ImageId(each.id) for each in images if image in (each.id, *each.names)), None)


def has_new_python(image: str, work: Work) -> bool:
    """Whether a stage of ours can run in a build root made of *image*; raises ConfigError."""
    with configured(), open_root(_on_image(image, work)) as root:
        return newest_python(root) >= OLDEST


def _on_image(image: str, work: Work) -> Work:
    return work.asking(replace(work.request, source=f"{IMAGE_PREFIX}{image}", target=None))


def newest_python(root: Rootfs) -> int:
    """Minor version of the newest whole Python 3 in a root, 0 for none."""
    found = [0]
    for name in root.list("usr/bin"):
        version = _PYTHON.fullmatch(name)
        libraries = (f"{place}/{name}/os.py" for place in _LIBRARIES)
        if version and any(map(root.exists, libraries)):
            found.append(int(version[1]))
    return max(found)


def _local(sources: Sources) -> tuple[LocalStores, Path]:
    """The machine's stores, and the one that osbuild shows its stages."""
    local = next((each for each in sources.all if isinstance(each, LocalStores)), None)
    if local is None or not sources.graph_roots:
        raise DataError("containers-storage", "is not there, expected the machine's store")
    return local, sources.graph_roots[0]


def _require_reachable(images: tuple[ResolvedImage, ...], graph_root: str) -> None:
    """Raise PreflightError for images in additional stores: osbuild shows the primary one alone."""
    problems = [
        Problem(
            subject=image.bound.reference,
            message=f"is in {image.source.store}, expected in {graph_root}: osbuild reads no other",
            hint=f"podman --root {graph_root} pull {image.bound.reference}",
        )
        for image in images
        if image.source.store != graph_root
    ]
    if problems:
        raise PreflightError(*problems)


def _no_bootc(image: str) -> Problem:
    return Problem(
        subject=image,
        message=f"has none of {', '.join(BOOTC)}, expected a bootc OS image",
        hint="name the OS image, not one of its bound images",
    )
