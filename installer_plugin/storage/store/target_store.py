"""The target store: where it is below a physical root, how it is made ready, and how it is closed.

Places: bootc ``crates/lib/src/podstorage.rs`` (SUBPATH) and ``store/mod.rs`` (BOOTC_ROOT, the compat
link of the composefs backend).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.process.runner import Runner
from installer_plugin.storage.base import Backend
from installer_plugin.storage.layer.page_cache import sync_file_system
from installer_plugin.storage.store import locks

RECEIPT_NAME = "bound-images.json"
COMPAT_LINK = "ostree/bootc"
COMPAT_LINK_TEXT = "../composefs/bootc"

STORE_FOLDERS = {
    "overlay": 0o700,
    "overlay/l": 0o755,
    "overlay-layers": 0o700,
    "overlay-images": 0o700,
}
"""Directories of an empty store, with the modes that containers-storage gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStore:
    """Where the store of a physical root is, whether it exists yet or not."""

    physical_root: Path
    backend: Backend
    bootc_dir: Path
    """``.../ostree/bootc`` or ``.../composefs/bootc``, without links below the physical root."""

    @property
    def graph_root(self) -> Path:
        """Bootc's image store."""
        return self.bootc_dir / "storage"

    @property
    def receipt(self) -> Path:
        """The receipt beside the store."""
        return self.bootc_dir / RECEIPT_NAME


def find_target_store(physical_root: Path, backend: Backend | None = None) -> TargetStore:
    """The store's place below *physical_root*; the backend is read off the root unless given.

    A root with ``composefs/`` and without an ostree repository belongs to the composefs backend.
    Raises DataError when *physical_root* is not a directory or a link in it leads nowhere.
    """
    try:
        with Rootfs.open(physical_root) as root:
            if backend is None:
                composefs = root.is_dir("composefs") and not root.is_dir("ostree/repo")
                backend = Backend.COMPOSEFS if composefs else Backend.OSTREE
            place = _resolved(root, f"{backend}/bootc")
            _require_no_link(root, f"{place}/storage")
            return TargetStore(
                physical_root=physical_root, backend=backend, bootc_dir=physical_root / place
            )
    except OSError as error:
        raise DataError(
            str(physical_root),
            f"cannot be opened as a target: {error.strerror}",
            hint="give the directory on which the target's root file system is mounted",
        ) from error


def _resolved(root: Rootfs, path: str) -> str:
    """*path* with all links followed as far as it exists; the missing rest is appended."""
    parts = path.split("/")
    for end in range(len(parts), 0, -1):
        head = "/".join(parts[:end])
        if root.exists(head):
            return "/".join((root.resolve(head).path, *parts[end:])).strip("/")
        if root.has_entry(head):
            raise DataError(head, "is a dangling link in the target, expected a directory")
    return path


def _require_no_link(root: Rootfs, path: str) -> None:
    """The store is opened by its path later on, which a link would lead out of the target."""
    if root.has_entry(path) and root.is_link(path):
        raise DataError(path, "is a symbolic link in the target, expected a directory")


def prepare(store: TargetStore) -> None:
    """Make the directories that bootc makes, with its modes whatever the umask; raises OSError.

    For composefs the top directory is closed to others and ``ostree/bootc`` links to the real place,
    unless something is there already.
    """
    if store.backend is Backend.COMPOSEFS:
        top = store.physical_root / Backend.COMPOSEFS
        top.mkdir(mode=0o700, exist_ok=True)
        top.chmod(0o700)
        link = store.physical_root / COMPAT_LINK
        _make(link.parent, 0o755)
        if not (link.is_symlink() or link.exists()):
            link.symlink_to(COMPAT_LINK_TEXT)
    for folder in (store.bootc_dir.parent, store.bootc_dir, store.graph_root):
        _make(folder, 0o755)
    for name, mode in STORE_FOLDERS.items():
        _make(store.graph_root / name, mode)


def _make(folder: Path, mode: int) -> None:
    """Make *folder* unless it is there already; one that is keeps its mode."""
    if not folder.is_dir():
        with suppress(FileExistsError):  # another copy has just made it
            folder.mkdir()
        folder.chmod(mode)


def finish(store: TargetStore, runner: Runner) -> None:
    """Leave a store that opens on a read-only file system, and flush it to the disk.

    A read-only store without ``images.lock`` silently shows no images (podman 5), and without
    ``layers.lock`` fails every command; without ``.has-mount-program`` each reader scans all layers.
    containers-storage does not sync layers itself (containers/storage#920), so the file system is.
    Raises OSError and CommandError.
    """
    for name in locks.LOCK_FILES:
        with locks.exclusive(store.graph_root, name):
            pass
    mark = store.graph_root / "overlay/.has-mount-program"
    if not mark.exists():
        mark.touch(mode=0o600)
        mark.write_text("false")
    sync_file_system(store.graph_root, runner)
