"""A stored layer that is not whole, or that nothing can carry, is known without reading its content."""

import gzip
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from installer_plugin.errors import Problem
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.storage.engine.source_check import MAX_PROBLEMS, layer_problems
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.records import LayerRecord
from tests.support.crafted import Entry, layer_tar
from tests.support.disks import FsKind, LoopFsFactory
from tests.support.handmade import LAYER, Handmade, handmade, packed, split

FOLDER = Entry(name="etc", type=tarfile.DIRTYPE, mode=0o755)
FILE = Entry(name="etc/file", content=b"content")


def _problems(
    layer: Handmade, *, by_tool: bool = False, target: Path | None = None
) -> tuple[Problem, ...]:
    record = LayerRecord(
        id=LAYER, parent=None, diff_id=None, diff_size=len(layer.tar), toc_digest=None, names=(),
        big_data_names=(), incomplete=False, mapped=False, raw={},
    )  # fmt: skip
    with GraphRoot(layer.root, Rootfs.open(layer.root)) as store:
        return layer_problems((store, record), by_tool=by_tool, target=target)


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
