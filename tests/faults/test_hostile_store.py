"""A source store that was made to do harm is refused before anything is changed."""

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Jobs
from tests.faults.scene import APP, MIB, OTHER, SMALL, Images, Job
from tests.support.commands import run, unshared
from tests.support.product import listing
from tests.support.sources import SourceRootBuilder

PATIENCE = 60
"""Seconds after which a run hangs."""
MEMORY = 1200 * MIB
"""Address space that is enough for every refusal."""
REFUSED = (4, 5)
OUTSIDE_TEXT = b"a secret of the machine"

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hostile:
    """A source store under a hostile hand, and what lies outside of it."""

    images: Images
    outside: Path

    @property
    def root(self) -> Path:
        return self.images.root

    def file(self, kind: str) -> Path:
        return self.root / f"overlay-{kind}/{kind}.json"

    def load(self, kind: str) -> list[Record]:
        value = json.loads(self.file(kind).read_text())
        assert isinstance(value, list)
        return value

    def save(self, kind: str, value: object) -> None:
        self.file(kind).write_text(json.dumps(value))

    def image(self, name: str = APP) -> Record:
        (found,) = (each for each in self.load("images") if each.get("names") == [name])
        return found

    def layers(self) -> list[Record]:
        """Of APP, the top one first."""
        known = {each["id"]: each for each in self.load("layers")}
        found = [known[self.image()["layer"]]]
        while "parent" in found[-1]:
            found.append(known[found[-1]["parent"]])
        return found

    def change_image(self, **values: object) -> None:
        """Change keys of APP's record; `_` stands for `-`."""
        own = self.image()["id"]
        self._change("images", own, values)

    def change_layer(self, **values: object) -> None:
        """Change keys of the record of APP's top layer."""
        self._change("layers", self.layers()[0]["id"], values)

    def rename_layer(self, new: str) -> None:
        """Give APP's top layer another ID, everywhere."""
        old = self.layers()[0]["id"]
        self.change_layer(id=new)
        self.change_image(layer=new)
        if "/" not in new and "\0" not in new:
            (self.root / "overlay" / old).rename(self.root / "overlay" / f"{new}.new")
            target = self.root / "overlay" / new
            if target.exists():
                shutil.copytree(
                    self.root / "overlay" / f"{new}.new", target, symlinks=True, dirs_exist_ok=True
                )
            else:
                (self.root / "overlay" / f"{new}.new").rename(target)
            side = self.root / "overlay-layers"
            (side / f"{old}.tar-split.gz").rename(side / f"{new}.tar-split.gz")

    def _change(self, kind: str, own: str, values: Mapping[str, object]) -> None:
        content = self.load(kind)
        for record in content:
            if record["id"] == own:
                record.update({key.replace("_", "-"): value for key, value in values.items()})
        self.save(kind, content)

    # --- places

    @property
    def big_data(self) -> Path:
        return self.root / "overlay-images" / str(self.image()["id"])

    @property
    def config(self) -> Path:
        (found,) = self.big_data.glob("=c2hhMjU2*")
        return found

    @property
    def tar_split(self) -> Path:
        return self.root / f"overlay-layers/{self.layers()[0]['id']}.tar-split.gz"

    @property
    def layer(self) -> Path:
        return self.root / "overlay" / str(self.layers()[0]["id"])


def _to_link(path: Path, outside: Path) -> None:
    """Put a link to a copy outside in place of a file or directory."""
    moved = outside / path.name
    shutil.move(path, moved)
    path.symlink_to(moved)


def _to_climbing_link(path: Path, outside: Path) -> None:
    moved = outside / path.name
    shutil.move(path, moved)
    path.symlink_to("../" * 30 + str(moved)[1:])


def _to_fifo(path: Path, _: Path) -> None:
    shutil.move(path, path.with_name("moved-away"))
    os.mkfifo(path)


def _to_device(path: Path, _: Path) -> None:
    shutil.move(path, path.with_name("moved-away"))
    os.mknod(path, 0o020600, os.makedev(1, 5))  # zeros without end


def _to_directory(path: Path, _: Path) -> None:
    shutil.move(path, path.with_name("moved-away"))
    path.mkdir()


PLACES: dict[str, Callable[[Hostile], Path]] = {
    "images.json": lambda store: store.file("images"),
    "layers.json": lambda store: store.file("layers"),
    "config": lambda store: store.config,
    "manifest": lambda store: store.big_data / "manifest",
    "tar-split": lambda store: store.tar_split,
    "layer": lambda store: store.layer,
    "diff": lambda store: store.layer / "diff",
    "overlay": lambda store: store.root / "overlay",
    "overlay-images": lambda store: store.root / "overlay-images",
    "overlay-layers": lambda store: store.root / "overlay-layers",
    "big data": lambda store: store.big_data,
    "layers.lock": lambda store: store.root / "overlay-layers/layers.lock",
    "images.lock": lambda store: store.root / "overlay-images/images.lock",
}
FILES = ("images.json", "config", "tar-split")
REPLACEMENTS = (_to_link, _to_fifo, _to_climbing_link, _to_device, _to_directory)


def _replaced(place: str, swap: Callable[[Path, Path], None]) -> Callable[[Hostile], None]:
    def damage(store: Hostile) -> None:
        swap(PLACES[place](store), store.outside)

    return damage


def _bomb(store: Hostile) -> None:
    """Some 16 GiB of text in a file of 16 MiB."""
    member = gzip.compress(b"\n" * (64 * MIB))
    with store.tar_split.open("wb") as file:
        for _ in range(256):
            file.write(member)


def _endless_line(store: Hostile) -> None:
    member = gzip.compress(b"[" * (64 * MIB))
    with store.tar_split.open("wb") as file:
        for _ in range(256):
            file.write(member)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _sparse(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def _spaces(store: Hostile, kind: str) -> None:
    """A records file that is right, and far too long."""
    with store.file(kind).open("ab") as file:
        for _ in range(320):
            file.write(b" " * MIB)


def _crowd(store: Hostile, kind: str) -> None:
    """Small enough for the limit, and more objects than memory holds."""
    store.file(kind).write_text("[" + "{}," * (16 * MIB) + "{}]")


def _cycle(store: Hostile) -> None:
    base, top = store.layers()[-1]["id"], store.layers()[0]["id"]
    content = store.load("layers")
    for record in content:
        if record["id"] == base:
            record["parent"] = top
    store.save("layers", content)


def _twice(store: Hostile, kind: str) -> None:
    content = store.load(kind)
    store.save(kind, [*content, content[0]])


def _claimed_name(store: Hostile) -> None:
    content = store.load("images")
    for record in content:
        record["names"] = [APP]
    store.save("images", content)


def _text(store: Hostile, kind: str, old: str, new: str) -> None:
    store.save(kind, store.load(kind))  # with blanks
    text = store.file(kind).read_text()
    assert old in text
    store.file(kind).write_text(text.replace(old, new))


def _key(key: str) -> Callable[[Hostile], None]:
    """One more big data of APP."""

    def damage(store: Hostile) -> None:
        image = store.image()
        store.change_image(
            big_data_names=[*image["big-data-names"], key],
            big_data_sizes={**image["big-data-sizes"], key: 4},
            big_data_digests={**image["big-data-digests"], key: image["digest"]},
        )

    return damage


ATTACKS: dict[str, Callable[[Hostile], None]] = {
    # --- names that become paths
    "layer ID climbs": lambda store: store.rename_layer("../../../outside/victim"),
    "layer ID is absolute": lambda store: store.rename_layer("/outside/victim"),
    "layer ID has NUL": lambda store: store.rename_layer("a\0b"),
    "layer ID is ..": lambda store: store.change_layer(id=".."),
    "layer ID is that of the links": lambda store: store.rename_layer("l"),
    "layer ID is not its own": lambda store: store.rename_layer("0" * 64),
    "layer ID is a file of the store": lambda store: store.rename_layer("layers.json"),
    "layer ID is empty": lambda store: store.change_layer(id=""),
    "layer ID is a number": lambda store: store.change_layer(id=7),
    "parent climbs": lambda store: store.change_layer(parent="../../../etc"),
    "image ID climbs": lambda store: store.change_image(id="../../outside"),
    "image ID is short": lambda store: store.change_image(id="images.lock"),
    "layer of the image climbs": lambda store: store.change_image(layer="../../outside"),
    "key climbs": _key("manifest/../../../../outside/secret"),
    "key has NUL": _key("manifest\0"),
    "key climbs, plain": _key(".."),
    "key is long": _key("manifest-" + "k" * 3000),
    "key is half a character": _key("manifest-\ud800"),
    "layer key climbs": lambda store: store.change_layer(big_data_names=["../../outside/secret"]),
    "layer key is a dot": lambda store: store.change_layer(big_data_names=["."]),
    "layer key is long": lambda store: store.change_layer(big_data_names=["k" * 3000]),
    "layer keys without end": lambda store: store.change_layer(big_data_names=["k"] * MIB),
    # --- sizes and counts
    "diff size is absurd": lambda store: store.change_layer(diff_size=2**80),
    "diff size is negative": lambda store: store.change_layer(diff_size=-(2**80)),
    "diff size is text": lambda store: store.change_layer(diff_size="1"),
    "diff size has a million digits": lambda store: _text(
        store, "layers", '"diff-size": ', '"diff-size": ' + "9" * MIB
    ),
    "big data size is negative": lambda store: store.change_image(big_data_sizes={"manifest": -1}),
    "big data size is absurd": lambda store: store.change_image(big_data_sizes={"manifest": 2**70}),
    "images.json is sparse": lambda store: _sparse(store.file("images"), 400 * MIB),
    "layers.json is sparse": lambda store: _sparse(store.file("layers"), 1 << 43),
    "images.json is long": lambda store: _spaces(store, "images"),
    "layers.json is crowded": lambda store: _crowd(store, "layers"),
    "config is long": lambda store: _sparse(store.config, 1 << 43),
    "manifest is long": lambda store: _sparse(store.big_data / "manifest", 1 << 43),
    "tar-split is a bomb": _bomb,
    "tar-split is one line": _endless_line,
    "tar-split is sparse": lambda store: _sparse(store.tar_split, 1 << 43),
    # --- JSON
    "images.json is deep": lambda store: _write(store.file("images"), b"[" * MIB),
    "record is deep": lambda store: _text(
        store,
        "layers",
        '"diff-size": ',
        '"x": ' + "[" * 100_000 + "]" * 100_000 + ', "diff-size": ',
    ),
    "layers.json is an object": lambda store: store.save("layers", {}),
    "layers.json is a list of lists": lambda store: store.save("layers", [[]]),
    "images.json is binary": lambda store: _write(store.file("images"), os.urandom(1000)),
    "name is half a character": lambda store: store.change_image(names=[APP, "localhost/\udc80:1"]),
    "name is a number": lambda store: store.change_image(names=[APP, 7]),
    "created is not a number": lambda store: _text(
        store, "layers", '"diff-size": ', '"uidset": [NaN, Infinity], "diff-size": '
    ),
    "config is deep": lambda store: _write(store.config, b"[" * MIB),
    # --- identities
    "parents in a circle": _cycle,
    "own parent": lambda store: store.change_layer(parent=store.layers()[0]["id"]),
    "name claimed twice": _claimed_name,
    "image twice": lambda store: _twice(store, "images"),
    "layer twice": lambda store: _twice(store, "layers"),
    "layer under a second name": lambda store: store.change_image(
        Layer=store.image(SMALL)["layer"]
    ),
    "names under a second name": lambda store: store.change_image(NAMES=[SMALL, OTHER]),
    "flags under a second name": lambda store: store.change_layer(Flags={"incomplete": True}),
    "incomplete": lambda store: store.change_layer(flags={"incomplete": True}),
    # --- other files in the place of files
    **{
        f"{place} {swap.__name__.removeprefix('_')}": _replaced(place, swap)
        for place in PLACES
        for swap in REPLACEMENTS[: None if place in FILES else 2]
    },
}


EXPECTED = {
    "overlay-images to_fifo": (2,),  # what was named is not a store at all
    # Nobody waits for a fifo's writer, and what is copied is proven.
    "layers.lock to_fifo": (0,),
    "images.lock to_fifo": (0,),
}
"""Exit codes that are not those of a refusal."""


@pytest.fixture(scope="session")
def template(little: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that holds SMALL."""
    base = tmp_path_factory.mktemp("hostile")
    physical = base / "target"
    Jobs(little, SourceRootBuilder(base), base)(SMALL, at=physical).run()
    return physical


@pytest.fixture
def hostile(little: Images, tmp_path: Path) -> Hostile:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(OUTSIDE_TEXT)
    return Hostile(little.copied_to(tmp_path / "hostile"), outside)


def _limited(job: Job) -> subprocess.CompletedProcess[str]:
    script = f'ulimit -v {MEMORY // 1024}; exec "$@"'
    argv = ("timeout", str(PATIENCE), "sh", "-c", script, "sh", *job.argv)
    done = run(unshared(argv), env=job.env, ok=range(256))
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _names_the_place(error: str, hostile: Hostile) -> bool:
    places = (str(hostile.root), "layer ", "image ", "the bound images need")
    return any(place in error for place in places)


ROLLED_BACK = frozenset(("layer key climbs", "layer keys without end"))
"""What is seen while layers are taken over: the store is brought back, byte for byte, to what it held."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_store_is_refused_before_anything_is_changed(
    jobs: Jobs, template: Path, hostile: Hostile, attack: str
) -> None:
    physical = jobs.directory / "target"
    run(("cp", "--archive", template, physical))
    ATTACKS[attack](hostile)
    job = jobs(APP, at=physical, images=hostile.images)
    times = attack not in ROLLED_BACK
    target, outside = listing(job.store, times=times), listing(hostile.outside)
    done = _limited(job)
    assert done.returncode in EXPECTED.get(attack, REFUSED), (done.returncode, done.stderr)
    if done.returncode == 0:
        job.verify()
        return
    assert _names_the_place(done.stderr[done.stderr.index("error: ") :], hostile), done.stderr
    assert listing(job.store, times=times) == target
    if "--engine auto" in done.stderr:
        # What skopeo makes of it is made again, through the store's own code, and is proven.
        job = replace(job, engine="auto")
        done = _limited(job)
        assert done.returncode in (0, *REFUSED), (done.returncode, done.stderr)
        if done.returncode == 0:
            job.verify()
    assert listing(hostile.outside) == outside


# --- layers whose content is not what it should be -------------------------------------------


def _file(store: Hostile) -> Path:
    """A file of APP's top layer."""
    return sorted(path for path in (store.layer / "diff").rglob("*") if path.is_file())[3]


def _file_to_fifo(store: Hostile) -> None:
    path = _file(store)
    path.unlink()
    os.mkfifo(path)


def _file_to_link(store: Hostile) -> None:
    """The same content, outside."""
    path = _file(store)
    path.rename(store.outside / "content")
    path.symlink_to(store.outside / "content")


def _folder_to_link(store: Hostile) -> None:
    path = _file(store).parent
    path.rename(store.outside / "folder")
    path.symlink_to(store.outside / "folder")


def _file_to_device(store: Hostile) -> None:
    path = _file(store)
    path.unlink()
    os.mknod(path, 0o020600, os.makedev(1, 5))


def _file_grows(store: Hostile) -> None:
    os.truncate(_file(store), 1 << 43)


def _tar_split_names(store: Hostile, name: str) -> None:
    """Files of the stream are said to be elsewhere."""
    entries = [json.loads(line) for line in gzip.decompress(store.tar_split.read_bytes()).split()]
    for entry in entries:
        if entry["type"] == 1:
            entry["name"] = name
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    store.tar_split.write_bytes(gzip.compress(lines.encode()))


def _holds_outside_text(path: Path) -> bool:
    return path.is_file() and path.stat().st_size < MIB and OUTSIDE_TEXT in path.read_bytes()


LAYERS: dict[str, Callable[[Hostile], None]] = {
    "file is a fifo": _file_to_fifo,
    "file is a link out of the store": _file_to_link,
    "directory is a link out of the store": _folder_to_link,
    "file is a device": _file_to_device,
    "file is sparse and huge": _file_grows,
    "names climb": lambda store: _tar_split_names(
        store, "../" * 30 + str(store.outside / "secret")
    ),
    "names are absolute": lambda store: _tar_split_names(store, str(store.outside / "secret")),
    "names have NUL": lambda store: _tar_split_names(store, "a\0b"),
    "names are long": lambda store: _tar_split_names(store, "n" * 300),
    "names are half characters": lambda store: _tar_split_names(store, "\ud800"),
}


@pytest.mark.parametrize("engine", ["direct", "skopeo", "podman"])
@pytest.mark.parametrize("attack", LAYERS)
def test_hostile_layer_is_never_proven_and_leads_nowhere(
    jobs: Jobs, template: Path, hostile: Hostile, attack: str, engine: str
) -> None:
    physical = jobs.directory / "target"
    run(("cp", "--archive", template, physical))
    LAYERS[attack](hostile)
    job = jobs(APP, at=physical, images=hostile.images, engine=engine)
    times = attack not in ROLLED_BACK
    target, outside = listing(job.store, times=times), listing(hostile.outside)
    done = _limited(job)
    if engine == "direct":  # what it copies leads nowhere, and verification finds it
        assert done.returncode in (*REFUSED, 6), (done.returncode, done.stderr)
    else:  # a tool would follow it: it never gets to see it
        assert done.returncode in REFUSED, (done.returncode, done.stderr)
        assert listing(job.store) == target
    assert listing(hostile.outside) == outside
    assert not [path for path in physical.rglob("*") if _holds_outside_text(path)]
    assert job.temporary() == []
