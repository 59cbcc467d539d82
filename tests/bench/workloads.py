"""Images to copy: the reference work of the budgets, and shapes at the edges."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import run
from tests.support.stores import Store

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Files of one layer."""

    small: int = 0
    """Number of files of 1 to 16 KiB."""
    large: Sequence[int] = ()
    """Sizes of further files, in MiB."""
    tiny: int = 0
    """Number of files of 100 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Images on a shared base."""

    name: str
    base: Layer
    images: Sequence[Layer]


WORKLOADS = {
    work.name: work
    for work in (
        Workload(
            name="reference",
            base=Layer(small=22_000, large=(100, 100, 100, 100, 88)),
            images=(
                Layer(small=10_000, large=(50,)),
                Layer(small=18_000, large=(200, 150, 120)),
            ),
        ),
        Workload(name="1-image", base=Layer(small=3_000, large=(100,)), images=(Layer(small=500),)),
        Workload(
            name="10-images",
            base=Layer(small=3_000, large=(100,)),
            images=[Layer(small=500, large=(10,))] * 10,
        ),
        Workload(
            name="50-images",
            base=Layer(small=1_000, large=(20,)),
            images=[Layer(small=100, large=(4,))] * 50,
        ),
        Workload(name="tiny-files", base=Layer(tiny=1), images=(Layer(tiny=100_000),)),
        Workload(name="huge-files", base=Layer(tiny=1), images=(Layer(large=(500, 500, 500)),)),
    )
}
SMOKE = Workload(name="smoke", base=Layer(small=50), images=(Layer(small=10), Layer(tiny=20)))


def build(work: Workload, store: Store, folder: Path) -> list[str]:
    """Build the workload's images in *store*; returns their names."""
    noise = random.Random(work.name)  # noqa: S311 - the same sizes in every run
    base = f"localhost/{work.name}-base:1"
    _image(store, base, None, _tree(folder / "base", work.base, noise))
    names = []
    for number, layer in enumerate(work.images):
        name = f"localhost/{work.name}-{number}:1"
        _image(store, name, base, _tree(folder / str(number), layer, noise))
        names.append(name)
    return names


def _image(store: Store, name: str, base: str | None, tree: Path) -> None:
    context = tree.parent
    (context / "Containerfile").write_text(
        f'FROM {base or "scratch"}\nCOPY {tree.name} /{tree.name}\nCMD ["/none"]\n'
    )
    store.podman(
        "build", "--quiet", "--isolation=chroot", "--layers=false", "--tag", name, str(context)
    )
    run(("rm", "-rf", tree))


def _tree(tree: Path, layer: Layer, noise: random.Random) -> Path:
    for number, size in enumerate(_sizes(layer, noise)):
        path = tree / f"d{number // 1000}" / f"s{number // 50 % 20}" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, 4 * MIB):
                file.write(os.urandom(min(4 * MIB, size - start)))
    return tree


def _sizes(layer: Layer, noise: random.Random) -> Iterator[int]:
    yield from (noise.randrange(1 << 10, 16 << 10) for _ in range(layer.small))
    yield from (100 for _ in range(layer.tiny))
    yield from (size * MIB for size in layer.large)
