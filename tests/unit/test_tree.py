"""A layer's tree is reached by names from elsewhere, and nothing outside of it is."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.storage.layer import tree as tree_module
from installer_plugin.storage.layer.tree import LayerTree, Place, shown


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("secret")
    root = tmp_path / "diff"
    (root / "usr/lib/deep").mkdir(parents=True)
    (root / "usr/lib/deep/file").write_text("content")
    (root / "lib").symlink_to("usr/lib")
    (root / "absolute").symlink_to("/usr/lib")
    (root / "escaping").symlink_to("../../../usr/./lib//deep/..")
    (root / "out").symlink_to("../outside")
    (root / "loop").symlink_to("loop")
    return root


@pytest.fixture
def tree(root: Path) -> Iterator[LayerTree]:
    with LayerTree(os.open(root, os.O_RDONLY)) as tree:
        yield tree


def opened(tree: LayerTree, place: Place) -> int:
    """A descriptor of a file, for the caller to close."""
    tree.open_file(place)
    return tree.take_file()


@pytest.mark.parametrize(
    "name",
    [
        "usr/lib/deep/file", "./usr/lib/deep/file", "/usr/lib/deep/file", "usr//lib/./deep/file",
        "lib/deep/file", "absolute/deep/file", "escaping/deep/file",
    ],
)  # fmt: skip
def test_names_of_one_file(tree: LayerTree, name: str) -> None:
    place = tree.place(name.encode())
    assert place.path == b"usr/lib/deep/file"
    with os.fdopen(opened(tree, place)) as file:
        assert file.read() == "content"


@pytest.mark.parametrize("name", ["", ".", "./", "/", "/.", "./." + "/." * 1500])
def test_names_of_the_root(tree: LayerTree, root: Path, name: str) -> None:
    place = tree.place(name.encode())
    assert place.path == b""
    assert tree.lstat(place).st_ino == root.stat().st_ino


@pytest.mark.parametrize("name", ["usr/lib", "usr/lib/", "./usr/lib/.", "usr/lib/./"])
def test_names_of_a_directory(tree: LayerTree, name: str) -> None:
    assert tree.place(name.encode()).path == b"usr/lib"


def test_last_component_is_not_followed(tree: LayerTree) -> None:
    place = tree.place(b"out")
    assert tree.readlink(place) == b"../outside"
    with pytest.raises(OSError, match="Too many levels"):
        tree.open_file(place)


@pytest.mark.parametrize(
    "name",
    [
        b"..", b"../outside", b"usr/../../outside", b"./..", b"/..", b"a\0b", b"a\0/b",
        b"n" * 256, b"n" * 256 + b"/x", b"a/" * 3000,
    ],
    ids=repr,
)  # fmt: skip
def test_hostile_names_are_refused(tree: LayerTree, name: bytes) -> None:
    with pytest.raises(DataError):
        tree.place(name)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("usr/../y", b"y"),
        ("usr/lib/../lib/./x", b"usr/lib/x"),
        ("usr/lib/deep/../../x", b"usr/x"),
        ("/usr//missing/../lib/x", b"usr/lib/x"),
        ("out/../usr/x", b"usr/x"),
        ("usr/..", b""),
        ("usr/lib/..", b"usr"),
        ("..usr", b"..usr"),
        ("a..b/..c", None),
    ],
)
def test_inner_dots_are_taken_out_of_the_text(
    tree: LayerTree, name: str, path: bytes | None
) -> None:
    if path is None:
        with pytest.raises(FileNotFoundError):
            tree.place(name.encode())
    else:
        assert tree.place(name.encode()).path == path


@pytest.mark.parametrize("name", ["loop/x", "usr/lib/deep/file/x", "missing/x", "out/x"])
def test_parents_that_lead_nowhere(tree: LayerTree, name: str) -> None:
    with pytest.raises(OSError, match=r"Errno"):
        tree.place(name.encode())


def test_more_directories_than_are_kept_open(
    tree: LayerTree, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "OPEN_FOLDERS", 3)
    for number in range(20):
        (root / f"d{number}/e").mkdir(parents=True)
        (root / f"d{number}/e/f").write_text(str(number))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in [*range(20), 0, 19, 1]:
        with os.fdopen(opened(tree, tree.place(b"d%d/e/f" % number))) as file:
            assert file.read() == str(number)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 3


def test_deepest_path_that_linux_takes(tree: LayerTree, root: Path) -> None:
    folder = os.open(root, os.O_RDONLY)
    for _ in range(2040):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert tree.place(b"usr/lib/x").path == b"usr/lib/x"
    assert tree.place(b"d/" * 2039 + b"d").path == b"d/" * 2039 + b"d"
    assert tree.place(b"usr/lib/x").path == b"usr/lib/x"
    while (root / "d/d").exists():  # deeper than the fixture's clean-up can go
        (root / "d/d").rename(root / "next")
        (root / "d").rmdir()
        (root / "next").rename(root / "d")


def test_extended_attributes(tree: LayerTree, root: Path) -> None:
    os.setxattr(root / "usr/lib/deep/file", "user.a", b"1")
    os.setxattr(root / "lib", "trusted.b", b"2", follow_symlinks=False)
    assert tree.xattrs(tree.place(b"lib/deep/file")) == {"user.a": b"1"}
    assert tree.xattrs(tree.place(b"lib")) == {"trusted.b": b"2"}
    assert tree.xattrs(tree.place(b"usr")) == {}


def test_file_system_without_attributes(tree: LayerTree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, follow_symlinks: bool = True) -> list[str]:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "listxattr", refuse)
    assert tree.xattrs(tree.place(b"usr")) == {}


def test_other_errors_of_attributes_are_told(
    tree: LayerTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, follow_symlinks: bool = True) -> list[str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "listxattr", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        tree.xattrs(tree.place(b"usr"))


def test_names_in_a_directory_are_bytes(tree: LayerTree, root: Path) -> None:
    (root / os.fsdecode(b"usr/lib/caf\xe9")).write_text("")
    assert sorted(tree.names(tree.folder(b"lib"))) == [b"caf\xe9", b"deep"]


def test_fifo_in_a_files_place_does_not_block(tree: LayerTree, root: Path) -> None:
    os.mkfifo(root / "fifo")
    thread = threading.Thread(target=lambda: os.close(opened(tree, tree.place(b"fifo"))))
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_dropping_the_cache_changes_nothing_that_is_read(root: Path) -> None:
    with (
        LayerTree(os.open(root, os.O_RDONLY), drop_cache=True) as tree,
        os.fdopen(opened(tree, tree.place(b"lib/deep/file"))) as file,
    ):
        assert file.read() == "content"


def test_shown_names_are_safe_to_print() -> None:
    assert shown(b"./usr/x") == "/usr/x"
    assert shown(b"") == shown(b"./") == "/"
    assert shown(b"a\n\x1b[31m\xff") == "/a\\n\\x1b[31m\\udcff"


def test_file_that_nobody_takes_is_closed_with_the_next_one_and_with_the_tree(root: Path) -> None:
    (root / "other").write_text("other")
    with LayerTree(os.open(root, os.O_RDONLY)) as tree:
        tree.open_file(tree.place(b"usr/lib/deep/file"))
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted only
        tree.open_file(tree.place(b"other"))
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        with os.fdopen(tree.take_file()) as file:
            assert file.read() == "other"
        tree.open_file(tree.place(b"other"))
        left = tree.take_file()
        os.close(left)
        tree.open_file(tree.place(b"other"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(left)
