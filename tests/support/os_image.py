"""A bootc OS image in a store, made in no time: declarations, a kernel, what it says it has."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import osroot

from tests.hosts.scene import bind
from tests.support.commands import run
from tests.support.stores import Store

PYTHON = "3.11"


def os_root(root: Path, *images: str, bootc: bool = True, python: str = PYTHON) -> Path:
    """Make the root of an OS image that binds images and has a Python of this version, or none."""
    osroot.small_root(root)
    (root / "usr/lib/bootc/bound-images.d").mkdir(parents=True, exist_ok=True)
    bind(root, *images)
    if bootc:
        (root / "usr/bin/bootc").write_text("#!/bin/sh\nexit 0\n")
        (root / "usr/bin/bootc").chmod(0o755)
    if python:
        (root / f"usr/bin/python{python}").touch(0o755)
        (root / "usr/bin/python3").symlink_to(f"python{python}")
        library = root / f"usr/lib64/python{python}"
        library.mkdir(parents=True)
        (library / "os.py").touch()
    return root


def os_image(store: Store, name: str, root: Path, changes: Mapping[str, str] | None = None) -> str:
    """Put the root into the store as an image, and remove it; returns its ID in hex."""
    archive = root.with_suffix(".tar")
    run(("tar", "--create", "--file", archive, "--directory", root, "."))
    words = [
        word for key, value in (changes or {}).items() for word in ("--change", f"{key} {value}")
    ]
    store.podman("import", "--quiet", *words, str(archive), name)
    archive.unlink()
    shutil.rmtree(root)
    return store.image(name).id
