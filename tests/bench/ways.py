"""The ways that are compared, each as the commands that put all images into an empty target."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import unshared
from tests.support.stores import Store

PRODUCT = (sys.executable, "-m", "installer_plugin")
COPY_ALONE = (sys.executable, "-m", "tests.bench.copy_alone")

Commands = Sequence[Sequence[str]]
Installer = Callable[["Setting", str | None], Commands]
"""The commands of a whole installation: ours `during` or `after` bootc's, or bootc alone (None)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One fresh target and what is to be put on it."""

    store: Store
    images: Sequence[str]
    source_root: Path
    """Declares *images*."""
    target: Path
    """Mount point of the file system."""
    run_root: Path
    kind: str
    """The file system that is installed to."""
    installer: Installer | None = None

    @property
    def target_store(self) -> Path:
        """Where bootc's store is."""
        return self.target / "ostree/bootc/storage"

    def destination(self, image: str) -> str:
        """The image in the target for tools."""
        return f"containers-storage:[overlay@{self.target_store}+{self.run_root}]{image}"


def bootc(setting: Setting) -> Commands:
    """What ``bootc install`` runs: one ``podman image push`` after the other."""
    return [
        unshared(
            ("podman", "image", "push", "--remove-signatures", image, setting.destination(image))
        )
        for image in setting.images
    ]


def skopeo(setting: Setting) -> Commands:
    """One ``skopeo copy`` after the other."""
    return [
        unshared(
            ("skopeo", "copy", "--quiet", setting.store.ref(image), setting.destination(image))
        )
        for image in setting.images
    ]


def plain_copy(setting: Setting) -> Commands:
    """``cp -a`` of the images' layers: the least that can be done."""
    layers = sorted(
        path for path in (setting.store.root / "overlay").iterdir() if (path / "link").exists()
    )
    return [
        ("mkdir", "-p", str(setting.target_store)),
        ("cp", "-a", *map(str, layers), str(setting.target_store)),
    ]


def ours(setting: Setting) -> Commands:
    """``copy --engine direct``: check, copy, verify from disk, record."""
    return [(
        *PRODUCT, "copy", "--quiet", "--progress-fd", "2", "--engine", "direct",
        "--store", str(setting.store.root), str(setting.source_root), str(setting.target),
    )]  # fmt: skip


def ours_alone(setting: Setting) -> Commands:
    """The direct engine's copying stage without verification."""
    return [(*COPY_ALONE, str(setting.store.root), str(setting.source_root), str(setting.target))]


def _install(when: str | None) -> Callable[[Setting], Commands]:
    def way(setting: Setting) -> Commands:
        assert setting.installer
        return setting.installer(setting, when)

    return way


INSTALLS = {
    "bootc alone": _install(None),
    "ours during": _install("during"),
    "ours after": _install("after"),
}
"""Together the way ``install``."""

WAYS = {
    "bootc": bootc,
    "skopeo": skopeo,
    "cp -a": plain_copy,
    "copy alone": ours_alone,
    "ours": ours,
}
