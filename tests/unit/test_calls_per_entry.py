"""How often the kernel is called for an entry of a layer: what makes up most of the time, but no time.

Python's own functions of ``posix`` and ``fcntl`` are counted: each is one call of the system.
"""

import os
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType, FrameType

import pytest

from installer_plugin.storage.engine.source_jobs import CheckLayer
from installer_plugin.storage.layer.tree_copy import copy_tree
from tests.support.crafted import Entry
from tests.support.handmade import LAYER, Handmade, handmade

COUNT = 1000
"""Files, ten in a directory."""


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Handmade:
    entries = [Entry(name="./", type=tarfile.DIRTYPE, mode=0o755)]
    for number in range(COUNT):
        folder = f"./d{number // 10}/"
        if not number % 10:
            entries.append(Entry(name=folder, type=tarfile.DIRTYPE, mode=0o755))
        entries.append(Entry(name=f"{folder}f{number}", content=b"content\n" * (1 + number % 50)))
    return handmade(tmp_path_factory.mktemp("layer"), entries)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """The system calls that this thread makes, by Python's names of them."""
    calls: Counter[str] = Counter()

    def note(_frame: FrameType, event: str, function: object) -> None:
        if event != "c_call" or not isinstance(function, BuiltinFunctionType):
            return
        if function.__module__ in KERNEL and function.__name__ not in PURE:
            calls[function.__name__] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


KERNEL = frozenset(("posix", "fcntl"))
PURE = frozenset(("fspath", "major", "minor", "WIFEXITED"))
"""Functions of these modules that ask the kernel nothing."""


def test_examination_calls_the_kernel_once_for_a_file(layer: Handmade) -> None:
    check = CheckLayer(store=layer.root, shown=layer.root, layer_id=LAYER, size=len(layer.tar))
    with counted() as calls:
        assert not check.run(lambda _: None).problems
    # For a directory twice, which is 0.2 times for each of its ten files.
    assert sum(calls.values()) / COUNT <= 1 + 0.25, calls


def test_copying_calls_the_kernel_nine_times_for_a_file(layer: Handmade, tmp_path: Path) -> None:
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (layer.diff, tmp_path)]
    try:
        with counted() as calls:
            copy_tree(fds[0], fds[1], lambda _: None)
    finally:
        for fd in fds:
            os.close(fd)
    # For a directory twelve times, which is 1.2 times for each of its ten files.
    assert sum(calls.values()) / COUNT <= 9 + 1.2, calls


def test_proof_calls_the_kernel_seven_times_for_a_file(layer: Handmade) -> None:
    with counted() as calls:
        assert not layer.prove_alone().defects
    assert sum(calls.values()) / COUNT <= 7 + 0.75, calls
