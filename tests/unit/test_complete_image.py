"""An image's names and manifests in images.json, and files that are replaced whole."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.files.atomic import replace_file
from installer_plugin.model import ImageId, ManifestDigest
from installer_plugin.storage.store.complete_image import Completion, complete_images
from installer_plugin.storage.store.locks import IMAGES_LOCK
from installer_plugin.storage.store.manifests import digest_of
from installer_plugin.storage.store.records import big_data_file_name
from tests.support.values import hexa
from tests.support.waiting import wait_until

A, B = ImageId(hexa("a")), ImageId(hexa("b"))
LIST, LIST_DIGEST = b'{"manifests":[]}', digest_of(b'{"manifests":[]}')
LIST_KEY = f"manifest-{LIST_DIGEST}"


def _store(path: Path, *records: Mapping[str, object]) -> Path:
    for record in records:
        (path / "overlay-images" / str(record["id"])).mkdir(parents=True)
    (path / "overlay-images").mkdir(exist_ok=True)
    (path / "overlay-images/images.json").write_text(json.dumps(records))
    return path


def _records(store: Path) -> list[dict[str, object]]:
    records: list[dict[str, object]] = json.loads(
        (store / "overlay-images/images.json").read_text()
    )
    return records


def _wanted(
    *names: str, digest: ManifestDigest | None = None, manifests: Mapping[ManifestDigest, bytes]
) -> Completion:
    return Completion(image_id=A, names=names, digest=digest, manifests=manifests)


def test_names_and_manifests_are_added_to_what_is_there(tmp_path: Path) -> None:
    record = {
        "id": A, "digest": "sha256:" + "0" * 64, "names": ["old", "x:1"], "layer": B,
        "big-data-names": ["manifest"], "big-data-sizes": {"manifest": 5},
        "big-data-digests": {"manifest": "sha256:" + "0" * 64}, "created": "now", "other": [1],
    }  # fmt: skip
    store = _store(tmp_path, record)
    wanted = _wanted("x:1", "y:1", digest=LIST_DIGEST, manifests={LIST_DIGEST: LIST})
    complete_images(store, [wanted])
    (image,) = _records(store)
    assert image == {
        **record,
        "digest": LIST_DIGEST,
        "names": ["old", "x:1", "y:1"],
        "big-data-names": ["manifest", LIST_KEY],
        "big-data-sizes": {"manifest": 5, LIST_KEY: len(LIST)},
        "big-data-digests": {"manifest": "sha256:" + "0" * 64, LIST_KEY: LIST_DIGEST},
    }
    path = store / f"overlay-images/{A}" / big_data_file_name(LIST_KEY)
    assert path.read_bytes() == LIST
    assert path.stat().st_mode & 0o777 == 0o600
    assert (store / IMAGES_LOCK).stat().st_size == 64


def test_names_are_taken_from_other_images(tmp_path: Path) -> None:
    other = {"id": B, "names": ["x:1", "kept"], "unknown": 1}
    store = _store(tmp_path, other, {"id": A})
    complete_images(store, [_wanted("x:1", manifests={})])
    first, second = _records(store)
    assert first == {**other, "names": ["kept"]}
    assert second["names"] == ["x:1"]


def test_second_time_writes_nothing(tmp_path: Path) -> None:
    store = _store(tmp_path, {"id": A}, {"id": B, "names": ["z"]})
    wanted = _wanted("x:1", digest=LIST_DIGEST, manifests={LIST_DIGEST: LIST})
    complete_images(store, [wanted])
    path = store / "overlay-images/images.json"
    before, token = path.stat(), (store / IMAGES_LOCK).read_bytes()
    complete_images(store, [wanted])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (store / IMAGES_LOCK).read_bytes() == token


def test_second_time_without_a_digest_writes_nothing(tmp_path: Path) -> None:
    store = _store(tmp_path, {"id": A})
    complete_images(store, [_wanted("x:1", manifests={})])
    inode = (store / "overlay-images/images.json").stat().st_ino
    complete_images(store, [_wanted("x:1", manifests={})])
    assert (store / "overlay-images/images.json").stat().st_ino == inode
    assert _records(store)[0].get("digest") is None


def test_image_that_is_absent_is_refused(tmp_path: Path) -> None:
    store = _store(tmp_path, {"id": B})
    with pytest.raises(DataError, match=f"image {A}: is not in .*images.json after it was copied"):
        complete_images(store, [_wanted("x", manifests={})])


@pytest.mark.parametrize("kind", ["fifo", "directory", "link-out", "link-dangling", "device"])
def test_strange_images_json_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    store = _store(tmp_path / "store", {"id": B})
    path = store / "overlay-images/images.json"
    path.unlink()
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps([{"id": A}]))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        os.mknod(path, 0o20600, os.makedev(1, 5))
    else:
        path.symlink_to(outside if kind == "link-out" else "absent")
    with pytest.raises(DataError, match=r"images\.json: (is a|cannot be read)"):
        complete_images(store, [_wanted("x", manifests={})])
    assert outside.read_text() == json.dumps([{"id": A}])


# --- replace_file ----------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o022, 0o077], ids=oct)
def test_replaced_file_has_its_mode_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "file", b"new", mode=0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    (tmp_path / "file").symlink_to("outside")
    replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


def test_left_over_of_a_killed_run_with_our_process_id_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".file.{os.getpid()}.tmp").write_text("half")
    replace_file(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _differ(store: Path, known: int) -> bool:
    """Whether the one image of a store has not as many names any more."""
    (image,) = _records(store)
    names = image["names"]
    assert isinstance(names, list)
    return len(names) != known


@pytest.mark.real
def test_kill_at_any_moment_leaves_the_old_records_or_the_new(tmp_path: Path) -> None:
    old = [{"id": A, "names": [f"name-{number}" for number in range(2000)]}]
    script = (
        "import sys, pathlib, itertools\n"
        "from tests.unit.test_complete_image import _wanted, complete_images\n"
        "store = pathlib.Path(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "for number in itertools.count():\n"
        "    complete_images(store, [_wanted(f'new-{number}', manifests={})])\n"
    )
    store = _store(tmp_path, *old)
    known = 2000
    for delay in range(15):
        process = subprocess.Popen(
            (sys.executable, "-c", script, str(store)), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(partial(_differ, store, known), "its first change")
        time.sleep(0.0005 * delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (image,) = _records(store)
        names = image["names"]
        assert isinstance(names, list)
        assert names[:2000] == old[0]["names"]
        assert len(names) > known
        known = len(names)
