"""Whether the OS image and its bound images fit on a disk, seen before ``bootc install to-disk``."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from installer_plugin.errors import Problem
from installer_plugin.hosts.bootc.bootc_cli import BootcInstall, Verb
from installer_plugin.hosts.bootc.partition_plan import (
    DiskLayout,
    DiskNeed,
    device_bytes,
    disk_problems,
)
from installer_plugin.model import ResolvedImage
from installer_plugin.process.runner import Command
from installer_plugin.request import IMAGE_PREFIX, Context, Request, open_root, open_stores
from installer_plugin.storage.engine.space import missing_layers, need_of
from installer_plugin.storage.source.local import LocalStores

CONTAINER_ENVIRONMENT = Path("run/.containerenv")
"""Below ``/`` of a container; names its image, which is what bootc installs, if it is privileged."""
_IMAGE = re.compile(r'^image="(.+)"$', re.MULTILINE)


def room_problems(
    install: BootcInstall,
    images: tuple[ResolvedImage, ...],
    *,
    system: int,
    composefs: bool,
) -> tuple[Problem, ...]:
    """Why *images* and an OS image of *system* bytes will not fit on the disk; raises OSError.

    Empty where bootc installs to a file system that is there: bootc looks at that itself, and so does
    our preflight before copying.
    """
    if install.verb is not Verb.TO_DISK:
        return ()
    layout = DiskLayout(
        filesystem=install.filesystem or "",
        composefs=composefs,
        tpm2_luks=install.tpm2_luks,
        root_size=install.root_size,
    )
    bound = need_of(tuple(missing_layers(images, frozenset()).values()))
    need = DiskNeed(system=system, bound=bound.bytes, inodes=bound.inodes)
    return disk_problems(str(install.target), device_bytes(install.target), layout, need)


def system_bytes(request: Request, context: Context) -> int | None:
    """Bytes of the OS image that *request* reads; None when nothing here tells.

    Of a stored image its layers count; of another root what its files take on the disk. Raises
    DataError, CommandError and OSError.
    """
    if request.source == "/":
        note = _note_of_container(context.system)
        if note is None:
            return None  # a machine's root, which is no image
        named = _IMAGE.search(note)
        stored = _stored_bytes(named[1], request, context) if named else None
        here = replace(request, source=str(context.system))
        return _measured(here, context) if stored is None else stored
    if request.source.startswith(IMAGE_PREFIX):
        return _stored_bytes(request.source.removeprefix(IMAGE_PREFIX), request, context)
    return _measured(request, context)


def _measured(request: Request, context: Context) -> int:
    """What the files of the root take, without what is mounted in it."""
    with open_root(request, context) as root, root.directory("/") as fd:
        # Others see our descriptor there, and through it a mount that they do not have.
        path = f"/proc/{os.getpid()}/fd/{fd}/."
        argv = ("du", "--summarize", "--one-file-system", "--block-size=1", path)
        said = context.runner.run(Command(argv=argv, purpose=f"measure {request.source}")).stdout
    return int(said.split()[0])


def _note_of_container(system: Path) -> str | None:
    """What podman has written about the container whose root *system* is; None outside of one."""
    try:
        return (system / CONTAINER_ENVIRONMENT).read_text(errors="replace")
    except OSError:
        return None


def _stored_bytes(reference: str, request: Request, context: Context) -> int | None:
    with open_stores(request, context) as stores:
        for store in stores.all:
            try:
                layers = store.image_layers(reference) if isinstance(store, LocalStores) else None
            except ValueError:
                return None  # an ID, which is no name
            if layers is not None:
                return sum(layer.diff_size or 0 for _, layer in layers)
    return None
