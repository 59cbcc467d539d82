"""Reads which additional stores a root's own ``storage.conf`` gives to podman there.

Format: containers-storage.conf(5). The first of two main files counts alone; drop-ins add to it where
podman's storage library reads them (containers-storage from 1.63, so from podman 6 on and in some
builds of 5.8). All paths are those of the root.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs

_FOLDERS = ("etc/containers", "usr/share/containers")
"""The first wins."""
_DROP_INS = ("storage.rootful.conf.d", "storage.conf.d")
_PODMAN = "usr/bin/podman"
_MARK = b"storage/pkg/configfile"
"""Package of the storage library that reads drop-ins; Go keeps the name in the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultStores:
    """What podman takes where its caller says nothing."""

    stores: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Configuration that counts."""
    ignored: tuple[str, ...] = ()
    """Drop-ins that name stores, for a podman that reads none."""
    elsewhere: tuple[str, ...] = ()
    """Files that name bootc's store where podman does not look for one."""
    reads_drop_ins: bool = False
    error: str = ""
    """Why a file cannot be read: podman fails too."""
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Stores in files that a service's CONTAINERS_STORAGE_CONF may name."""

    @property
    def configured(self) -> bool:
        """Whether there is a main file."""
        return any(file.endswith("/storage.conf") for file in self.files)

    def of(self, file: str) -> tuple[str, ...]:
        """Additional stores with ``CONTAINERS_STORAGE_CONF=file``; "" when it is not set."""
        return self.named.get(file, ()) if file else self.stores


def read_default_stores(
    root: Rootfs, environments: Sequence[Mapping[str, str]], store: str
) -> DefaultStores:
    """Read what podman in *root* takes in the *environments* of services; *store* is bootc's."""
    named = {environment.get("CONTAINERS_STORAGE_CONF", "") for environment in environments} - {""}
    options = any("STORAGE_OPTS" in environment for environment in environments)
    try:
        configured = _configured(root, options=options)
        return replace(
            configured,
            elsewhere=tuple(_mentions(root, store)),
            named={file: _stores(root, file, ()) for file in named if root.exists(file)},
        )
    except DataError as error:
        return DefaultStores(error=f"{error.subject} {error.message}")
    except OSError as error:
        return DefaultStores(error=f"the configuration cannot be read: {error.strerror}")


def _configured(root: Rootfs, *, options: bool) -> DefaultStores:
    """The main file with its drop-ins; *options* says whether a service sets STORAGE_OPTS."""
    main = [file for top in _FOLDERS if root.exists(file := f"{top}/storage.conf")][:1]
    drop_ins = _drop_ins(root, "storage.conf", _DROP_INS)
    # The program is large: it is searched only where the answer matters.
    reads = bool(drop_ins or (options and not main)) and _reads_drop_ins(root)
    files = [*main, *(drop_ins if reads else [])]
    stores: tuple[str, ...] = ()
    for file in files:
        stores = _stores(root, file, stores)
    return DefaultStores(
        stores=stores,
        files=tuple(files),
        ignored=() if reads else tuple(file for file in drop_ins if _stores(root, file, ())),
        reads_drop_ins=reads,
    )


def _drop_ins(root: Rootfs, main: str, names: tuple[str, ...]) -> list[str]:
    """Drop-ins in the order in which they apply: by file name, ``/etc`` before ``/usr/share``."""
    found: dict[str, str] = {}
    for folder in (f"{top}/{name}" for top in _FOLDERS for name in names):
        if root.is_dir(folder):
            for file in root.list(folder):
                if PurePosixPath(file).suffix == PurePosixPath(main).suffix:
                    found.setdefault(file, f"{folder}/{file}")
    # A link to nothing, or to the null device, hides its namesakes and says nothing itself.
    return [found[file] for file in sorted(found) if _is_file(root, found[file])]


def _is_file(root: Rootfs, path: str) -> bool:
    return root.exists(path) and root.type_of(root.resolve(path).path) == "regular file"


def _stores(root: Rootfs, file: str, before: tuple[str, ...]) -> tuple[str, ...]:
    """``additionalimagestores`` after *file*; an array with ``{append=true}`` adds to *before*."""
    import tomllib  # noqa: PLC0415 - slow to load, and seldom needed

    try:
        options = tomllib.loads(root.read_text(file)).get("storage", {}).get("options", {})
        found = options.get("additionalimagestores")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(file, f"is not the TOML of a storage.conf: {error}") from error
    if not isinstance(found, list):
        return before
    texts = tuple(item for item in found if isinstance(item, str))
    return (*before, *texts) if {"append": True} in found else texts


def _mentions(root: Rootfs, store: str) -> Iterator[str]:
    mains = [f"{top}/containers.conf" for top in _FOLDERS]
    for file in (*mains, *_drop_ins(root, "containers.conf", ("containers.conf.d",))):
        if root.exists(file) and store in root.read_bytes(file).decode(errors="replace"):
            yield file


def _reads_drop_ins(root: Rootfs) -> bool:
    """Whether the root's podman has the code that reads drop-ins of storage.conf."""
    if not root.exists(_PODMAN):
        return False
    fd = root.open_file(_PODMAN)
    with os.fdopen(fd, "rb"):
        if not os.fstat(fd).st_size:
            return False
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as content:
            return content.find(_MARK) >= 0
