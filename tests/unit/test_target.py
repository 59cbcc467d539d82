"""Where the target store is below a physical root, and the directories around it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.process.runner import Runner
from installer_plugin.storage.base import Backend
from installer_plugin.storage.store.target_store import find_target_store, finish, prepare

OSTREE, COMPOSEFS = Backend.OSTREE, Backend.COMPOSEFS


@pytest.fixture(params=[0o022, 0o077, 0], ids=["umask-022", "umask-077", "umask-0"])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize(
    ("directories", "asked", "backend"),
    [
        ("", None, OSTREE),
        ("ostree/repo", None, OSTREE),
        ("composefs", None, COMPOSEFS),
        ("composefs ostree/repo", None, OSTREE),
        ("composefs ostree/bootc", None, COMPOSEFS),
        ("composefs", OSTREE, OSTREE),
        ("ostree/repo", COMPOSEFS, COMPOSEFS),
    ],
    ids=["empty", "ostree", "composefs", "both", "compat", "ostree-asked", "composefs-asked"],
)
def test_backend_is_read_off_the_root(
    directories: str, asked: Backend | None, backend: Backend, tmp_path: Path
) -> None:
    for directory in directories.split():
        (tmp_path / directory).mkdir(parents=True)
    store = find_target_store(tmp_path, asked)
    assert store.backend is backend
    assert store.graph_root == tmp_path / f"{backend}/bootc/storage"
    assert store.receipt == tmp_path / f"{backend}/bootc/bound-images.json"


@pytest.mark.usefixtures("_umask")
def test_ostree_directories_have_bootcs_modes(tmp_path: Path) -> None:
    store = find_target_store(tmp_path)
    prepare(store)
    assert {
        _mode(tmp_path / name) for name in ("ostree", "ostree/bootc", "ostree/bootc/storage")
    } == {0o755}
    assert not (tmp_path / "composefs").exists()
    modes = {path.name: _mode(path) for path in store.graph_root.iterdir()}
    assert modes == dict.fromkeys(("overlay", "overlay-images", "overlay-layers"), 0o700)
    assert _mode(store.graph_root / "overlay/l") == 0o755


@pytest.mark.usefixtures("_umask")
def test_composefs_directory_is_closed_and_linked(tmp_path: Path) -> None:
    (tmp_path / "composefs").mkdir(mode=0o755)
    store = find_target_store(tmp_path)
    prepare(store)
    assert _mode(tmp_path / "composefs") == 0o700
    assert _mode(tmp_path / "ostree") == 0o755
    assert (tmp_path / "ostree/bootc").readlink() == Path("../composefs/bootc")
    assert (tmp_path / "ostree/bootc/storage").samefile(store.graph_root)


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "composefs/bootc/storage").mkdir(parents=True)
    (tmp_path / "composefs/bootc/storage").chmod(0o711)
    (tmp_path / "ostree/bootc").mkdir(parents=True)
    store = find_target_store(tmp_path)
    prepare(store)
    prepare(store)
    assert _mode(store.graph_root) == 0o711
    assert not (tmp_path / "ostree/bootc").is_symlink()


def test_compat_link_of_the_ostree_side_is_followed(tmp_path: Path) -> None:
    (tmp_path / "composefs/bootc").mkdir(parents=True)
    (tmp_path / "ostree/repo").mkdir(parents=True)
    (tmp_path / "ostree/bootc").symlink_to("../composefs/bootc")
    assert find_target_store(tmp_path).bootc_dir == tmp_path / "composefs/bootc"


@pytest.mark.parametrize(
    ("link", "text", "place"),
    [
        ("ostree", "/etc", "etc/bootc"),
        ("ostree", "../../../../etc", "etc/bootc"),
        ("ostree/bootc", "/", ""),
        ("ostree/bootc", "../../../../../etc", "etc"),
    ],
    ids=["absolute", "climbing", "root", "below"],
)
def test_link_does_not_lead_out_of_the_target(
    link: str, text: str, place: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(text)
    assert find_target_store(root).bootc_dir == root / place


@pytest.mark.parametrize(
    ("link", "text"),
    [
        ("ostree", "absent"),
        ("ostree/bootc", "../absent"),
        ("ostree/bootc", "bootc"),
        ("ostree/bootc/storage", "/var/lib/containers/storage"),
        ("ostree/bootc/storage", "absent"),
    ],
    ids=["dangling", "dangling-below", "loop", "store-elsewhere", "store-dangling"],
)
def test_link_of_no_use_is_refused(link: str, text: str, tmp_path: Path) -> None:
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(text)
    with pytest.raises(DataError, match="link in the target, expected a directory") as caught:
        find_target_store(tmp_path)
    assert caught.value.subject == link


@pytest.mark.parametrize("name", ["absent", "file"])
def test_target_that_is_no_directory_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be opened as a target") as caught:
        find_target_store(tmp_path / name)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["ostree", "ostree/bootc", "ostree/bootc/storage/overlay"])
def test_file_in_place_of_a_directory_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        prepare(find_target_store(tmp_path))


@pytest.mark.real
def test_finished_store_opens_on_a_read_only_file_system(tmp_path: Path) -> None:
    store = find_target_store(tmp_path)
    prepare(store)
    finish(store, Runner())
    finish(store, Runner())
    root = store.graph_root
    assert (root / "overlay-layers/layers.lock").is_file()
    assert (root / "overlay-images/images.lock").is_file()
    mark = root / "overlay/.has-mount-program"
    assert (mark.read_text(), _mode(mark)) == ("false", 0o600)
