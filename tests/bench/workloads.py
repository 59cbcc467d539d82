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
    share: int = 0
    """Number of entries of a tree like ``/usr/share``: see :data:`SHARE_SIZES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Images on a shared base."""

    name: str
    base: Sequence[Layer]
    images: Sequence[Sequence[Layer]]
    """Of each image, the layers on top of the base."""


SHARE_SIZES = (
    (0.10, 60, 350), (0.25, 350, 670), (0.50, 670, 1330), (0.75, 1330, 2950),
    (0.90, 2950, 11_900), (0.99, 11_900, 152_000), (1.00, 152_000, 1_200_000),
)  # fmt: skip
"""Sizes of files as ``/usr/share`` of a Debian has them: up to this share of all, from, to (bytes)."""
SHARE_DIRECTORIES, SHARE_LINKS, SHARE_HARD_LINKS = 0.063, 0.066, 0.004
"""Shares of all entries there; hard links as in ``/usr/share/zoneinfo``."""
SHARE_DEPTHS = ((0.04, 2), (0.57, 3), (0.83, 4), (0.96, 5), (0.98, 6), (1.00, 8))
"""Up to this share of all entries, their depth."""

_APPLICATION = (1_900, 240, 35, 800, 12, 90, 6, 300, 3)
"""Entries of one application's layers, the largest first; public images have few large layers and many
of some files each."""

WORKLOADS = {
    work.name: work
    for work in (
        Workload(
            name="reference",
            base=(Layer(small=22_000, large=(100, 100, 100, 100, 88)),),
            images=(
                (Layer(small=10_000, large=(50,)),),
                (Layer(small=18_000, large=(200, 150, 120)),),
            ),
        ),
        Workload(
            name="1-image",
            base=(Layer(small=3_000, large=(100,)),),
            images=((Layer(small=500),),),
        ),
        Workload(
            name="10-images",
            base=(Layer(small=3_000, large=(100,)),),
            images=[(Layer(small=500, large=(10,)),)] * 10,
        ),
        Workload(
            name="50-images",
            base=(Layer(small=1_000, large=(20,)),),
            images=[(Layer(small=100, large=(4,)),)] * 50,
        ),
        Workload(name="tiny-files", base=(Layer(tiny=1),), images=((Layer(tiny=100_000),),)),
        Workload(
            name="huge-files", base=(Layer(tiny=1),), images=((Layer(large=(500, 500, 500)),),)
        ),
        Workload(
            name="big-layer",
            base=(Layer(share=55_000, large=(60, 20)),),
            images=((Layer(tiny=3),),),
        ),
        Workload(
            name="real-mix",
            base=(Layer(share=6_300, large=(18, 9)), Layer(share=700, large=(6,)), Layer(tiny=2)),
            images=(
                (),
                [Layer(share=n) for n in _APPLICATION[:4]],
                (Layer(share=14_000, large=(70, 30)), *(Layer(share=n) for n in _APPLICATION[1:])),
            ),
        ),
    )
}
SMOKE = Workload(
    name="smoke",
    base=(Layer(small=50),),
    images=((Layer(small=10),), (Layer(tiny=20), Layer(share=90))),
)


def build(work: Workload, store: Store, folder: Path) -> list[str]:
    """Build the workload's images in *store*; returns their names."""
    noise = random.Random(work.name)  # noqa: S311 - the same sizes in every run
    base = _chain(store, f"{work.name}-base", "", work.base, (folder / "base", noise))
    return [
        _chain(store, f"{work.name}-{number}", base, layers, (folder / str(number), noise))
        for number, layers in enumerate(work.images)
    ]


def _chain(
    store: Store, name: str, base: str, layers: Sequence[Layer], place: tuple[Path, random.Random]
) -> str:
    """An image of *layers* on *base*, each built on the one before; its name.

    *place*: a directory for the files, and what draws their sizes.
    """
    folder, noise = place
    tag = f"localhost/{name}:1"
    for number, layer in enumerate(layers):
        _image(store, tag, base, _tree(folder / f"{folder.name}-{number}", layer, noise))
        base = tag
    if not layers:
        store.podman("tag", base, tag)
    return tag


def _image(store: Store, name: str, base: str, tree: Path) -> None:
    context = tree.parent
    (context / "Containerfile").write_text(
        f'FROM {base or "scratch"}\nCOPY {tree.name} /{tree.name}\nCMD ["/none"]\n'
    )
    store.podman(
        "build", "--quiet", "--isolation=chroot", "--layers=false", "--tag", name, str(context)
    )
    run(("rm", "-rf", tree))


def _tree(tree: Path, layer: Layer, noise: random.Random) -> Path:
    tree.mkdir(parents=True)
    for number, size in enumerate(_sizes(layer, noise)):
        path = tree / f"d{number // 1000}" / f"s{number // 50 % 20}" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _fill(path, size)
    if layer.share:
        _add_share(tree / "share", layer.share, noise)
    return tree


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, 4 * MIB):
            file.write(os.urandom(min(4 * MIB, size - start)))


def _add_share(top: Path, count: int, noise: random.Random) -> None:
    """Make *count* entries in the directory *top*, which is not there yet."""
    by_depth = _add_directories(top, int(count * SHARE_DIRECTORIES), noise)
    made = top
    for number in range(count - int(count * SHARE_DIRECTORIES)):
        depth = _drawn(SHARE_DEPTHS, noise)[0]
        folder = noise.choice(next(by_depth[d] for d in range(depth - 1, -1, -1) if by_depth[d]))
        path, lot = folder / f"entry-{number}", noise.random()
        if lot < SHARE_LINKS:
            path.symlink_to(f"../{made.name}")
        elif lot < SHARE_LINKS + SHARE_HARD_LINKS and made != top:
            path.hardlink_to(made)
        else:
            _fill(path, noise.randint(*_drawn(SHARE_SIZES, noise)))
            made = path


def _add_directories(top: Path, count: int, noise: random.Random) -> list[list[Path]]:
    """*top* and directories below it, by their depth."""
    by_depth: list[list[Path]] = [[top], *([] for _ in range(8))]
    top.mkdir()
    for number in range(count):
        depth = next(d for d in (min(1 + number % 4, 7), 3, 2, 1) if by_depth[d - 1])
        path = noise.choice(by_depth[depth - 1]) / f"directory-{number}"
        path.mkdir()
        by_depth[depth].append(path)
    return by_depth


def _drawn(
    table: Sequence[tuple[float, *tuple[int, ...]]], noise: random.Random
) -> tuple[int, ...]:
    lot = noise.random()
    return next(tuple(values) for limit, *values in table if lot <= limit)


def _sizes(layer: Layer, noise: random.Random) -> Iterator[int]:
    yield from (noise.randrange(1 << 10, 16 << 10) for _ in range(layer.small))
    yield from (100 for _ in range(layer.tiny))
    yield from (size * MIB for size in layer.large)
