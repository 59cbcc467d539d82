"""Which engine copies which image, why, and which programs that needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DamagedStoreError, DataError
from installer_plugin.model import ResolvedImage, SourceKind
from installer_plugin.process.pool import Crew
from installer_plugin.process.runner import Runner
from installer_plugin.storage.base import EngineChoice
from installer_plugin.storage.engine.base import Engine
from installer_plugin.storage.engine.direct import DirectEngine
from installer_plugin.storage.engine.direct_guards import Guard, Refusal, image_refusal
from installer_plugin.storage.engine.podman import PodmanEngine
from installer_plugin.storage.engine.scp import ScpEngine
from installer_plugin.storage.engine.skopeo import SkopeoEngine
from installer_plugin.storage.engine.source_layers import OpenStores


@dataclass(frozen=True, slots=True)
class Selected:
    """An image and the engine that is to copy it."""

    image: ResolvedImage
    engine: Engine
    refusal: Refusal | None = None
    """Why it is not copied directly, where that was asked for or preferred."""


def select_engines(
    choice: EngineChoice,
    images: Iterable[ResolvedImage],
    surroundings: Surroundings,
) -> tuple[Selected, ...]:
    """The engine for each of *images*, in their order; raises DamagedStoreError.

    With ``direct``, a refused image still gets an engine: its refusal is for the caller to report.
    """
    stores, runner = surroundings.graph_roots, surroundings.runner
    skopeo, podman = SkopeoEngine(stores, runner), PodmanEngine(stores, runner)
    direct, scp = DirectEngine(stores, surroundings.crew, runner), ScpEngine(runner)
    selected = []
    with OpenStores(surroundings.graph_roots) as opened:
        for image in images:
            kind = image.source.kind
            if kind is SourceKind.SSH:
                selected.append(Selected(image, scp))
            elif kind is not SourceKind.CONTAINERS_STORAGE:
                other = Refusal(Guard.OTHER_SOURCE, f"{image.source} is not a containers-storage")
                selected.append(Selected(image, skopeo, other))
            elif choice is EngineChoice.PODMAN:
                selected.append(Selected(image, podman))
            elif choice is EngineChoice.SKOPEO:
                selected.append(Selected(image, skopeo))
            else:
                refusal = _refusal(opened, image, signatures=surroundings.signatures)
                selected.append(Selected(image, skopeo if refusal else direct, refusal))
    return tuple(selected)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What engines work with."""

    graph_roots: tuple[Path, ...]
    """The local stores, primary first."""
    signatures: bool
    """Whether the containers policy demands some of local stores."""
    crew: Crew
    runner: Runner


def _refusal(stores: OpenStores, image: ResolvedImage, *, signatures: bool) -> Refusal | None:
    """Why *image* may not be copied directly; raises DamagedStoreError."""
    try:
        return image_refusal(stores.source_of(image).layers, signatures=signatures)
    except DataError as error:
        raise DamagedStoreError(error.subject, error.message, hint=error.hint) from error


def required_tools(selected: Sequence[Selected]) -> tuple[str, ...]:
    """Programs that the copying of *selected* runs; none when there is nothing to copy."""
    tools = [tool for each in selected for tool in each.engine.tools]
    return tuple(dict.fromkeys((*tools, "sync"))) if tools else ()
