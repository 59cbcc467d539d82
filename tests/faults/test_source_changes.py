"""A source store that others change, or have damaged: copied as it was, or not at all."""

import fcntl
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Jobs
from tests.faults.scene import APP, LATE, OTHER, Images, Job, Running, running
from tests.support.commands import unshared
from tests.support.disks import LoopFs, LoopFsFactory
from tests.support.product import listing, product, records
from tests.support.stores import Store
from tests.support.waiting import SECONDS, is_locked, is_waited_for, wait_until

ENGINES = pytest.mark.parametrize("engine", ["direct", "skopeo"])


@pytest.fixture
def own(images: Images, tmp_path: Path) -> Images:
    """A source store that may be changed."""
    return images.copied_to(tmp_path / "own")


def _start(store: Store, *args: str) -> subprocess.Popen[bytes]:
    """Run podman on a store beside us."""
    return subprocess.Popen(
        unshared(("podman", *args)),
        env={**os.environ, **store.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def _stopped_while_it_copies(job: Job, directory: Path, lock: Path) -> Iterator[Running]:
    """A copy that was stopped when it had a lock; one that was over before is made once more."""
    while True:
        shutil.rmtree(job.physical)
        job.physical.mkdir()
        with running(job.argv, directory, job.env) as copy:
            copy.wait_for_line("copying")
            wait_until(lambda: is_locked(lock) or copy.process.poll() is not None)
            copy.send(signal.SIGSTOP)
            if is_locked(lock):
                yield copy
                return
            copy.send(signal.SIGCONT)


@pytest.mark.parametrize("victim", [APP, OTHER])
def test_image_that_is_being_copied_is_removed_later(
    jobs: Jobs, own: Images, disk: LoopFs, victim: str
) -> None:
    lock = own.root / "overlay-images/images.lock"
    job = jobs(APP, OTHER, at=disk.mount / "target", images=own)
    with _stopped_while_it_copies(job, jobs.directory, lock) as copy:
        removal = _start(own.store, "rmi", victim)
        wait_until(lambda: is_waited_for(lock) or removal.poll() is not None)
        assert removal.poll() is None
        copy.send(signal.SIGCONT)
        assert copy.wait() == 0, copy.output
    assert removal.wait(timeout=SECONDS) == 0
    assert not own.store.exists(victim)
    job.verify()


@pytest.mark.parametrize("victim", [APP, OTHER])
def test_image_that_goes_before_a_tool_reads_it_is_a_failure(
    jobs: Jobs, own: Images, disk: LoopFs, tmp_path: Path, victim: str
) -> None:
    """Whoever removes it does so when skopeo is called, and before that reads anything."""
    tool = tmp_path / "bin/skopeo"
    tool.parent.mkdir()
    podman = shlex.join(
        ("env", *(f"{key}={value}" for key, value in own.store.env.items()), "podman")
    )
    tool.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" copy "*) [ -e {tmp_path}/removed ] || '
        f"{podman} rmi {victim} >{tmp_path}/removed || exit 99 ;; esac\n"
        f'exec {shutil.which("skopeo")} "$@"\n'
    )
    tool.chmod(0o755)
    job = jobs(APP, OTHER, at=disk.mount / "target", engine="skopeo", images=own)
    env = {**job.env, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    done = product(*job.arguments, env=env, ok=(5,))
    assert not own.store.exists(victim)
    assert "error: " in done.stderr
    assert victim in done.stderr
    job.verify(ok=(6,))


@ENGINES
def test_image_that_is_added_while_others_are_copied(
    jobs: Jobs, own: Images, disk: LoopFs, tmp_path: Path, engine: str
) -> None:
    job = jobs(APP, OTHER, at=disk.mount / "target", engine=engine, images=own)
    with running(job.argv, tmp_path, job.env) as copy:
        copy.wait_for_line("copying")
        with _start(own.store, "load", "--input", str(own.archive)) as addition:
            assert addition.wait(timeout=60) == 0
        assert copy.wait() == 0, copy.output
    assert own.store.exists(LATE)
    job.verify()
    assert LATE not in job.listed()


@contextmanager
def _locked_while_stopped(copy: Running, file: Path) -> Iterator[None]:
    """Have the store's lock while the copy stands still, at a moment when it does not read records."""
    with file.open("r+b") as lock:
        while True:
            copy.send(signal.SIGSTOP)
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                copy.send(signal.SIGCONT)
                time.sleep(0.001)
        yield
    copy.send(signal.SIGCONT)


def test_image_that_goes_between_the_checks_and_the_copy(
    jobs: Jobs, own: Images, disk: LoopFs, tmp_path: Path
) -> None:
    job = jobs(APP, OTHER, at=disk.mount / "target", images=own)
    with running(job.argv, tmp_path, job.env) as copy:
        copy.wait_for_line("preflight")
        with _locked_while_stopped(copy, own.root / "overlay-images/images.lock"):
            path = own.root / "overlay-images/images.json"
            kept = [each for each in json.loads(path.read_text()) if each.get("names") != [APP]]
            path.write_text(json.dumps(kept))
        code = copy.wait()
    # Where it goes while the source's layers are examined, nothing was touched yet; the copy opens the
    # source before it says its first word.
    assert code in ({5} if "copy: " in copy.output else {4, 5}), copy.output
    assert "has gone from" in copy.output
    assert f"podman pull {APP}" in copy.output
    if code == 4:
        assert list(job.physical.iterdir()) == []
    else:
        assert job.listed() == []


def test_image_that_goes_after_a_check_is_missed_before_anything_is_touched(
    jobs: Jobs, own: Images, disk: LoopFs
) -> None:
    job = jobs(APP, at=disk.mount / "target", images=own)
    check = ("check", str(job.source), "--store", str(own.root), "--target", str(job.physical))
    product(*check, env=job.env)
    own.store.podman("rmi", APP)
    done = job.run(ok=(4,))
    assert APP in done.stderr
    assert list(job.physical.iterdir()) == []


@ENGINES
def test_source_store_that_cannot_be_written(
    jobs: Jobs, images: Images, disk: LoopFs, loop_fs: LoopFsFactory, engine: str
) -> None:
    other = loop_fs("ext4")
    own = images.copied_to(other.mount / "own")
    other.remount(read_only=True)
    before = listing(own.root)
    job = jobs(APP, OTHER, at=disk.mount / "target", engine=engine, images=own)
    job.run()
    job.verify()
    assert listing(own.root) == before


# --- damage ----------------------------------------------------------------------------------


def _layer(images: Images, position: int) -> str:
    """A layer of APP, the top one first."""
    (top,) = (
        record["layer"]
        for record in records(images.root, "images").values()
        if record["names"] == [APP]
    )
    layers = records(images.root, "layers")
    for _ in range(position):
        top = layers[top]["parent"]
    return str(top)


def _files(images: Images) -> list[Path]:
    tree = images.root / "overlay" / _layer(images, 2) / "diff"
    return sorted(path for path in tree.rglob("*") if path.is_file())


def _flip_byte(images: Images) -> None:
    file = _files(images)[5]
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def _remove_file(images: Images) -> None:
    _files(images)[5].unlink()


def _grow_file(images: Images) -> None:
    with _files(images)[5].open("ab") as file:
        file.write(b"more")


def _add_file(images: Images) -> None:
    (_files(images)[5].parent / "added").write_text("not in the image")


def _change_mode(images: Images) -> None:
    _files(images)[5].chmod(0o4755)


def _tar_split(images: Images) -> Path:
    return images.root / f"overlay-layers/{_layer(images, 2)}.tar-split.gz"


def _truncate_tar_split(images: Images) -> None:
    path = _tar_split(images)
    os.truncate(path, path.stat().st_size // 2)


def _shorten_tar_split(images: Images) -> None:
    path = _tar_split(images)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[: len(lines) // 2])))


def _remove_tar_split(images: Images) -> None:
    _tar_split(images).unlink()


def _remove_layer(images: Images) -> None:
    shutil.rmtree(images.root / "overlay" / _layer(images, 1))


def _edit_big_data(images: Images, pattern: str) -> None:
    (folder,) = (
        images.root / "overlay-images" / record["id"]
        for record in records(images.root, "images").values()
        if record["names"] == [APP]
    )
    for path in folder.glob(pattern):
        path.write_bytes(re.sub(b"amd64|sha256:.", b"s390x", path.read_bytes(), count=1))


def _edit_config(images: Images) -> None:
    _edit_big_data(images, "=c2hhMjU2*")  # sha256


def _edit_manifests(images: Images) -> None:
    _edit_big_data(images, "*manifest*")
    _edit_big_data(images, "=bWFuaWZlc3Q*")


DAMAGES = (
    _flip_byte, _remove_file, _grow_file, _add_file, _change_mode, _truncate_tar_split,
    _shorten_tar_split, _remove_tar_split, _remove_layer, _edit_config, _edit_manifests,
)  # fmt: skip
HEALED = (_add_file, _change_mode)
"""What skopeo does not see: it unpacks the image's own tar streams again."""


@ENGINES
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.lstrip("_"))
def test_damaged_source_is_never_a_success(
    jobs: Jobs, little: Images, tmp_path: Path, damage: Callable[[Images], None], engine: str
) -> None:
    own = little.copied_to(tmp_path / "own")
    damage(own)
    job = jobs(APP, at=tmp_path / "target", engine=engine, images=own)
    if engine == "skopeo" and damage in HEALED:
        job.run()
        job.verify()
        return
    done = job.run(ok=(4, 5, 6))
    assert "error: " in done.stderr
    assert job.temporary() == []
