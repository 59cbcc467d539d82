"""Copies of trees, within a file system and between two, have everything that the original has."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.storage.layer import file_copy
from installer_plugin.storage.layer.entry_copy import AHEAD_FILES
from installer_plugin.storage.layer.file_copy import Moved
from installer_plugin.storage.layer.jobs import CopyLayer, CopyPart
from installer_plugin.storage.layer.tree_copy import BUNDLE, OPEN_LEVELS, copy_tree
from tests.support.disks import FsKind, LoopFsFactory
from tests.support.leftovers import open_descriptors
from tests.support.tricky import write_base, write_tree

Described = dict[bytes, tuple[object, ...]]
MIB = 1 << 20


def described(root: Path) -> Described:
    """Everything about a tree that a layer can record, by path."""
    names: dict[int, list[bytes]] = {}
    found: Described = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in (*folders, *files))):  # noqa: PTH118
            relative = path[len(top) :]
            seen = os.lstat(path)
            if not stat.S_ISDIR(seen.st_mode):
                names.setdefault(seen.st_ino, []).append(relative)
            found[relative] = (
                seen.st_mode, seen.st_uid, seen.st_gid, seen.st_rdev, seen.st_mtime_ns,
                _content(path, seen), _xattrs(path), names.get(seen.st_ino, []),
            )  # fmt: skip
    for group in names.values():
        group.sort()
    return found


def _content(path: bytes, seen: os.stat_result) -> str | bytes:
    if stat.S_ISLNK(seen.st_mode):
        return os.fsencode(Path(os.fsdecode(path)).readlink())
    if stat.S_ISREG(seen.st_mode):
        return hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
    return b""


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


class _Together:
    """How many copy a tree together."""

    workers = 1


together = _Together()


@pytest.fixture(params=[1, 3], ids=["alone", "together"])
def _alone_or_together(request: pytest.FixtureRequest) -> Iterator[None]:
    together.workers = request.param
    yield
    together.workers = 1


pytestmark = pytest.mark.usefixtures("_alone_or_together")


def _copy_together(source: int, target: Path, moved: Moved) -> None:
    """Copy an open directory as several workers do."""
    layer = CopyLayer(Path("/"), "layer", target, 1)
    with ExitStack() as stack:
        parts = stack.enter_context(layer.parts(together.workers))
        pool = stack.enter_context(ThreadPoolExecutor(together.workers))
        ends = [pool.submit(_copy_part, part, source, target, moved) for part in parts]
        for end in ends:
            end.result()
    assert not parts[0].links.exists()


def _copy_part(part: CopyPart, source: int, target: Path, moved: Moved) -> None:
    """The same as the part does with a layer of a store."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    own = os.dup(source)
    try:
        part.copy(own, fd, moved)
    finally:
        os.close(fd)
        os.close(own)


def copy(source: Path, target: Path, moved: Moved) -> None:
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    before = open_descriptors()
    try:
        if together.workers == 1:
            copy_tree(fds[0], fds[1], moved)
        else:
            _copy_together(fds[0], target, moved)
    finally:
        assert open_descriptors() == before, "descriptors are left open"
        for fd in fds:
            os.close(fd)


def copied(source: Path, target: Path) -> int:
    """Copy, and return the bytes that were reported."""
    moved: list[int] = []
    target.mkdir()
    copy(source, target, moved.append)
    return sum(moved)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One of everything."""
    root = tmp_path / "tree"
    root.mkdir()
    write_base(root)
    write_tree(root)
    os.mknod(root / "whiteout", stat.S_IFCHR, 0)
    os.link(root / "whiteout", root / "whiteout-2")
    (root / "link").symlink_to("nowhere")
    os.link(root / "link", root / "link-2", follow_symlinks=False)
    os.lchown(root / "link", 7, 8)
    os.setxattr(root / "opt", "trusted.overlay.opaque", b"y")
    os.setxattr(root / "etc", "user.note", b"directory")
    os.chown(root / "data", 1234, 4321)
    (root / "data").chmod(0o2770)
    os.utime(root / "link", ns=(5, 1_234_567_891_234_567_891), follow_symlinks=False)
    os.utime(root / "data", ns=(5, 1_234_567_891_234_567_892))
    return root


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_copy_within_a_file_system_is_the_same(tree: Path, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        copied(tree, tmp_path / "copy")
    finally:
        os.umask(before)
    assert described(tmp_path / "copy") == described(tree)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_copy_to_another_file_system_is_the_same(
    tree: Path, loop_fs: LoopFsFactory, kind: FsKind
) -> None:
    target = loop_fs(kind).mount / "copy"
    copied(tree, target)
    assert described(target) == described(tree)


def test_holes_stay_holes_and_are_no_work(tmp_path: Path, loop_fs: LoopFsFactory) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, islands in {"none": [], "start": [0], "middle": [3, 7], "end": [15]}.items():
        with (source / name).open("wb") as file:
            file.truncate(16 * MIB)
            for island in islands:
                file.seek(island * MIB)
                file.write(b"x" * MIB)
    target = loop_fs("ext4").mount / "copy"
    assert copied(source, target) == 4 * MIB
    assert described(target) == described(source)
    used = sum(path.stat().st_blocks for path in target.iterdir()) * 512
    assert used < 5 * MIB


def test_label_of_the_source_is_left_behind(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("labelled")
    os.setxattr(source / "file", "security.selinux", b"system_u:object_r:bin_t:s0\0")
    copied(source, tmp_path / "copy")
    assert "security.selinux" not in os.listxattr(tmp_path / "copy/file")


def test_more_files_than_are_read_ahead(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3 * AHEAD_FILES + 1):
        (source / str(number)).write_text(f"content {number}\n")
    for number in range(AHEAD_FILES):
        (source / f"also-{number}").hardlink_to(source / str(number))
    copied(source, tmp_path / "copy")
    assert described(tmp_path / "copy") == described(source)


def test_hard_links_lead_to_one_file_whoever_meets_its_names(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4 * BUNDLE):
        folder = source / f"folder-{number % 7}"
        folder.mkdir(exist_ok=True)
        group = source / "folder-0" / f"group-{number % 5}"
        if group.exists():
            (folder / f"name-{number}").hardlink_to(group)
        else:
            group.write_text(f"content {number}\n" * number)
            os.chown(group, number, number)
            group.chmod(0o4755)
    copied(source, tmp_path / "copy")
    assert described(tmp_path / "copy") == described(source)
    assert {path.stat().st_nlink for path in (tmp_path / "copy").glob("*/group-*")} == {
        path.stat().st_nlink for path in source.glob("*/group-*")
    }


def test_tree_that_is_deeper_than_directories_are_kept_open(tmp_path: Path) -> None:
    source = tmp_path / "source"
    deep = source
    for level in range(3 * OPEN_LEVELS):
        deep = deep / "d"
        deep.mkdir(parents=True)
        (deep / "file").write_text(str(level))
        (deep / "beside").mkdir()
        (deep / "beside/file").write_text(f"beside {level}")
        os.chown(deep, level, level)
    copied(source, tmp_path / "copy")
    assert described(tmp_path / "copy") == described(source)


def test_links_are_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret\n")
    source = tmp_path / "source"
    source.mkdir()
    (source / "folder").symlink_to(outside)
    (source / "file").symlink_to(outside / "secret")
    copied(source, tmp_path / "copy")
    assert described(tmp_path / "copy") == described(source)
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_full_target_is_the_disks_error(tmp_path: Path, loop_fs: LoopFsFactory) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(200 * MIB))
    with pytest.raises(OSError, match="No space") as caught:
        copied(source, loop_fs("ext4", 100 * MIB).mount / "copy")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "attributes",
    [{"user.big": 60_000}, {f"user.many{number}": 1000 for number in range(9)}],
    ids=["large", "many"],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_attribute_that_the_target_cannot_hold_is_named(
    kind: str, attributes: dict[str, int], tmp_path: Path, loop_fs: LoopFsFactory
) -> None:
    source = loop_fs("xfs", 400 * MIB).mount / "source"
    place = source / kind
    source.mkdir()
    place.mkdir() if kind == "folder" else place.touch()
    for name, size in attributes.items():
        os.setxattr(place, name, b"z" * size)
    with pytest.raises(DataError) as caught:
        copied(source, loop_fs("ext4", 100 * MIB).mount / "copy")
    assert str(caught.value).startswith(f"/{kind}: its extended attribute user.")
    assert "bytes cannot be set on the target's file system (ext4): No space" in str(caught.value)
    assert "xfs" in caught.value.hint


def test_source_that_is_missing_is_not_the_targets_fault(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    job = CopyLayer(tmp_path, "x", tmp_path / "target", 0, shown="/store/overlay/x/diff")
    with pytest.raises(DataError) as caught:
        job.run(lambda _: None)
    text = "/store/overlay/x/diff: cannot be read from the source: No such file or directory"
    assert str(caught.value) == text


def test_what_cannot_be_copied_is_named(tmp_path: Path) -> None:
    together.workers = 1  # others take a directory for one that they have made
    source, target = tmp_path / "source", tmp_path / "copy"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_text("content")
    target.mkdir()
    (target / "a").mkdir()
    with pytest.raises(DataError) as caught:
        copy(source, target, lambda _: None)
    assert str(caught.value) == "/a: cannot be written to the target: File exists"


def test_file_that_becomes_shorter_is_named(
    tmp_path: Path, loop_fs: LoopFsFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(bytes(range(256)) * 4096)
    monkeypatch.setattr(file_copy, "PIECE", 4096)
    target = loop_fs("ext4").mount / "copy"
    target.mkdir()
    with pytest.raises(DataError) as caught:
        copy(source, target, lambda _: os.truncate(source / "file", 4096))
    assert str(caught.value) == "/file: cannot be read from the source: it became shorter meanwhile"


class StopError(Exception):
    """Raised by a progress callback."""


def test_progress_may_stop_the_copy(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise StopError

    source, target = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    target.mkdir()
    (source / "file").write_text("content")
    with pytest.raises(StopError):
        copy(source, target, stop)
