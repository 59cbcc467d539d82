"""Several workers who prove one layer come to what one process comes to, and to nothing less."""

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import DiffId
from installer_plugin.storage.layer import proof_parts
from installer_plugin.storage.layer.defects import Defect
from installer_plugin.storage.layer.direct_io import LARGE
from installer_plugin.storage.layer.jobs import ProveLayer
from installer_plugin.storage.layer.proof import LayerClaim, LayerProof, Reading, prove_layer
from installer_plugin.storage.layer.proof_parts import PartProof
from installer_plugin.storage.layer.tar_stream import BUFFER
from tests.support.crafted import Entry
from tests.support.handmade import LAYER, Handmade, handmade
from tests.support.together import parts_proven, proven_together

READING = Reading(drop_cache=False)
SIZES = (1, 511, 512, 513, 5000, BUFFER - 1, BUFFER, BUFFER + 1, LARGE - 1, LARGE, LARGE + 4097)


def _entries() -> tuple[Entry, ...]:
    """Files of many sizes in directories, with links to the first one in between."""
    found = [Entry(name="./", type=tarfile.DIRTYPE, mode=0o755)]
    for number in range(33):
        folder = f"./d{number % 3}/"
        if number < 3:
            found.append(Entry(name=folder, type=tarfile.DIRTYPE, mode=0o755))
        content = bytes([number + 1]) * SIZES[number % len(SIZES)]
        found.append(Entry(name=f"{folder}f{number}", content=content))
        if number % 4 == 1:
            name = f"{folder}also-{number}"
            found.append(Entry(name=name, type=tarfile.LNKTYPE, target="./d0/f0"))
        if number % 5 == 1:
            found.append(Entry(name=f"{folder}.wh.gone-{number}"))
    return tuple(found)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Handmade:
    return handmade(tmp_path_factory.mktemp("layer"), _entries())


def _claim(layer: Handmade) -> LayerClaim:
    diff_id = DiffId("sha256:" + hashlib.sha256(layer.tar).hexdigest())
    return LayerClaim(id=LAYER, parent=None, diff_id=diff_id, size=len(layer.tar))


def _alone(layer: Handmade) -> LayerProof:
    with Rootfs.open(layer.root) as root:
        return prove_layer(root, _claim(layer), lambda _: None, READING)


def _must_not_be_read_again(*_: object) -> LayerProof:
    raise AssertionError("the parts have not been enough")


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1, 3, 8, 1000])
def test_sound_layer_is_proven_by_its_parts_alone(
    layer: Handmade, workers: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_parts, "prove_layer", _must_not_be_read_again)
    proof = proven_together(layer.root, _claim(layer), READING, workers, chunk)
    assert proof == LayerProof(defects=(), size=len(layer.tar))


def test_parts_share_what_is_to_be_read(layer: Handmade) -> None:
    job = ProveLayer(layer.root, _claim(layer), READING, 1)
    parts = parts_proven(job, 2, 4)
    assert sum(part.size for part in parts) == len(layer.tar)
    assert [part.diff_id for part in parts] == [_claim(layer).diff_id, None]


def test_metadata_alone_is_compared_by_parts_too(
    layer: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_parts, "prove_layer", _must_not_be_read_again)
    reading = Reading(content=False, drop_cache=False)
    assert proven_together(layer.root, _claim(layer), reading).defects == ()


@pytest.mark.parametrize("number", range(0, 33, 2))
def test_one_changed_byte_anywhere_is_found_in_the_same_words(layer: Handmade, number: int) -> None:
    path = layer.diff / f"d{number % 3}/f{number}"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(b"\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    try:
        proof = proven_together(layer.root, _claim(layer), READING, 3, 4)
        assert proof.defects
        assert proof == _alone(layer)
    finally:
        with path.open("r+b") as file:
            file.seek(before.st_size // 2)
            file.write(bytes([number + 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


A, B = Entry(name="./a", content=b"1"), Entry(name="./b", content=b"2")
FOLDER = Entry(name="./folder/", type=tarfile.DIRTYPE)
LINK = Entry(name="./c", type=tarfile.LNKTYPE, target="./a", mode=0o600)


@pytest.mark.parametrize(
    "entries",
    [(A, B, A), (FOLDER, B, FOLDER), (A, B, LINK)],
    ids=["twice", "directory-twice", "link-changes-mode"],
)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_entries_that_depend_on_earlier_ones_are_judged_as_by_one_process(
    tmp_path: Path, entries: tuple[Entry, ...], workers: int
) -> None:
    layer = handmade(tmp_path, entries)
    assert proven_together(layer.root, _claim(layer), READING, workers, 1) == _alone(layer)


def test_defect_that_a_second_look_does_not_find_is_not_forgotten(layer: Handmade) -> None:
    job = ProveLayer(layer.root, _claim(layer), READING, 1)
    first, second = parts_proven(job, 2, 4)
    seen = Defect("/d0/f0", "cannot be read: Input/output error")
    proof = job.joined([first, PartProof(defects=(seen,), size=second.size)])
    assert proof.defects == (seen,)


def test_parts_that_leave_a_chunk_out_prove_nothing(
    layer: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ProveLayer(layer.root, _claim(layer), READING, 1)
    tried = (parts_proven(job, 2, 4) for _ in range(50))
    first, second = next(parts for parts in tried if all(part.size for part in parts))
    monkeypatch.setattr(proof_parts, "prove_layer", _must_not_be_read_again)
    for parts in ([first], [second], [first, first], [first, second, second]):
        with pytest.raises(AssertionError, match="have not been enough"):
            job.joined(parts)
    assert job.joined([first, second]).defects == ()
