"""The copy stage on its own, which no command offers: ``copy_alone STORE SOURCE_ROOT TARGET``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.events import Events
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.process.pool import Crew
from installer_plugin.process.runner import Runner
from installer_plugin.stages.copy import CopyOptions, copy
from installer_plugin.stages.discover import discover
from installer_plugin.stages.resolve import resolve
from installer_plugin.storage.base import EngineChoice
from installer_plugin.storage.engine.select import Selected, Surroundings, select_engines
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.local import open_local_stores
from installer_plugin.storage.store.target_store import find_target_store


@contextmanager
def selected_directly(store: Path, source_root: Path, crew: Crew) -> Iterator[tuple[Selected, ...]]:
    """All bound images of *source_root*, found in *store*, which is open until the context is left."""
    registries = RegistriesConf(aliases={})
    with Rootfs.open(source_root) as root, open_local_stores([store], registries) as local:
        images = resolve(discover(root).images, [local]).images
        surroundings = Surroundings((store,), signatures=False, crew=crew, runner=Runner())
        yield select_engines(EngineChoice.DIRECT, images, surroundings)


def main(store: Path, source_root: Path, target: Path) -> None:
    """Copy all bound images of *source_root* from *store* to *target* directly."""
    runner = Runner()
    with Crew(runner) as crew, selected_directly(store, source_root, crew) as selected:
        options = CopyOptions(selected=selected, scratch=(Path(os.environ["TMPDIR"]),))
        copy(find_target_store(target), options, Events(), runner)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
