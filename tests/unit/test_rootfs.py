"""Paths inside a root: nothing leads out of it, nothing but regular files is read."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import MAX_LINKS, Rootfs, file_type, open_regular, printable


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root beside a file that must never be reached."""
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/file").write_text("inside")
    (root / "secret").write_text("clamped")
    links = {
        "absolute": "/usr/lib/file",
        "relative": "usr/lib/file",
        "chain": "absolute",
        "usr/lib/up": "../../secret",
        "climbing": "../../../secret",
        "usr/climbing": "../../../../secret",
        "dangling": "nowhere",
        "dangling-absolute": "/nowhere",
        "usr/lib/dangling-inside": "../../nowhere",
        "climbing-dangling": "../nowhere",
        "usr/climbing-dangling": "./../..//../nowhere",
        "loop": "loop",
        "directory": "/usr/lib",
        "to-root": "/",
        "through-file": "secret/x",
        "slash": "secret/",
        "dot": "secret/.",
        "slash-directory": "usr/lib/",
        "here": ".",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return root


@pytest.fixture
def rootfs(tree: Path) -> Iterator[Rootfs]:
    with Rootfs.open(tree) as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "resolved", "climbed"),
    [
        ("usr/lib/file", "usr/lib/file", False),
        ("/usr//lib/./file", "usr/lib/file", False),
        ("usr/lib/../lib/file", "usr/lib/file", False),
        ("", "", False),
        (".", "", False),
        ("/", "", False),
        ("usr/", "usr", False),
        ("usr/lib", "usr/lib", False),
        ("absolute", "usr/lib/file", False),
        ("relative", "usr/lib/file", False),
        ("chain", "usr/lib/file", False),
        ("usr/lib/up", "secret", False),
        ("climbing", "secret", True),
        ("usr/climbing", "secret", True),
        ("../../secret", "secret", True),
        ("..", "", True),
        ("directory", "usr/lib", False),
        ("directory/file", "usr/lib/file", False),
        ("to-root/secret", "secret", False),
        ("slash-directory", "usr/lib", False),
        ("here/secret", "secret", False),
    ],
)
def test_path_resolves_inside_the_root(
    rootfs: Rootfs, path: str, resolved: str, *, climbed: bool
) -> None:
    found = rootfs.resolve(path)
    assert (found.path, found.climbed) == (resolved, climbed)
    assert rootfs.exists(path)
    assert rootfs.climbs(path) == climbed


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("nowhere", errno.ENOENT),
        ("dangling", errno.ENOENT),
        ("loop", errno.ELOOP),
        ("loop/x", errno.ELOOP),
        ("secret/x", errno.ENOTDIR),
        ("secret/", errno.ENOTDIR),
        ("secret/.", errno.ENOTDIR),
        ("secret/..", errno.ENOTDIR),
        ("slash", errno.ENOTDIR),
        ("dot", errno.ENOTDIR),
        ("through-file", errno.ENOTDIR),
        ("x" * 300, errno.ENAMETOOLONG),
    ],
)
def test_path_that_leads_nowhere_is_an_error(rootfs: Rootfs, path: str, code: int) -> None:
    with pytest.raises(OSError, match=r"^\[Errno") as caught:
        rootfs.resolve(path)
    assert caught.value.errno == code
    assert not rootfs.exists(path)
    assert not rootfs.is_dir(path)


@pytest.mark.parametrize(
    ("path", "climbs"),
    [
        ("dangling", False),
        ("dangling-absolute", False),
        ("usr/lib/dangling-inside", False),
        ("climbing-dangling", True),
        ("usr/climbing-dangling", True),
        ("loop", False),
        ("nowhere", False),
        ("usr/nowhere", False),
    ],
)
def test_climbing_is_seen_in_a_dangling_link(rootfs: Rootfs, path: str, *, climbs: bool) -> None:
    assert rootfs.climbs(path) == climbs


def test_as_many_links_as_the_kernel_follows(tree: Path, rootfs: Rootfs) -> None:
    (tree / "n0").write_text("end")
    for number in range(1, MAX_LINKS + 2):
        (tree / f"n{number}").symlink_to(f"n{number - 1}")
    assert rootfs.read_text(f"n{MAX_LINKS}") == "end"
    with pytest.raises(OSError, match="symbolic links"):
        rootfs.read_text(f"n{MAX_LINKS + 1}")


def test_links_and_their_texts_are_told(rootfs: Rootfs) -> None:
    assert rootfs.is_link("chain")
    assert rootfs.readlink("chain") == "absolute"
    assert not rootfs.is_link("secret")
    assert not rootfs.is_link("usr")
    with pytest.raises(OSError, match="directory"):
        rootfs.readlink("usr")
    with pytest.raises(OSError, match="Invalid argument"):
        rootfs.readlink("secret")
    with pytest.raises(OSError, match="No such file"):
        rootfs.is_link("nowhere")


@pytest.mark.parametrize(
    ("path", "there"),
    {"dangling": True, "loop": True, "usr": True, "secret": True, "x": False, "x/y": False}.items(),
)
def test_entry_is_there_wherever_it_leads(rootfs: Rootfs, path: str, *, there: bool) -> None:
    assert rootfs.has_entry(path) == there


def test_directories_are_listed_sorted(rootfs: Rootfs) -> None:
    assert rootfs.list("directory") == ("dangling-inside", "file", "up")
    assert rootfs.is_dir("directory")
    assert not rootfs.is_dir("secret")
    with pytest.raises(NotADirectoryError):
        rootfs.list("secret")


def test_directory_itself_is_opened_for_a_while(rootfs: Rootfs) -> None:
    with rootfs.directory("usr/lib") as fd:
        assert Path(f"/proc/self/fd/{fd}/file").read_text() == "inside"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    for path in ("directory", "secret"):
        with pytest.raises(NotADirectoryError), rootfs.directory(path):
            pass  # pragma: no cover


def test_files_are_read_through_links(rootfs: Rootfs) -> None:
    assert rootfs.read_text("chain") == "inside"
    assert rootfs.read_text("usr/climbing") == "clamped"
    assert rootfs.read_bytes("secret") == b"clamped"


def test_long_file_is_refused(tree: Path, rootfs: Rootfs) -> None:
    (tree / "long").write_bytes(b"x" * 11)
    assert rootfs.read_bytes("long", limit=11) == b"x" * 11
    with pytest.raises(DataError, match="is longer than 10 bytes"):
        rootfs.read_bytes("long", limit=10)


def test_text_has_to_be_utf8(tree: Path, rootfs: Rootfs) -> None:
    (tree / "latin").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="is not UTF-8 at byte 2"):
        rootfs.read_text("latin")


def test_only_regular_files_are_opened(tree: Path, rootfs: Rootfs) -> None:
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tree / "socket"))
    for path, word in (("fifo", "fifo"), ("socket", "socket"), ("usr", "directory")):
        with pytest.raises(DataError, match=f"is a {word}, expected a regular file"):
            rootfs.read_bytes(path)
        assert rootfs.type_of(path) == word
    assert rootfs.type_of("chain") == "symbolic link"
    assert rootfs.type_of("secret") == "regular file"


def test_last_component_is_opened_as_it_is(tree: Path) -> None:
    folder = os.open(tree, os.O_PATH)
    try:
        with pytest.raises(DataError, match="chain: is a symbolic link"):
            open_regular("chain", folder, "chain")
        os.close(open_regular(b"secret", folder, "secret"))
    finally:
        os.close(folder)


@pytest.mark.parametrize(
    ("mode", "word"), [(stat.S_IFCHR, "character device"), (stat.S_IFBLK, "block device")]
)
def test_devices_have_their_words(mode: int, word: str) -> None:
    assert file_type(mode | 0o600) == word


def test_closing_again_does_nothing(tree: Path) -> None:
    root = Rootfs.open(tree)
    root.close()
    root.close()
    assert root.label == str(tree)
    with pytest.raises(OSError, match="Bad file descriptor"):
        root.resolve("usr")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("plain ünicode name", "plain ünicode name"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("a\udcff", "a\\udcff"),
        ("right\u202eleft", "right\\u202eleft"),
    ],
)
def test_names_are_shown_without_effects(path: str, shown: str) -> None:
    assert printable(path) == shown
    printable(path).encode()


PATHS = st.lists(
    st.sampled_from(["usr", "lib", "file", "..", ".", "", "climbing", "chain", "loop", "to-root",
                     "directory", "dangling", "secret", "slash", "here", "up"]),
    max_size=8,
).map("/".join)  # fmt: skip


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=PATHS)
def test_any_path_agrees_with_the_kernel(tree: Path, rootfs: Rootfs, path: str) -> None:
    """Where no ``..`` climbs and no link is absolute, the kernel must see the same file."""
    descriptors = open_descriptors()
    try:
        found = rootfs.resolve(path)
    except OSError:
        assert open_descriptors() == descriptors
        return
    assert open_descriptors() == descriptors
    inside = tree / found.path
    assert not inside.is_symlink()
    assert inside.exists()
    real = f"{tree}/{path}"
    if not found.climbed and not {"to-root", "chain", "directory"} & set(path.split("/")):
        assert os.path.samefile(real, inside)  # noqa: PTH121 - keeps "/." at the end
