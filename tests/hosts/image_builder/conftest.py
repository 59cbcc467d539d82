"""The single file, and OS images in a store of their own."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from installer_plugin.hosts.image_builder.single_file import single_file
from tests.faults.scene import APP, OTHER, SMALL, build_images, little_images
from tests.support.os_image import os_image, os_root
from tests.support.stores import Store

OS, NONE, OLD, OLD_PINNED = (f"localhost/os-{name}:1" for name in ("new", "none", "old", "pinned"))
NO_BOOTC, GONE, WRONG = (f"localhost/os-{name}:1" for name in ("plain", "gone", "wrong"))
BUILD = "localhost/build:1"
MISSING = ("localhost/gone:1", "localhost/gone:2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A store with OS images and what they bind; never to be changed by a test."""

    store: Store
    ids: dict[str, str]
    """Of the OS images, hex."""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program as one file."""
    file = tmp_path_factory.mktemp("program") / "bootc-bound-images.pyz"
    file.write_bytes(single_file())
    return file


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """OS images of every kind that matters."""
    base = tmp_path_factory.mktemp("os")
    store = build_images(base, little_images()).store
    pinned = store.image(SMALL)
    roots = {
        OS: os_root(base / "new", APP, OTHER, SMALL),
        NONE: os_root(base / "none"),
        OLD: os_root(base / "old", APP, SMALL, python="3.9"),
        OLD_PINNED: os_root(
            base / "pinned", f"{SMALL.split(':')[0]}@{pinned.digest}", python="3.9"
        ),
        NO_BOOTC: os_root(base / "plain", APP, bootc=False),
        GONE: os_root(base / "gone", APP, *MISSING),
        WRONG: os_root(base / "wrong", APP, "%n"),
        BUILD: os_root(base / "build", OTHER),
    }
    time = {"LABEL": "containers.bootc=1"}
    return Built(
        store=store, ids={name: os_image(store, name, root, time) for name, root in roots.items()}
    )
