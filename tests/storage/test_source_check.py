"""A stored layer that is not whole, or that nothing can carry, is known without reading its content."""

import gzip
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from installer_plugin.errors import Problem
from installer_plugin.model import ResolvedImage
from installer_plugin.process import pool
from installer_plugin.process.pool import Crew
from installer_plugin.process.runner import Runner
from installer_plugin.stages.resolve import resolve
from installer_plugin.storage.engine.source_jobs import (
    MAX_PROBLEMS,
    CheckLayer,
    Examined,
    PartExamined,
)
from installer_plugin.storage.engine.source_layers import SourceCheck, check_stored
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.local import open_local_stores
from installer_plugin.storage.store.graph_root import GraphRoot
from tests.support.crafted import Entry, layer_tar
from tests.support.disks import FsKind, LoopFsFactory
from tests.support.handmade import LAYER, Handmade, handmade, packed, split
from tests.support.images import ImageSources
from tests.support.stores import copy_store
from tests.support.together import chunks_of
from tests.support.values import bound

FOLDER = Entry(name="etc", type=tarfile.DIRTYPE, mode=0o755)
FILE = Entry(name="etc/file", content=b"content")


def _problems(
    layer: Handmade, *, by_tool: bool = False, target: Path | None = None
) -> tuple[Problem, ...]:
    check = CheckLayer(
        store=layer.root, shown=layer.root, layer_id=LAYER, size=len(layer.tar), by_tool=by_tool,
        target=target,
    )  # fmt: skip
    alone = check.run(lambda _: None)
    assert check.joined(_parts(check)) == alone
    return alone.problems


def _parts(check: CheckLayer, workers: int = 2) -> list[object]:
    """What each of several finds who examine the layer together, in chunks of few entries."""
    with (
        chunks_of(2),
        check.parts(workers) as parts,
        ThreadPoolExecutor(workers) as threads,
    ):
        return list(threads.map(lambda part: part.run(lambda _: None), parts))


def _streamed(layer: Handmade, *entries: Entry) -> Handmade:
    """The same files with the stream of other *entries*."""
    stream = Handmade(layer.root, layer_tar(entries))
    layer.tar_split.write_bytes(packed(split(stream.tar)))
    return stream


@pytest.mark.parametrize("by_tool", [False, True])
def test_whole_layer_has_no_problem(tmp_path: Path, by_tool: bool) -> None:
    dots = Entry(name="etc/../top", content=b"x")
    again = Entry(name="etc", type=tarfile.DIRTYPE, mode=0o755)
    layer = handmade(tmp_path / "store", [FOLDER, FILE, dots, again, Entry(name=".wh.gone")])
    assert _problems(layer, by_tool=by_tool) == ()


def test_layer_is_examined_once_by_all_who_share_it(tmp_path: Path) -> None:
    files = [Entry(name=f"etc/{number}", content=b"x" * number) for number in range(50)]
    layer = handmade(tmp_path / "store", [FOLDER, *files, Entry(name="etc/.wh.gone")])
    size = len(layer.tar)
    check = CheckLayer(store=layer.root, shown=layer.root, layer_id=LAYER, size=size)
    parts = [part for part in _parts(check, 3) if isinstance(part, PartExamined)]
    assert len(parts) == 3
    assert sum(part.size for part in parts) == size
    names = sorted(name for part in parts for name in part.names)
    assert names == sorted([b"etc", *(entry.name.encode() for entry in files)])
    # Nothing is left to find it again with.
    shutil.rmtree(layer.root)
    assert check.joined(parts) == Examined(())


@pytest.mark.parametrize(
    "second",
    [PartExamined(5, (b"a",), (), untried=False), PartExamined(5, (), (b"a",), untried=False),
     PartExamined(4, (b"b",), (), untried=False), None],
    ids=["same-name", "whiteout", "shorter", "fault"],
)  # fmt: skip
def test_parts_that_may_matter_to_each_other_prove_nothing(
    second: PartExamined | None, tmp_path: Path
) -> None:
    check = CheckLayer(store=tmp_path, shown=tmp_path, layer_id=LAYER, size=10)
    first = PartExamined(5, (b"a",), (), untried=True)
    (problem, _) = check.joined([first, second]).problems
    assert problem.message.startswith("is missing from the source")
    fine = PartExamined(5, (b"b",), (b"c",), untried=False)
    assert check.joined([first, fine]) == Examined((), untried=True)


def _cut(layer: Handmade) -> None:
    layer.tar_split.write_bytes(packed(split(layer.tar)[:2]))


def _cut_gzip(layer: Handmade) -> None:
    layer.tar_split.write_bytes(layer.tar_split.read_bytes()[:-9])


def _link_in_its_place(layer: Handmade) -> None:
    (layer.diff / "etc/file").unlink()
    (layer.diff / "etc/file").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("damage", "place", "message"),
    [
        (lambda s: shutil.rmtree(s.diff), "/diff", "is missing from the source"),
        (lambda s: shutil.rmtree(s.diff.parent), "/diff", "is missing from the source"),
        (lambda s: s.tar_split.unlink(), ".tar-split.gz", "is missing from the source"),
        (lambda s: s.tar_split.write_bytes(b""), ".tar-split.gz", "describes 0 bytes"),
        (lambda s: s.tar_split.write_bytes(gzip.compress(b"")), ".gz", "describes 0 bytes"),
        (_cut, ".tar-split.gz", "bytes, expected"),
        (_cut_gzip, ".tar-split.gz", "is damaged"),
        (lambda s: s.tar_split.write_bytes(b"rubbish"), ".tar-split.gz", "is damaged"),
        (lambda s: (s.diff / "etc/file").unlink(), "/etc/file", "is missing from the source"),
        (lambda s: os.truncate(s.diff / "etc/file", 1), "/etc/file", "has 1 bytes, expected 7"),
        (_link_in_its_place, "/etc/file", "is a symbolic link, expected a regular file"),
        (lambda s: (s.diff / "etc").rename(s.diff / "x"), "/etc/file", "is missing"),
    ],
)
def test_damage_names_the_source_and_says_to_pull_again(
    damage: Callable[[Handmade], object], place: str, message: str, tmp_path: Path
) -> None:
    layer = handmade(tmp_path / "store", [FOLDER, FILE])
    damage(layer)
    (problem,) = _problems(layer)
    assert problem.subject.startswith(str(layer.root))
    assert problem.subject.endswith(place)
    assert message in problem.message
    assert "pull it again" in problem.hint


SPARSE = {"GNU.sparse.name": "s"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([FOLDER, FILE, FILE], "is twice in the layer's tar stream"),
        ([FOLDER, FILE, Entry(name="./etc/../etc/file", content=b"other")], "is twice"),
        ([FOLDER, FILE, Entry(name="/etc/file")], "is twice"),
        ([FOLDER, FILE, Entry(name="etc/file", type=tarfile.SYMTYPE, target="x")], "is twice"),
        ([FOLDER, FILE, Entry(name="etc/.wh.file")], "is removed by the same layer"),
        ([Entry(name="etc/.wh.gone", content=b"x")], "is a whiteout with content"),
        ([Entry(name="etc/../../up", content=b"x")], "leads out of the layer"),
        ([Entry(name="s", content=b"123", pax=SPARSE)], "as a sparse file"),
        ([Entry(name="s", type=b"S")], "as a sparse file"),
        ([Entry(name="multi", type=b"M")], "of the type b'M'"),
    ],
)
def test_entry_that_nothing_can_carry_is_the_builders_to_change(
    entries: list[Entry], message: str, tmp_path: Path
) -> None:
    layer = handmade(tmp_path / "store", [FOLDER, FILE])
    problems = _problems(_streamed(layer, *entries))
    assert message in problems[0].message
    assert "build the image again" in problems[0].hint


def test_content_that_only_a_tool_would_reach_outside(tmp_path: Path) -> None:
    layer = handmade(tmp_path / "store", [FOLDER, FILE])
    (layer.diff / "etc").rename(layer.diff / "real")
    (layer.diff / "etc").symlink_to("/real")
    assert _problems(layer) == ()
    (problem,) = _problems(layer, by_tool=True)
    assert problem.subject.endswith("/etc/file")


def test_list_of_problems_ends(tmp_path: Path) -> None:
    files = [Entry(name=f"etc/{number}", content=b"x") for number in range(20)]
    layer = handmade(tmp_path / "store", [FOLDER, *files])
    shutil.rmtree(layer.diff / "etc")
    assert len(_problems(layer)) == MAX_PROBLEMS


@pytest.mark.parametrize(
    ("sizes", "kind", "message"),
    [
        ({"user.big": 60_000}, "ext4", "user.big of 60000 bytes does not fit"),
        ({"user.a": 800, "user.b": 800}, "ext4", "user.b of 800 bytes does not fit"),
        ({"user.big": 60_000}, "btrfs", "user.big of 60000 bytes does not fit"),
        ({"user.big": 60_000}, "xfs", ""),
        ({"user.small": 800}, "ext4", ""),
    ],
)
def test_attributes_are_tried_on_the_target(
    sizes: dict[str, int], kind: FsKind, message: str, tmp_path: Path, loop_fs: LoopFsFactory
) -> None:
    pax = {f"SCHILY.xattr.{name}": "z" * size for name, size in sizes.items()}
    layer = handmade(tmp_path / "store", [FOLDER])
    layer = _streamed(layer, FOLDER, Entry(name="empty", pax=pax))
    mount = loop_fs(kind, 400 << 20).mount
    before = sorted(mount.iterdir())
    problems = _problems(layer, target=mount)
    assert [problem.subject for problem in problems] == [f"{layer.diff}/empty"] * bool(message)
    assert all(message in p.message and f"({kind})" in p.message for p in problems)
    assert all("xfs" in problem.hint for problem in problems)
    assert sorted(mount.iterdir()) == before


# --- all layers of a store -----------------------------------------------------------------------


@pytest.fixture
def damaged(image_sources: ImageSources, tmp_path: Path) -> tuple[Path, list[ResolvedImage]]:
    """A store of which every layer has lost its files, and images of it."""
    store = copy_store(image_sources.store.root, tmp_path / "copy").root
    names = (image_sources.app_a.name, image_sources.web.name)
    with open_local_stores([store], RegistriesConf(aliases={})) as stores:
        images = resolve([bound(name) for name in names], [stores]).images
    for folder in store.glob("overlay/*/diff"):
        shutil.rmtree(folder)
    return store, list(images)


def _checked(
    store: Path, images: Sequence[tuple[ResolvedImage, bool]], whole: Mapping[str, bool]
) -> tuple[list[str], Mapping[str, bool]]:
    asked = SourceCheck(images=images, stores=[store], whole=whole)
    with Crew(Runner()) as crew:
        problems, found = check_stored(asked, crew)
    assert {each.where for each in problems} <= {each.bound.reference for each, _ in images}
    return [each.subject for each in problems], found


@pytest.mark.parametrize("workers", [1, 2])
def test_problems_come_in_the_order_of_the_images_whoever_finds_them(
    damaged: tuple[Path, list[ResolvedImage]], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, images = damaged
    monkeypatch.setattr(pool, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr(pool, "usable_processors", lambda: workers)
    layers = [layer.diff_id for layer in dict.fromkeys(each for i in images for each in i.layers)]
    with GraphRoot.open(store) as root:
        by_diff = {layer.diff_id: layer.id for layer in root.load().layers.values()}
    expected = [f"{store}/overlay/{by_diff[diff_id]}/diff" for diff_id in layers]
    assert len(expected) > 2
    subjects, whole = _checked(store, [(image, False) for image in images], {})
    assert subjects == expected
    assert whole == {}


@pytest.mark.parametrize(
    ("known", "by_tool", "again"),
    [(None, False, True), (False, False, False), (False, True, True), (True, False, False),
     (True, True, False)],
)  # fmt: skip
def test_layer_that_was_found_whole_is_not_looked_at_again(
    damaged: tuple[Path, list[ResolvedImage]], known: bool | None, by_tool: bool, again: bool
) -> None:
    """Unless a tool is to read it that confines no link, and nobody has looked for those."""
    store, images = damaged
    with GraphRoot.open(store) as root:
        whole = {} if known is None else dict.fromkeys(root.load().layers, known)
    subjects, found = _checked(store, [(images[0], False), (images[0], by_tool)], whole)
    assert bool(subjects) == again
    assert found == whole


def test_whole_layers_are_named_with_who_may_read_them(image_sources: ImageSources) -> None:
    store = image_sources.store.root
    with open_local_stores([store], RegistriesConf(aliases={})) as stores:
        (image,) = resolve([bound(image_sources.app_a.name)], [stores]).images
    for by_tool in (False, True):
        subjects, whole = _checked(store, [(image, by_tool), (image, False)], {})
        assert subjects == []
        assert list(whole.values()) == [by_tool] * len(image.layers)


def test_layer_whose_attributes_need_a_target_is_looked_at_again(tmp_path: Path) -> None:
    entry = Entry(name="empty", pax={"SCHILY.xattr.user.big": "z" * 800})
    layer = _streamed(handmade(tmp_path / "store", [FOLDER]), FOLDER, entry)
    check = CheckLayer(store=layer.root, shown=layer.root, layer_id=LAYER, size=len(layer.tar))
    assert check.run(lambda _: None) == Examined((), untried=True)
    assert check.run(lambda _: None) != replace(check, target=tmp_path).run(lambda _: None)
