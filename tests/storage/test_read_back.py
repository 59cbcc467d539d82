"""Layers that are proven while others are copied, and what of that stands when all is verified."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from installer_plugin.errors import DataError, Problem, VerificationError
from installer_plugin.events import Event, Events, Progress
from installer_plugin.expectations import expected_of_resolved
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import ResolvedImage, VerifiedImage
from installer_plugin.pipeline import copy_images
from installer_plugin.process import pool
from installer_plugin.process.pool import Crew
from installer_plugin.process.pool_worker import Ended, Job, Moved
from installer_plugin.process.runner import Runner
from installer_plugin.process.schedule import Needs
from installer_plugin.request import Context, Request, Work
from installer_plugin.stages.copy import Copied, CopyOptions, copy
from installer_plugin.stages.verify import VerifyOptions, verify
from installer_plugin.storage.base import Backend, EngineChoice
from installer_plugin.storage.engine import staging
from installer_plugin.storage.engine.select import Surroundings, select_engines
from installer_plugin.storage.layer.jobs import ProveLayer
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.layer.proof import LayerClaim
from installer_plugin.storage.layer.read_back import StagedOrStored, layer_files
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.target_store import TargetStore
from tests.support.commands import run
from tests.support.images import ImageSources
from tests.support.sources import SourceRootBuilder
from tests.support.stores import Store
from tests.support.values import diff_id

PROCESSORS = 2


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that were read, as often as they were; for all of them processes are worth it."""
    monkeypatch.setattr(pool, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr(pool, "usable_processors", lambda: PROCESSORS)
    monkeypatch.setattr(staging, "WORTH_A_FLUSH", 0)
    layers: list[str] = []
    do = Crew.do

    def watched(
        crew: Crew, jobs: Sequence[Job], needs: Needs | None = None, workers: int | None = None
    ) -> Generator[Moved | Ended]:
        layers.extend(job.claim.id for job in jobs if isinstance(job, ProveLayer))
        return do(crew, jobs, needs, workers)

    monkeypatch.setattr(Crew, "do", watched)
    return layers


@dataclass(frozen=True, slots=True)
class Scene:
    """Images of a store, and a target."""

    source: Store
    images: tuple[ResolvedImage, ...]
    target: TargetStore

    @property
    def layers(self) -> list[str]:
        """IDs of the layers that the target has."""
        with GraphRoot.open(self.target.graph_root) as root:
            return sorted(root.load().layers)

    def standing_on(self, layer: str) -> list[str]:
        """A layer and those that it is the parent of."""
        with GraphRoot.open(self.target.graph_root) as root:
            layers = root.load().layers.values()
        return [each.id for each in layers if layer in {each.id, each.parent}]

    def copy(self, *, read_back: bool = True) -> Copied:
        """Copy everything directly."""
        with Crew(Runner()) as crew:
            surroundings = Surroundings((self.source.root,), False, crew, Runner())  # noqa: FBT003
            selected = select_engines(EngineChoice.DIRECT, self.images, surroundings)
            scratch = (self.target.physical_root,)
            options = CopyOptions(selected=selected, scratch=scratch, read_back=read_back)
            return copy(self.target, options, Events(), Runner())

    def verify(self, there: Copied, events: Events | None = None) -> tuple[VerifiedImage, ...]:
        """Verify everything."""
        options = VerifyOptions(read_back=there.read_back)
        expected = expected_of_resolved(self.images)
        with Crew(Runner()) as crew, GraphRoot.open(self.target.graph_root) as store:
            return verify(store, expected, events or Events(), crew, options)

    def problems(self, there: Copied) -> tuple[Problem, ...]:
        with pytest.raises(VerificationError) as caught:
            self.verify(there)
        return caught.value.problems


@pytest.fixture
def scene(source: Store, images: tuple[ResolvedImage, ...], tmp_path: Path) -> Scene:
    root = tmp_path / "target"
    root.mkdir()
    bootc = root / "ostree/bootc"
    target = TargetStore(physical_root=root, backend=Backend.OSTREE, bootc_dir=bootc)
    return Scene(source, images, target)


def _nothing() -> Copied:
    return Copied((), ())


def test_every_layer_is_read_back_once_and_not_read_again(scene: Scene, read: list[str]) -> None:
    there = scene.copy()
    assert [each.resolved for each in there.images] == list(scene.images)
    assert len(scene.layers) > len(scene.images)
    assert sorted(each.claim.id for each in there.read_back) == sorted(read) == scene.layers
    read.clear()
    verified = scene.verify(there)
    assert read == []
    assert verified == scene.verify(_nothing())
    assert sorted(read) == scene.layers


def test_copy_command_reads_every_layer_once(
    scene: Scene, read: list[str], image_sources: ImageSources, source_root: SourceRootBuilder
) -> None:
    names = (image_sources.app_a.name, image_sources.app_b.name)
    units = {f"{number}.image": f"[Image]\nImage={name}\n" for number, name in enumerate(names)}
    request = Request(
        source=str(source_root(units)),
        stores=(str(scene.source.root),),
        target=scene.target.physical_root,
    )
    done = copy_images(Work(request, Context(Runner(), Events(), os.environ)))
    assert [verified.reference for _, verified in done.images] == list(names)
    assert sorted(read) == scene.layers


@pytest.mark.parametrize(
    "change",
    [(pool, "usable_processors", lambda: 1), (staging, "WORTH_A_FLUSH", 1 << 40)],
    ids=["nobody else is there", "too small"],
)
def test_layers_are_not_read_back_where_it_gains_nothing(
    scene: Scene,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[object, str, object],
) -> None:
    monkeypatch.setattr(*change)
    assert scene.copy().read_back == ()
    assert read == []


def test_layers_are_not_read_back_for_who_does_not_want_it(scene: Scene, read: list[str]) -> None:
    assert scene.copy(read_back=False).read_back == ()
    assert read == []


def test_progress_of_verification_begins_where_reading_back_has_ended(scene: Scene) -> None:
    seen: list[Event] = []

    class Sink:
        def send(self, event: Event) -> None:
            seen.append(event)

    scene.verify(scene.copy(), Events([Sink()]))
    said = [(x.reference, x.done == x.total) for x in seen if isinstance(x, Progress)]
    assert said == [(image.bound.reference, True) for image in scene.images]


# --- what is not the same any more ---------------------------------------------------------------


def _replace_tree(root: Path, layer: str) -> None:
    tree = root / tree_path(layer)
    run(("cp", "--archive", tree, tree.with_name("other")))
    shutil.rmtree(tree)
    tree.with_name("other").rename(tree)


def _replace_split(root: Path, layer: str) -> None:
    split = root / split_path(layer)
    content = split.read_bytes()
    split.unlink()
    split.write_bytes(content)


def _rewrite_split(root: Path, layer: str) -> None:
    split = root / split_path(layer)
    split.write_bytes(split.read_bytes())


def _remove_tree(root: Path, layer: str) -> None:
    shutil.rmtree(root / tree_path(layer))


def _remove_split(root: Path, layer: str) -> None:
    (root / split_path(layer)).unlink()


@pytest.mark.parametrize("change", [_replace_split, _rewrite_split])
def test_layer_of_another_tar_split_file_than_was_read_is_read(
    scene: Scene, read: list[str], change: Callable[[Path, str], None]
) -> None:
    there = scene.copy()
    changed = scene.layers[0]
    change(scene.target.graph_root, changed)
    read.clear()
    scene.verify(there)
    assert read == [changed]


def test_layer_of_another_tree_than_was_read_is_read_and_those_on_it(
    scene: Scene, read: list[str]
) -> None:
    there = scene.copy()
    (base,) = (layer for layer in scene.layers if len(scene.standing_on(layer)) == 3)
    _replace_tree(scene.target.graph_root, base)
    read.clear()
    scene.verify(there)
    assert sorted(read) == sorted(scene.standing_on(base))


@pytest.mark.parametrize("change", [_remove_tree, _remove_split])
def test_layer_that_has_lost_something_since_is_reported_as_always(
    scene: Scene, change: Callable[[Path, str], None]
) -> None:
    there = scene.copy()
    for layer in scene.layers:
        change(scene.target.graph_root, layer)
    assert scene.problems(there) == scene.problems(_nothing())


def test_damage_that_reading_back_meets_is_reported_as_always(scene: Scene) -> None:
    with GraphRoot.open(scene.source.root) as root:
        records = root.load()
        (image,) = (each for each in records.images if each.id == scene.images[0].image_id)
        tree = scene.source.root / tree_path(records.chain(image.layer)[0].id)
    file = max(tree.rglob("*"), key=lambda path: path.lstat().st_size * path.is_file())
    file.write_bytes(file.read_bytes()[::-1])
    there = scene.copy()
    assert len(there.read_back) == len(scene.layers) - 1
    problems = scene.problems(there)
    assert [problem for problem in problems if file.name in problem.where]
    assert problems == scene.problems(_nothing())


# --- a layer on its way --------------------------------------------------------------------------


def _stage(place: Path, layer: str) -> None:
    (place / tree_path(layer)).mkdir(parents=True)
    (place / split_path(layer)).parent.mkdir(exist_ok=True)
    (place / split_path(layer)).write_text("entries")


def _files(root: StagedOrStored, layer: str) -> Mapping[str, int]:
    """Inode numbers, by what they are of."""
    found = {}
    for path, opened in (
        (tree_path(layer), root.open_directory),
        (split_path(layer), root.open_file),
    ):
        fd = opened(path)
        found[path] = os.fstat(fd).st_ino
        os.close(fd)
    assert root.resolve(tree_path(layer)).path == tree_path(layer)
    return found


def test_layer_is_found_where_it_was_staged_and_where_it_was_moved(tmp_path: Path) -> None:
    staged, store = tmp_path / "staged", tmp_path / "store"
    _stage(staged, "a")
    _stage(store, "b")
    with StagedOrStored(staged, store) as root:
        before = _files(root, "a")
        assert _files(root, "b")
        for path in ("overlay/a", split_path("a")):
            (staged / path).rename(store / path)
        assert _files(root, "a") == before
        with pytest.raises(FileNotFoundError):
            root.open_directory(tree_path("c"))


def test_files_of_a_layer_are_what_they_seem(tmp_path: Path) -> None:
    _stage(tmp_path, "a")
    (tmp_path / split_path("a")).unlink()
    (tmp_path / split_path("a")).mkdir()
    claim = LayerClaim(id="a", parent=None, diff_id=diff_id("a"), size=None)
    with Rootfs.open(tmp_path) as root, pytest.raises(DataError, match="expected a regular file"):
        layer_files(root, claim)
