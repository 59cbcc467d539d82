"""Which engine copies from which kind of source, and which programs that needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from installer_plugin.model import ResolvedImage, SourceKind
from installer_plugin.process import Runner
from installer_plugin.storage.base import Engine
from installer_plugin.storage.podman import PodmanEngine
from installer_plugin.storage.remote import ScpEngine
from installer_plugin.storage.skopeo import SkopeoEngine


class EngineChoice(StrEnum):
    """``--engine``: what copies between local stores; other sources have one way each."""

    AUTO = "auto"
    SKOPEO = "skopeo"
    PODMAN = "podman"


WRAPPERS = ("unshare", "setpriv", "sync")
"""util-linux and coreutils programs around every engine."""


def select_engines(
    choice: EngineChoice, graph_roots: Sequence[Path], runner: Runner
) -> Mapping[SourceKind, Engine]:
    """The engine for each kind of source."""
    skopeo = SkopeoEngine(graph_roots, runner)
    podman = PodmanEngine(graph_roots, runner)
    return {
        SourceKind.CONTAINERS_STORAGE: podman if choice is EngineChoice.PODMAN else skopeo,
        SourceKind.OCI: skopeo,
        SourceKind.OCI_ARCHIVE: skopeo,
        SourceKind.DIR: skopeo,
        SourceKind.SSH: ScpEngine(runner),
    }


def required_tools(choice: EngineChoice, images: Sequence[ResolvedImage]) -> tuple[str, ...]:
    """Programs that copying *images* runs; none when there is nothing to copy."""
    if not images:
        return ()
    kinds = {image.source.kind for image in images}
    tools = [*WRAPPERS]
    if kinds - {SourceKind.SSH} and not (
        choice is EngineChoice.PODMAN and kinds <= {SourceKind.CONTAINERS_STORAGE, SourceKind.SSH}
    ):
        tools.append("skopeo")
    if SourceKind.SSH in kinds or choice is EngineChoice.PODMAN:
        tools.append("podman")
    if SourceKind.SSH in kinds:
        tools.append("ssh")
    return tuple(tools)
