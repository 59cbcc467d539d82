"""The order of an installation: bound images are first looked at when the disk is already wiped."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from standin.bound import bound_images, resolve
from standin.deploy import Wanted, deploy, deploy_composefs, find_deployment, init_repository
from standin.disk import Plan, fresh_disk
from standin.finalize import finalize
from standin.process import InstallError, run, say
from standin.setup import Setup
from standin.source import find_source
from standin.store import BootcStore

Mode = Literal["stored", "pull", "skip"]
Replace = Literal["wipe", "alongside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What all ways to install have in common."""

    bound_images: Mode
    source_imgref: str | None
    target_imgref: str | None
    stateroot: str
    kargs: tuple[str, ...]
    composefs: bool


def to_disk(setup: Setup, options: Options, plan: Plan) -> None:
    """Install to a disk or disk image that is made again."""
    with fresh_disk(plan) as disk:
        _install(setup, options, disk.root, disk.kargs)
        setup.reach("finalize")
        finalize((*((disk.boot,) if disk.boot else ()), disk.root))


def to_filesystem(
    setup: Setup, options: Options, root: Path, root_spec: str | None, replace: Replace | None
) -> None:
    """Install to a mounted file system; finalizing is the caller's."""
    if not root.is_mount():
        raise InstallError(f"Not a mountpoint: {root}")
    _make_room(root, replace)
    spec = root_spec if root_spec is not None else f"UUID={_uuid_of(root)}"
    _install(setup, options, root, (*((f"root={spec}",) if spec else ()), "rw"))


def finish_filesystem(setup: Setup, root: Path) -> None:
    """What `to-filesystem` does last, unless told otherwise."""
    setup.reach("finalize")
    boot = root / "boot"
    finalize((*((boot,) if boot.is_mount() else ()), root))


def check_deployed(root: Path) -> None:
    """All that `install finalize` does."""
    find_deployment(root)


def _install(setup: Setup, options: Options, root: Path, kargs: Sequence[str]) -> None:
    wanted = Wanted(
        source=find_source(setup.root, options.source_imgref),
        target_imgref=options.target_imgref,
        stateroot=options.stateroot,
        kargs=(*kargs, *options.kargs),
    )
    if options.composefs:
        # As in bootc: whatever --bound-images says, nobody looks at them here.
        setup.reach("deploy")
        deploy_composefs(root, wanted)
    else:
        _install_ostree(setup, options, root, wanted)
    say("Installation complete!")


def _install_ostree(setup: Setup, options: Options, root: Path, wanted: Wanted) -> None:
    setup.reach("resolve")
    images = _declared(setup, options.bound_images)
    init_repository(root, wanted.stateroot)
    setup.reach("store")
    store = BootcStore(root, setup)
    store.create()
    setup.reach("deploy")
    deploy(root, wanted)
    setup.reach("bootloader")
    say("Installing no bootloader: test stand-in")
    setup.reach("bound-images")
    for image in images:
        if options.bound_images == "pull":
            store.pull(image)
        else:
            store.push(image)
    if setup.labels_store:
        store.label(setup.root)
    check_deployed(root)


def _declared(setup: Setup, mode: Mode) -> list[str]:
    """Bound images of the running container, not of the source image; with `skip` not even read."""
    if mode == "skip":
        return []
    images = bound_images(setup.root)
    if mode == "stored":
        for image in images:
            resolve(image, setup.skopeo)
    return images


def _make_room(root: Path, replace: Replace | None) -> None:
    match replace:
        case "wipe":
            _empty(root)
        case "alongside":
            # A running system has its root read-only; only our mount is opened.
            run(("mount", "-o", "remount,bind,rw", root))
            if (root / "boot").is_dir():
                _empty(root / "boot")
        case None:
            _require_empty(root)


def _empty(directory: Path) -> None:
    """Delete what is in a directory, but nothing of a file system mounted below it."""
    device = directory.stat().st_dev
    for entry in directory.iterdir():
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()
        elif entry.stat().st_dev == device and not entry.is_mount():
            shutil.rmtree(entry)
        else:
            _empty(entry)


def _require_empty(root: Path) -> None:
    for entry in sorted(os.listdir(root)):  # noqa: PTH208 # names are enough
        if entry == "boot" and not any(path.is_file() for path in (root / "boot").rglob("*")):
            continue
        if entry != "lost+found":
            raise InstallError(f"Non-empty root filesystem; found {entry!r}")


def _uuid_of(root: Path) -> str:
    found = run(("findmnt", "--noheadings", "--output=UUID", f"--mountpoint={root}")).strip()
    if not found:
        raise InstallError(f"No filesystem uuid found in target root {root}")
    return found
