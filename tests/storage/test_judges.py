"""Random layouts, tar headers and tar-split files, and what skopeo and podman themselves say of them."""

import base64
import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import DiffId, SourceKind
from installer_plugin.storage.layer.proof import LayerClaim, Reading, prove_layer
from installer_plugin.storage.layer.tar_header import HeaderReader
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.layout_source import LayoutSource
from installer_plugin.storage.source.searching import Searching
from tests.support.commands import run, unshared
from tests.support.crafted import Entry, layer_tar
from tests.support.layouts import LAYER, OCI, Layout, named
from tests.support.product import records
from tests.support.stores import Store, copy_store, make_store
from tests.support.values import AMD64

FEW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Each example starts programs."""
NAME = "localhost/judged:1"


EXPORT_ONLY = ("file integrity checksum failed", "duplicates of file paths not supported")
"""What keeps podman from saving an image that runs and is, byte for byte, what it should be."""


def _answers(argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> str | None:
    """What a program prints; None when it fails."""
    done = run(unshared(argv), env=env, ok=range(256))
    return done.stdout if done.returncode == 0 else None


# --- layouts ---------------------------------------------------------------------------------

NAMES = (
    "x",
    "x:1",
    "x:latest",
    "x:None",
    "localhost/x",
    "localhost/x:1",
    "localhost/x:latest",
    "1",
    "",
)
TYPES = (f"{OCI}.manifest.v1+json", f"{OCI}.index.v1+json", "application/octet-stream", "", None)


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of an index: which image, by what name, said to be of which type."""

    image: int
    name: str
    shown_type: str | None


LISTED: SearchStrategy[list[Listed]] = st.lists(
    st.builds(
        Listed,
        image=st.integers(0, 3),
        name=st.sampled_from(NAMES),
        shown_type=st.sampled_from((TYPES[0], TYPES[0], *TYPES)),
    ),
    max_size=4,
)


def _written(path: Path, listed: Sequence[Listed]) -> Layout:
    """Images 0 and 1 are plain, 2 is a list with one for this machine, 3 a list without."""
    shutil.rmtree(path, ignore_errors=True)
    layout = Layout(path)
    other = layout.image("other", platform="linux/s390x")
    images = (
        layout.image("zero"),
        layout.image("one", compressed=True),
        layout.list_of({"linux/s390x": other, "linux/amd64": layout.image("two")}),
        layout.list_of({"linux/s390x": other}),
    )
    entries = []
    for each in listed:
        described = {**images[each.image]}
        true_type = described.pop("mediaType")
        if each.shown_type is not None:
            lists = str(true_type).endswith("index.v1+json")
            plain = each.shown_type in TYPES[:2]
            described["mediaType"] = true_type if plain and lists else each.shown_type
        entries.append((described, named(each.name) if each.name else {}))
    layout.index(*entries)
    return layout


@FEW
@given(listed=LISTED, reference=st.sampled_from([name for name in NAMES if name not in ("", "1")]))
def test_image_that_skopeo_finds_by_its_name_is_the_one_that_is_taken(
    listed: list[Listed], reference: str, tmp_path: Path
) -> None:
    """skopeo knows literal names alone; what it does not find may still be meant."""
    layout = _written(tmp_path / "layout", listed)
    inspect = ("skopeo", "inspect", "--format={{.Digest}}", f"oci:{layout.path}:{reference}")
    config = _answers((*inspect[:2], "--config", "--raw", inspect[-1]))
    source = LayoutSource(SourceKind.OCI, layout.path, Searching(RegistriesConf(aliases={}), AMD64))
    try:
        found = source.find(reference)
    except DataError:
        assert config is None, "skopeo can read what is refused"
        return
    if config is not None:
        assert found is not None
        assert found.image_id == hashlib.sha256(config.encode()).hexdigest()


# --- numbers of tar headers ------------------------------------------------------------------

FIELDS = {"mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "mtime": (136, 12)}
DECORATED: Sequence[Callable[[bytes], bytes]] = (
    lambda digits: digits,
    lambda digits: b"+" + digits,
    lambda digits: b"-" + digits,
    lambda digits: b"0o" + digits,
    lambda digits: digits[:1] + b"_" + digits[1:],
    lambda digits: b" " + digits + b" ",
    lambda digits: digits + b"\0x",
    lambda digits: digits[:1] + b" " + digits[1:],
    lambda digits: digits + b"8",
    lambda _: b"",
)
SHORT = 5120
"""Bytes of a stream that are enough for its end: what is shown of an example stays readable."""
PAX_NUMBERS = st.text("0123456789+-_. x", min_size=1, max_size=6) | st.sampled_from(
    ["9223372036854775808", "1.5", "-1.5", "007", "+7"]
)
LARGE = st.sampled_from(["9223372036854775807", "4294967296.5"])


def _with_checksum(block: bytes) -> bytes:
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


@st.composite
def _tars(draw: st.DrawFn) -> bytes:
    """A stream with one file, of which a number is written in some way or other."""
    if draw(st.booleans()):
        key = draw(st.sampled_from(["uid", "gid", "mtime", "atime", "ctime"]))
        # The kernel keeps 32 bits of an owner: a larger one is on no disk.
        pax = {key: draw(PAX_NUMBERS if key.endswith("id") else PAX_NUMBERS | LARGE)}
        return layer_tar([Entry(name="f", content=b"x", pax=pax)])[:SHORT]
    tar = layer_tar([Entry(name="f", content=b"x")])[:SHORT]
    at, width = FIELDS[draw(st.sampled_from(sorted(FIELDS)))]
    digits = b"%o" % draw(st.integers(0, 0o777))
    field = draw(st.sampled_from(DECORATED))(digits).ljust(width, b"\0")[:width]
    return _with_checksum(tar[:at] + field + tar[at + width : 512]) + tar[512:]


def _is_read(tar: bytes) -> bool:
    reader = HeaderReader("judged")
    try:
        for at in range(0, len(tar), 512):
            for header in reader.feed(tar[at : at + 512]):
                if header.size:
                    reader.content(header.name, header.size)
                    return True
    except DataError:
        return False
    return False


def _image_of(layout: Layout, tar: bytes) -> str:
    diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    config = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }  # fmt: skip
    layout.index((layout.manifest(config, [layout.blob(tar, LAYER)]), named(NAME)))
    return diff_id


@FEW
@given(tar=_tars())
def test_numbers_of_a_tar_header_are_read_when_podmans_store_reads_them(
    tar: bytes, tmp_path: Path
) -> None:
    for folder in ("layout", "store"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    layout = Layout(tmp_path / "layout")
    diff_id = _image_of(layout, tar)
    store = make_store(tmp_path / "store")
    copy = ("skopeo", "copy", "--quiet", f"oci:{layout.path}:{NAME}", store.ref(NAME))
    unpacked = _answers(copy, store.env) is not None
    read = _is_read(tar)
    assert read or not unpacked
    if unpacked:
        (layer,) = records(store.root, "layers").values()
        claim = LayerClaim(
            id=layer["id"], parent=None, diff_id=DiffId(diff_id), size=layer["diff-size"]
        )
        with Rootfs.open(store.root) as root:
            assert prove_layer(root, claim, lambda _: None, Reading(drop_cache=False)).defects == ()


# --- tar-split -------------------------------------------------------------------------------

CONTENT = [
    Entry(name="a", content=b"alpha\n"),
    Entry(name="b", content=b"beta beta\n"),
    Entry(name="empty"),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one image of one layer."""
    base = tmp_path_factory.mktemp("tar-split")
    layout = Layout(base / "layout")
    _image_of(layout, layer_tar(CONTENT))
    store = make_store(base / "store")
    store.skopeo("copy", "--quiet", f"oci:{layout.path}:{NAME}", store.ref(NAME))
    return store


def _lines(store: Path) -> tuple[Path, list[dict[str, object]]]:
    (file,) = store.glob("overlay-layers/*.tar-split.gz")
    text = gzip.decompress(file.read_bytes()).decode()
    return file, [json.loads(line) for line in text.splitlines()]


CHANGES: Sequence[Callable[[dict[str, object]], object]] = (
    lambda line: line.update(name="b"),
    lambda line: line.update(name="./a"),
    lambda line: line.update(name="../a"),
    lambda line: line.update(name="absent"),
    lambda line: line.update(size=3),
    lambda line: line.update(size=0),
    lambda line: line.pop("size", None),
    lambda line: line.update(size=-1),
    lambda line: line.update(payload=None),
    lambda line: line.update(payload=base64.b64encode(bytes(8)).decode()),
    lambda line: line.update(payload="no base64"),
    lambda line: line.update(type=3),
    lambda line: line.update(type=2),
    lambda line: line.update(position=99),
    lambda line: line.update(unknown=1),
)


@st.composite
def _changed(draw: st.DrawFn) -> Callable[[list[dict[str, object]]], None]:
    change = draw(st.sampled_from(CHANGES))
    place = draw(st.integers(0, 20))
    way = draw(st.sampled_from(["change", "change", "change", "drop", "double", "swap"]))

    def apply(lines: list[dict[str, object]]) -> None:
        at = place % len(lines)
        if way == "change":
            change(lines[at])
        elif way == "drop":
            del lines[at]
        elif way == "double":
            lines.insert(at, dict(lines[at]))
        else:
            lines[at], lines[at - 1] = lines[at - 1], lines[at]

    return apply


def _saved_diff_id(layout: Path) -> str:
    """Digest of the one layer that podman has saved, uncompressed."""
    blobs = layout / "blobs/sha256"
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    stored = (blobs / manifest["layers"][0]["digest"][7:]).read_bytes()
    plain = gzip.decompress(stored) if stored.startswith(b"\x1f\x8b") else stored
    return f"sha256:{hashlib.sha256(plain).hexdigest()}"


@FEW
@given(change=_changed())
def test_layer_that_is_proven_is_one_that_podman_saves(
    change: Callable[[list[dict[str, object]]], None], template: Store, tmp_path: Path
) -> None:
    """Whatever stands in a tar-split file: a proof that holds is never a layer that podman cannot read."""
    base = tmp_path / "judged"
    shutil.rmtree(base, ignore_errors=True)
    store = copy_store(template.root, base)
    file, lines = _lines(store.root)
    change(lines)
    file.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    (layer,) = records(store.root, "layers").values()
    claim = LayerClaim(
        id=layer["id"],
        parent=None,
        diff_id=DiffId(layer["diff-digest"]),
        size=layer["diff-size"],
    )
    with Rootfs.open(store.root) as root:
        proven = not prove_layer(root, claim, lambda _: None, Reading(drop_cache=False)).defects
    save = ("podman", "save", "--quiet", "--format=oci-dir", "--output", base / "saved", NAME)
    done = run(unshared(save), env=store.env, ok=range(256))
    if any(words in done.stderr for words in EXPORT_ONLY):
        return
    saved = done.returncode == 0 and _saved_diff_id(base / "saved") == layer["diff-digest"]
    assert saved or not proven
