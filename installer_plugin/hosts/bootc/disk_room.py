"""Whether the OS image and its bound images fit on a disk, seen before ``bootc install to-disk``."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from installer_plugin.errors import PreflightError, Problem
from installer_plugin.hosts.bootc.bootc_cli import BootcInstall, Verb
from installer_plugin.hosts.bootc.partition_plan import (
    DiskLayout,
    DiskNeed,
    device_bytes,
    disk_problems,
)
from installer_plugin.model import ResolvedImage
from installer_plugin.process.runner import Command, CommandError
from installer_plugin.request import IMAGE_PREFIX, Work
from installer_plugin.sources import open_root, open_stores
from installer_plugin.storage.engine.space import missing_layers, need_of
from installer_plugin.storage.source.local import LocalStores

CONTAINER_ENVIRONMENT = Path("run/.containerenv")
"""Below ``/`` of a container; names its image, which is what bootc installs, if it is privileged."""
MEASURE_HINT = "see what 'du --summarize' says about the root that is installed"
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


def system_bytes(work: Work) -> int | None:
    """Bytes of the OS image that *work* reads; None when nothing here tells.

    Of a stored image its layers count; of another root what its files take on the disk. Raises
    DataError, PreflightError and OSError.
    """
    source, system = work.request.source, work.context.system
    if source == "/":
        note = _note_of_container(system)
        if note is None:
            return None  # a machine's root, which is not an image
        named = _IMAGE.search(note)
        stored = _stored_bytes(named[1], work) if named else None
        here = replace(work.request, source=str(system))
        return _measured(work.asking(here)) if stored is None else stored
    if source.startswith(IMAGE_PREFIX):
        return _stored_bytes(source.removeprefix(IMAGE_PREFIX), work)
    return _measured(work)


def _measured(work: Work) -> int:
    """What the files of the root take, without what is mounted in it."""
    with open_root(work) as root, root.directory("/") as fd:
        # Others see our descriptor there, and through it a mount that they do not have.
        path = f"/proc/{os.getpid()}/fd/{fd}/."
        argv = ("du", "--summarize", "--one-file-system", "--block-size=1", path)
        command = Command(argv=argv, purpose=f"measure {work.request.source}")
        try:
            said = work.runner.run(command).stdout
        except CommandError as error:
            raise PreflightError(error.problem(work.request.source, hint=MEASURE_HINT)) from error
    size = said.split()[:1]
    if not (size and size[0].isdigit()):
        shown = said.decode(errors="replace").strip()
        message = f"du said {shown!r} about its size, expected a number of bytes"
        raise PreflightError.of(work.request.source, message, hint=MEASURE_HINT)
    return int(size[0])


def _note_of_container(system: Path) -> str | None:
    """What podman has written about the container whose root *system* is; None outside of one."""
    try:
        return (system / CONTAINER_ENVIRONMENT).read_text(errors="replace")
    except OSError:
        return None


def _stored_bytes(reference: str, work: Work) -> int | None:
    with open_stores(work) as stores:
        for store in stores.all:
            try:
                layers = store.image_layers(reference) if isinstance(store, LocalStores) else None
            except ValueError:
                return None  # an ID, which is not a name
            if layers is not None:
                return sum(layer.diff_size or 0 for _, layer in layers)
    return None
