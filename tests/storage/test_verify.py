"""Verification of real stores: sound ones pass, and each kind of damage is named where it is."""

import base64
import gzip
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from installer_plugin.errors import InterruptedBySignal, Problem, VerificationError
from installer_plugin.events import Event, Events, Progress
from installer_plugin.model import (
    Expected,
    ManifestDigest,
    VerifiedImage,
    parse_diff_id,
    parse_image_id,
)
from installer_plugin.process import schedule
from installer_plugin.process.pool import Crew
from installer_plugin.process.pool_worker import Ended, Job
from installer_plugin.process.runner import Runner
from installer_plugin.stages import verify as stage
from installer_plugin.stages.verify import VerifyOptions, verify
from installer_plugin.storage.store.consistency import store_problems
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.records import big_data_file_name, layer_id, toc_layer_id
from tests.support.commands import run, unshared
from tests.support.debian import DebianRoot
from tests.support.images import ImageSources
from tests.support.stores import StoredImage

QUIET = Events()
Json = dict[str, object]


# --- a store to damage -------------------------------------------------------------------------


def _verify(
    store: GraphRoot,
    expected: Sequence[Expected],
    events: Events,
    options: VerifyOptions | None = None,
) -> tuple[VerifiedImage, ...]:
    """Verify with a crew of its own."""
    with Crew(Runner()) as crew:
        return verify(store, expected, events, crew, options or VerifyOptions())


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of the real store, to be damaged."""

    root: Path
    sources: ImageSources

    @property
    def image(self) -> StoredImage:
        """The image that most tests damage; its top layer has every kind of file."""
        return self.sources.app_a

    @property
    def top(self) -> str:
        return str(self.image_record()["layer"])

    @property
    def base(self) -> str:
        return str(self.layer_record(self.top)["parent"])

    @property
    def diff(self) -> Path:
        return self.root / "overlay" / self.top / "diff"

    @property
    def tar_split(self) -> Path:
        return self.root / f"overlay-layers/{self.top}.tar-split.gz"

    def records(self, kind: str) -> list[Json]:
        content = (self.root / f"overlay-{kind}/{kind}.json").read_text()
        return [dict(record) for record in json.loads(content)]

    def write(self, kind: str, records: Sequence[Json]) -> None:
        (self.root / f"overlay-{kind}/{kind}.json").write_text(json.dumps(records))

    def edit(self, kind: str, record_id: str, **fields: object) -> None:
        """Set fields of one record; the dash in a key is written as an underscore."""
        records = self.records(kind)
        (record,) = (entry for entry in records if entry["id"] == record_id)
        record |= {key.replace("_", "-"): value for key, value in fields.items()}
        self.write(kind, records)

    def image_record(self) -> Json:
        (record,) = (entry for entry in self.records("images") if entry["id"] == self.image.id)
        return record

    def layer_record(self, layer: str) -> Json:
        (record,) = (entry for entry in self.records("layers") if entry["id"] == layer)
        return record

    def link(self, layer: str) -> str:
        return (self.root / "overlay" / layer / "link").read_text()

    def big_data(self, key: str) -> Path:
        return self.root / "overlay-images" / self.image.id / big_data_file_name(key)

    def expected(self) -> tuple[Expected, ...]:
        return tuple(map(expected_of, self.sources.images()))

    def verify(self) -> tuple[VerifiedImage, ...]:
        with GraphRoot.open(self.root) as store:
            return _verify(store, self.expected(), QUIET)

    def problems(self, *expected: Expected) -> tuple[Problem, ...]:
        """What is wrong when *expected*, or all images, are looked for."""
        with GraphRoot.open(self.root) as store, pytest.raises(VerificationError) as caught:
            _verify(store, expected or self.expected(), QUIET)
        return caught.value.problems

    def lines(self) -> list[Json]:
        """The tar-split file of the top layer."""
        with gzip.open(self.tar_split) as file:
            return [json.loads(line) for line in file]

    def write_lines(self, lines: Sequence[Json]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self.tar_split.write_bytes(gzip.compress(text.encode()))


def expected_of(image: StoredImage) -> Expected:
    digests = {image.digest, *(name.partition("@")[2] for name in image.repo_digests)}
    return Expected(
        reference=image.name,
        names=(image.name,),
        image_id=parse_image_id(image.id),
        manifest_digests=tuple(ManifestDigest(digest) for digest in sorted(digests)),
    )


@pytest.fixture
def copy(image_sources: ImageSources, tmp_path: Path) -> Iterator[Copy]:
    root = tmp_path / "storage"
    run(("cp", "-a", image_sources.store.root, root))
    shutil.rmtree(root / "libpod", ignore_errors=True)  # podman's own, of the store's old place
    (root / "db.sql").unlink(missing_ok=True)
    yield Copy(root=root, sources=image_sources)
    shutil.rmtree(root)


# --- sound stores ------------------------------------------------------------------------------


def test_sound_store_is_proven(copy: Copy) -> None:
    verified = copy.verify()
    for image, proven in zip(copy.sources.images(), verified, strict=True):
        assert (proven.reference, proven.names) == (image.name, (image.name,))
        assert proven.image_id == image.id
        assert proven.diff_ids == image.diff_ids
        assert proven.digest == image.digest
        assert {name.partition("@")[2] for name in image.repo_digests} <= {*proven.manifest_digests}
        assert proven.checks == stage.CHECKS
        assert proven.size > 0
    with GraphRoot.open(copy.root) as store:
        assert store_problems(store) == ()


def test_sound_store_on_a_read_only_mount(copy: Copy) -> None:
    before = sorted(path.stat().st_mtime_ns for path in copy.root.glob("overlay*/*"))
    done = run_unshared(copy, 'mount --bind "$2" "$2"; mount -o remount,ro,bind "$2"')
    assert done == ["proven"]
    assert before == sorted(path.stat().st_mtime_ns for path in copy.root.glob("overlay*/*"))


def test_store_that_podman_has_used_as_an_additional_one(copy: Copy, tmp_path: Path) -> None:
    # Podman takes no run root whose path is long; this one is in the command's own tmpfs.
    options = ("--root", tmp_path / "own", "--runroot", "/var/lib/containers/run")
    script = (
        'podman "$@" run --rm --network=none --cgroups=disabled '
        f"{copy.image.name} /bin/sh -c 'echo x > /etc/os-release' || "
        f'podman "$@" create {copy.image.name} /bin/sh >/dev/null'
    )
    store = (f"--storage-opt=additionalimagestore={copy.root}", "--storage-driver=overlay")
    run(unshared(("sh", "-c", script, "sh", *options, *store)), env=copy.sources.store.env)
    assert len(copy.verify()) == len(copy.expected())


def test_store_that_podman_5_has_used_and_bootc_would_mount(
    copy: Copy, debian_root: DebianRoot
) -> None:
    """bootc's podman runs on the store itself, always at the same place."""
    script = "podman --root /run/bootc/storage --runroot /run/r images --quiet | wc -l"
    done = debian_root.run(("sh", "-c", script), rw={"/run/bootc/storage": copy.root})
    assert int(done.stdout) > 0
    assert (copy.root / "db.sql").exists()
    assert len(copy.verify()) == len(copy.expected())


_PULL_IN_PARTS = """
set -e
registry=$1 image=$2
printf '[storage]\ndriver = "overlay"\n[storage.options]\npull_options = {%s}\n' \
    'enable_partial_images = "true", use_hard_links = "false"' >/tmp/storage.conf
options="--root /target --runroot /run/r --tmpdir /run/t"
export CONTAINERS_STORAGE_CONF=/tmp/storage.conf
podman --root /run/own --runroot /run/o --storage-opt additionalimagestore=/source push --quiet \
    --tls-verify=false --compression-format zstd:chunked $image docker://$registry/team/parts:1
podman $options pull --quiet --tls-verify=false $registry/team/parts:1 >&2
podman $options image inspect --format '{{.Id}}' $registry/team/parts:1
"""


def test_store_with_layers_that_podman_5_pulled_in_parts(
    image_sources: ImageSources, debian_root: DebianRoot, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    # Not app_a: podman 5.4 cannot pull names that are not UTF-8 in parts.
    sources, image = image_sources, image_sources.app_b
    argv = ("sh", "-c", _PULL_IN_PARTS, "sh", sources.registry, image.name)
    done = debian_root.run(argv, rw={"/target": target}, ro={"/source": sources.store.root})
    (target / "db.sql").unlink(missing_ok=True)
    layers = json.loads((target / "overlay-layers/layers.json").read_text())
    assert [layer for layer in layers if layer.get("toc-digest")]
    name = f"{sources.registry}/team/parts:1"
    expected = Expected(
        reference=name, names=(name,), image_id=parse_image_id(done.stdout.split()[-1])
    )
    with GraphRoot.open(target) as store:
        (proven,) = _verify(store, (expected,), QUIET)
    assert proven.diff_ids == image.diff_ids


def test_progress_ends_at_the_images_size(copy: Copy) -> None:
    seen: list[Event] = []

    class Sink:
        def send(self, event: Event) -> None:
            assert threading.current_thread() is threading.main_thread()
            seen.append(event)

    with GraphRoot.open(copy.root) as store:
        (proven,) = _verify(store, copy.expected()[1:2], Events([Sink()]))
    last = [event for event in seen if isinstance(event, Progress)][-1]
    assert (last.reference, last.done, last.total) == (proven.reference, proven.size, proven.size)


def test_answer_of_a_worker_that_proves_nothing_is_not_a_proof(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(_crew: Crew, jobs: Sequence[Job], **_: object) -> Iterator[Ended]:
        yield from (Ended(index, "all is well") for index, _ in enumerate(jobs))

    monkeypatch.setattr(Crew, "do", answers)
    with (
        GraphRoot.open(copy.root) as store,
        pytest.raises(TypeError, match="'all is well' proves nothing"),
    ):
        _verify(store, copy.expected(), QUIET)


def test_progress_is_silent_while_nothing_moves() -> None:
    seen: list[Event] = []

    class Sink:
        def send(self, event: Event) -> None:
            seen.append(event)

    case = stage._Case(Expected(reference="a", names=("a",)))
    meter = stage._Meter([case], {}, Events([Sink()]))
    meter.report()
    meter.report()
    assert seen == [Progress(stage=stage.STAGE, reference="a", done=0, total=0)]


def test_name_alone_is_enough(copy: Copy) -> None:
    expected = Expected(reference=copy.image.name, names=())
    with GraphRoot.open(copy.root) as store:
        (proven,) = _verify(store, (expected,), QUIET, VerifyOptions(workers=1, drop_cache=False))
    assert proven.image_id == copy.image.id


def test_image_known_by_id_and_several_names(copy: Copy) -> None:
    web = copy.sources.web
    expected = Expected(
        reference=web.name,
        names=(web.name, copy.sources.web_by_digest),
        image_id=parse_image_id(web.id),
    )
    with GraphRoot.open(copy.root) as store:
        (proven,) = _verify(store, (expected,), QUIET)
    assert proven.names == expected.names


def test_nothing_expected_is_never_a_pass(copy: Copy) -> None:
    with GraphRoot.open(copy.root) as store, pytest.raises(RuntimeError, match="nothing"):
        _verify(store, (), QUIET)


def test_image_that_was_not_examined_is_never_verified() -> None:
    case = stage._Case(Expected(reference="a", names=("a",)))
    with pytest.raises(RuntimeError, match="without having been examined"):
        stage._verified(case, {})


def test_image_without_layers(copy: Copy) -> None:
    """A config alone is an image, if an odd one."""
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": []}}).encode()
    image_id, name = hashlib.sha256(config).hexdigest(), "localhost/nothing:1"
    manifest = json.dumps(
        {"config": {"digest": f"sha256:{image_id}", "size": len(config)}, "layers": []}
    ).encode()
    keys = {f"sha256:{image_id}": config, "manifest": manifest}
    directory = copy.root / "overlay-images" / image_id
    directory.mkdir()
    for key, content in keys.items():
        (directory / big_data_file_name(key)).write_bytes(content)
    record: Json = {"id": image_id, "names": [name], "big-data-names": list(keys)}
    copy.write("images", [*copy.records("images"), record])
    with GraphRoot.open(copy.root) as store:
        (proven,) = _verify(store, (Expected(reference=name, names=(name,)),), QUIET)
    assert (proven.size, proven.diff_ids) == (0, ())


def test_layer_that_was_pulled_in_parts(copy: Copy) -> None:
    """Its ID comes from its table of contents, and the record knows nothing else of it."""
    toc = "sha256:" + "7" * 64
    new = toc_layer_id(copy.base, toc)
    _rename_layer(copy, copy.top, new, toc_digest=toc, diff_digest="", diff_size=-1)
    assert len(copy.verify()) == len(copy.expected())


def _rename_layer(copy: Copy, old: str, new: str, **fields: object) -> None:
    (copy.root / "overlay" / old).rename(copy.root / "overlay" / new)
    tar_splits = copy.root / "overlay-layers"
    (tar_splits / f"{old}.tar-split.gz").rename(tar_splits / f"{new}.tar-split.gz")
    link = copy.root / "overlay/l" / copy.link(new)
    link.unlink()
    link.symlink_to(f"../{new}/diff")
    copy.edit("images", copy.image.id, layer=new)
    copy.edit("layers", old, id=new, **fields)


# --- damage to files of a layer ----------------------------------------------------------------


def _quietly(path: Path, change: Callable[[bytearray], object]) -> None:
    """Change the content and keep the times, as a failing disk does."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _flip(content: bytearray) -> None:
    content[len(content) // 2] ^= 1


def _keeping_attributes(path: Path, change: Callable[[bytearray], object]) -> None:
    """Writing drops a file capability; this test is about the content."""
    capability = os.getxattr(path, "security.capability")
    _quietly(path, change)
    os.setxattr(path, "security.capability", capability)


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _unlinked(path: Path) -> None:
    """Make a hard link a file of its own."""
    twin = path.with_name("twin")
    shutil.copy2(path, twin)
    twin.rename(path)


FILE_DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "flipped-byte": (
        lambda d: _keeping_attributes(d / "opt/capable", _flip), "/opt/capable", "other content"
    ),
    "truncation": (
        lambda d: _quietly(d / "opt/sparse", lambda content: content.pop()),
        "/opt/sparse",
        "has 4194303 bytes, expected 4194304",
    ),
    "missing-file": (lambda d: (d / "opt/empty").unlink(), "/opt/empty", "is missing"),
    "extra-file": (
        lambda d: (d / "opt/links/extra").touch(), "/opt/links/extra", "is not in the image's layer"
    ),
    "chmod": (
        lambda d: (d / "opt/setuid").chmod(0o755), "/opt/setuid", "mode 0755, expected 4755"
    ),
    "chmod-directory": (lambda d: (d / "opt/sticky").chmod(0o777), "/opt/sticky", "expected 1777"),
    "chown": (
        lambda d: os.chown(d / "opt/hülle-Ω", 12, 0), "/opt/hülle-Ω", "12:0, expected 0:0"
    ),
    "mtime": (
        lambda d: os.utime(d / "opt/nanoseconds", (7, 7)),
        "/opt/nanoseconds",
        "was modified 1970-01-01T00:00:07Z, expected 2020-09-13T12:26:40Z",
    ),
    "capability": (
        lambda d: os.removexattr(d / "opt/capable", "security.capability"),
        "/opt/capable",
        "has security.capability not set, expected 0x01000002",
    ),
    "removed-whiteout": (
        lambda d: (d / "etc/removed").unlink(), "/etc/removed", "expected a whiteout"
    ),
    "removed-opaque-mark": (
        lambda d: os.removexattr(d / "data/opaque", "trusted.overlay.opaque"),
        "/data/opaque",
        "is not opaque, expected marked",
    ),
    "retargeted-link": (
        lambda d: _replaced(d / "opt/links/absolute", lambda p: p.symlink_to("/etc/shadow")),
        "/opt/links/absolute",
        "leads to '/etc/shadow', expected '/etc/os-release'",
    ),
    "device-numbers": (
        lambda d: _replaced(d / "opt/block", lambda p: os.mknod(p, 0o060660, os.makedev(99, 7))),
        "/opt/block",
        "is device 99:7, expected 7:99",
    ),
    "broken-hard-link": (
        lambda d: _unlinked(d / "opt/links/hard-3"), "/opt/links/hard-3", "is a file of its own"
    ),
    "fifo-in-a-files-place": (
        lambda d: _replaced(d / "opt/unreadable", os.mkfifo),
        "/opt/unreadable",
        "is a fifo, expected a regular file",
    ),
    "link-in-a-files-place": (
        lambda d: _replaced(d / "opt/unreadable", lambda p: p.symlink_to("/dev/zero")),
        "/opt/unreadable",
        "is a symbolic link, expected a regular file",
    ),
    "device-in-a-files-place": (
        lambda d: _replaced(d / "opt/unreadable", lambda p: os.mknod(p, 0o020666, 0x105)),
        "/opt/unreadable",
        "is a character device, expected a regular file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILE_DAMAGE)
def test_damaged_file_is_named_with_image_and_layer(copy: Copy, name: str) -> None:
    damage, path, message = FILE_DAMAGE[name]
    damage(copy.diff)
    problems = copy.problems()
    where = f"layer {copy.top[:12]} {path}"
    assert [p for p in problems if p.where == where and message in p.message], problems
    assert {problem.subject for problem in problems} == {copy.image.name}


def test_damage_in_a_shared_layer_is_every_images_problem(copy: Copy) -> None:
    (copy.root / "overlay" / copy.base / "diff/etc/removed").write_text("changed")
    subjects = {problem.subject for problem in copy.problems()}
    shared = (copy.sources.base, copy.sources.app_a, copy.sources.app_b)
    assert subjects == {image.name for image in shared}


def test_all_damage_is_told_at_once(copy: Copy) -> None:
    for name in ("flipped-byte", "chmod", "chown", "extra-file", "removed-whiteout"):
        FILE_DAMAGE[name][0](copy.diff)
    (copy.root / "overlay-images/images.lock").unlink()
    text = "\n".join(map(str, copy.problems()))
    for word in ("capable", "setuid", "hülle", "extra", "removed", "images.lock"):
        assert word in text


# --- damage to records and to what chains layers -----------------------------------------------


def _edit_same_size(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))


def _edit_config(copy: Copy) -> None:
    _edit_same_size(copy.big_data(f"sha256:{copy.image.id}"), b'"linux"', b'"Linux"')


def _edit_manifest(copy: Copy) -> None:
    _edit_same_size(copy.big_data("manifest"), b'"size":', b'"Size":')


def _edit_other_manifest(copy: Copy) -> None:
    key = f"manifest-{copy.image.digest}"
    _edit_same_size(copy.big_data(key), b'"size":', b'"Size":')


def _edit_manifest_and_its_record(copy: Copy) -> None:
    _edit_other_manifest(copy)
    key = f"manifest-{copy.image.digest}"
    digest = "sha256:" + hashlib.sha256(copy.big_data(key).read_bytes()).hexdigest()
    digests = copy.image_record()["big-data-digests"]
    assert isinstance(digests, dict)
    copy.edit("images", copy.image.id, big_data_digests={**digests, key: digest})


def _forge_manifest(copy: Copy, change: Callable[[Json], object]) -> None:
    """Change the default manifest and everything that is recorded about its bytes."""
    path = copy.big_data("manifest")
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_bytes(json.dumps(manifest).encode())
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    record = copy.image_record()
    digests, sizes = record["big-data-digests"], record["big-data-sizes"]
    assert isinstance(digests, dict)
    assert isinstance(sizes, dict)
    copy.edit(
        "images",
        copy.image.id,
        big_data_digests={**digests, "manifest": digest},
        big_data_sizes={**sizes, "manifest": path.stat().st_size},
    )


def _other_config(manifest: Json) -> None:
    manifest["config"] = {"digest": "sha256:" + "5" * 64, "size": 1}


def _no_config(manifest: Json) -> None:
    del manifest["config"]


def _one_layer_less(manifest: Json) -> None:
    layers = manifest["layers"]
    assert isinstance(layers, list)
    layers.pop()


def _other_layer(manifest: Json) -> None:
    layers = manifest["layers"]
    assert isinstance(layers, list)
    layers[0]["digest"] = "sha256:" + "6" * 64


def _drop_name(copy: Copy) -> None:
    copy.edit("images", copy.image.id, names=["localhost/renamed:1"])


def _two_owners(copy: Copy) -> None:
    copy.edit("images", copy.sources.app_b.id, names=[copy.sources.app_b.name, copy.image.name])


def _link_gone(copy: Copy) -> None:
    (copy.root / "overlay/l" / copy.link(copy.top)).unlink()


def _link_wrong(copy: Copy) -> None:
    _link_gone(copy)
    (copy.root / "overlay/l" / copy.link(copy.top)).symlink_to(f"../{copy.base}/diff")


def _write(copy: Copy, path: str, text: str) -> None:
    (copy.root / path).write_text(text)


def _sqlite(copy: Copy, statement: str) -> None:
    with closing(sqlite3.connect(copy.root / "db.sql")) as database:
        database.execute(statement)
        database.commit()


def _bolt(copy: Copy, path: str) -> None:
    (copy.root / "libpod").mkdir()
    (copy.root / "libpod/bolt_state.db").write_bytes(b"\0\1static-dir" + path.encode() + b"\0")


_CONFIG_TABLE = "CREATE TABLE DBConfig AS SELECT '%s' AS GraphRoot"
_ENDLESS = (
    "CREATE VIEW DBConfig AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT max(i) AS GraphRoot FROM n"
)

RECORD_DAMAGE: dict[str, tuple[Callable[[Copy], object], str, str]] = {
    "config": (_edit_config, "config of image", "hashes to sha256:"),
    "config-gone": (
        lambda c: c.big_data(f"sha256:{c.image.id}").unlink(), "overlay-images", "cannot be read"
    ),
    "config-garbage": (
        lambda c: _write(c, f"overlay-images/{c.image.id}/manifest", "garbage"),
        "big data manifest",
        "is not JSON",
    ),
    "manifest": (_edit_manifest, "big data manifest", "hashes to sha256:"),
    "other-manifest": (_edit_other_manifest, "big data manifest-sha256:", "hashes to sha256:"),
    "other-manifest-and-record": (
        _edit_manifest_and_its_record, "big data manifest-sha256:", "expected its name's sha256:"
    ),
    "requested-manifest": (_edit_manifest_and_its_record, "", "hashes to"),
    "manifest-with-other-config": (
        lambda c: _forge_manifest(c, _other_config), "big data manifest", "has the config sha256:555"
    ),
    "manifest-without-config": (
        lambda c: _forge_manifest(c, _no_config), "big data manifest", "has the config none"
    ),
    "manifest-with-fewer-layers": (
        lambda c: _forge_manifest(c, _one_layer_less), "big data manifest", "has 1 layers, expected 2"
    ),
    "manifest-with-other-layer": (
        lambda c: _forge_manifest(c, _other_layer), "big data manifest", "layers[0] is sha256:666"
    ),
    "no-default-manifest": (
        lambda c: c.edit("images", c.image.id, big_data_names=[f"sha256:{c.image.id}"]),
        "images.json",
        "has no default manifest",
    ),
    "digest": (
        lambda c: c.edit("images", c.image.id, digest="sha256:" + "9" * 64),
        "images.json",
        "digest is sha256:999",
    ),
    "size": (
        lambda c: c.edit("images", c.image.id, big_data_sizes={"manifest": 7}),
        "big data manifest",
        "expected 7",
    ),
    "diff-digest": (
        lambda c: c.edit("layers", c.top, diff_digest="sha256:" + "4" * 64),
        "layers.json, layer ",
        "diff-digest is sha256:444",
    ),
    "diff-size": (
        lambda c: c.edit("layers", c.top, diff_size=1 << 40), "", "bytes, expected"
    ),
    "short-chain": (
        lambda c: c.edit("images", c.image.id, layer=c.base),
        "layers.json",
        "the image has 1 layers, expected 2",
    ),
    "layer-unknown": (
        lambda c: c.write("layers", [x for x in c.records("layers") if x["id"] != c.top]),
        "layer ",
        "is missing",
    ),
    "parent-unknown": (
        lambda c: c.edit("layers", c.top, parent="3" * 64), "layer 333", "is missing"
    ),
    "parent-cycle": (
        lambda c: c.edit("layers", c.base, parent=c.top), "layer ", "is its own ancestor"
    ),
    "layer-id": (
        lambda c: _rename_layer(c, c.top, "8" * 64), "layers.json, layer 888", "does not follow"
    ),
    "incomplete": (
        lambda c: c.edit("layers", c.top, flags={"incomplete": True}), "layer ", "marked incomplete"
    ),
    "shifted-owners": (
        lambda c: c.edit("layers", c.top, uidmap=[{"size": 1}]), "layer ", "with shifted owners"
    ),
    "l-link-gone": (_link_gone, "layer ", "is not a link (No such file or directory)"),
    "l-link-wrong": (_link_wrong, "layer ", "/diff', expected '../"),
    "link-file-gone": (
        lambda c: (c.root / "overlay" / c.top / "link").unlink(), "layer ", "/link: cannot be read"
    ),
    "link-file-hostile": (
        lambda c: _write(c, f"overlay/{c.top}/link", "../../../../etc/passwd"),
        "layer ",
        "expected 26 characters",
    ),
    "link-file-is-fifo": (
        lambda c: _replaced(c.root / "overlay" / c.top / "link", os.mkfifo), "layer ", "is a fifo"
    ),
    "link-file-long": (
        lambda c: _write(c, f"overlay/{c.top}/link", "A" * 100_000), "layer ", "is longer than"
    ),
    "lower-wrong": (
        lambda c: _write(c, f"overlay/{c.top}/lower", "l/" + "A" * 26), "layer ", "/lower is 'l/AAA"
    ),
    "lower-gone": (
        lambda c: (c.root / "overlay" / c.top / "lower").unlink(), "layer ", "/lower is missing"
    ),
    "lower-below-base": (
        lambda c: _write(c, f"overlay/{c.base}/lower", "l/" + "A" * 26), "layer ", "below a base"
    ),
    "lower-layers": (
        lambda c: _write(c, f"overlay/{c.top}/lower-layers", "x" * 999), "layer ", "/lower-layers is"
    ),
    "tar-split-gone": (lambda c: c.tar_split.unlink(), "layer ", "tar-split.gz: cannot be opened"),
    "tar-split-garbage": (lambda c: c.tar_split.write_bytes(b"x"), "layer ", "is damaged after"),
    "tree-gone": (lambda c: shutil.rmtree(c.diff), "layer ", "/diff: cannot be opened"),
    "parents-tree-gone": (
        lambda c: shutil.rmtree(c.root / "overlay" / c.base / "diff"), "layer ", "cannot be opened"
    ),
    "name": (_drop_name, "", "no image has the name 'localhost/app-a:1'"),
    "images-lock": (
        lambda c: (c.root / "overlay-images/images.lock").unlink(), "", "expected a lock file"
    ),
    "layers-lock-is-fifo": (
        lambda c: _replaced(c.root / "overlay-layers/layers.lock", os.mkfifo), "", "is fifo"
    ),
    "sqlite-of-another-place": (
        lambda c: _sqlite(c, _CONFIG_TABLE % "/mnt/storage"),
        "",
        "db.sql): ties the store to '/mnt/storage', expected '/run/bootc/storage'",
    ),
    "sqlite-empty": (
        lambda c: _sqlite(c, "CREATE TABLE DBConfig (GraphRoot TEXT)"), "", "has no row in DBConfig"
    ),
    "sqlite-other-table": (lambda c: _sqlite(c, "CREATE TABLE x (y)"), "", "not a database of podman"),
    "sqlite-endless": (lambda c: _sqlite(c, _ENDLESS), "", "not a database of podman: interrupted"),
    "sqlite-garbage": (lambda c: _write(c, "db.sql", "garbage" * 999), "", "not a database of podman"),
    "bolt-of-another-place": (lambda c: _bolt(c, "/mnt/x"), "", "ties the store to another path"),
}  # fmt: skip


def _shown(problem: Problem) -> str:
    return f"{problem.subject} [{problem.where}] {problem.message}"


@pytest.mark.parametrize("name", RECORD_DAMAGE)
def test_damaged_record_is_named(copy: Copy, name: str) -> None:
    damage, where, message = RECORD_DAMAGE[name]
    damage(copy)
    problems = copy.problems()
    message = message.partition("): ")[2] or message
    assert [p for p in problems if where in (p.where or p.subject) and message in p.message], (
        "\n".join(map(_shown, problems))
    )


STRUCTURAL = (
    "layer-unknown", "parent-unknown", "parent-cycle", "incomplete", "l-link-gone", "l-link-wrong",
    "link-file-gone", "lower-wrong", "lower-gone", "lower-below-base", "tar-split-gone", "tree-gone",
    "images-lock", "sqlite-of-another-place", "bolt-of-another-place",
)  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURAL)
def test_preflight_sees_a_damaged_store_without_reading_content(copy: Copy, name: str) -> None:
    RECORD_DAMAGE[name][0](copy)
    with GraphRoot.open(copy.root) as store:
        assert store_problems(store)


def test_preflight_passes_over_a_layer_that_was_given_up(copy: Copy) -> None:
    record: Json = {"id": "f" * 64, "flags": {"incomplete": True}}
    copy.write("layers", [*copy.records("layers"), record])
    with GraphRoot.open(copy.root) as store:
        assert store_problems(store) == ()


def test_image_without_a_name_in_a_damaged_store(copy: Copy) -> None:
    copy.edit("images", copy.image.id, names=[], layer="3" * 64)
    with GraphRoot.open(copy.root) as store:
        (problem,) = store_problems(store)
    assert problem.subject == copy.image.id


@pytest.mark.parametrize("damage", ["garbage", '[{"id":"../../etc"}]', "[" * 10**6, "{}"])
def test_records_that_cannot_be_read(copy: Copy, damage: str) -> None:
    (copy.root / "overlay-layers/layers.json").write_text(damage)
    (problem,) = copy.problems()
    assert "layers.json" in problem.subject
    with GraphRoot.open(copy.root) as store:
        assert store_problems(store) != ()


def test_name_that_two_images_claim(copy: Copy) -> None:
    _two_owners(copy)
    (problem,) = copy.problems()
    assert "gives the name 'localhost/app-a:1' to both" in problem.message


def test_empty_directory_is_no_store_but_harmless_to_copy_into(tmp_path: Path) -> None:
    with GraphRoot.open(tmp_path) as store:
        assert store_problems(store) == ()
        with pytest.raises(VerificationError) as caught:
            _verify(store, (Expected(reference="a", names=("a",)),), QUIET)
    assert any("no image has the name 'a'" in p.message for p in caught.value.problems)


def test_bootcs_own_databases_are_fine(copy: Copy) -> None:
    _sqlite(copy, _CONFIG_TABLE % "/run/bootc/storage")
    _bolt(copy, "/run/bootc/storage/libpod")
    assert len(copy.verify()) == len(copy.expected())


def test_pinned_manifest_that_is_not_stored(copy: Copy) -> None:
    wanted = ManifestDigest("sha256:" + "0" * 64)
    expected = Expected(
        reference=copy.image.name, names=(copy.image.name,), manifest_digests=(wanted,)
    )
    (problem,) = copy.problems(expected)
    assert problem.message.startswith(f"{wanted} is not stored, expected it; stored are: sha256:")


def test_name_that_belongs_to_another_image(copy: Copy) -> None:
    expected = Expected(
        reference=copy.image.name,
        names=(copy.image.name,),
        image_id=parse_image_id(copy.sources.app_b.id),
        where="lock file",
    )
    (problem,) = copy.problems(expected)
    assert problem.where == "lock file"
    assert f"is image {copy.image.id}, expected {copy.sources.app_b.id}" in problem.message


def test_names_that_belong_to_different_images(copy: Copy) -> None:
    names = (copy.image.name, copy.sources.app_b.name)
    (problem,) = copy.problems(Expected(reference="both", names=names))
    assert "its names belong to the images" in problem.message


def test_list_that_was_made_locally_is_no_image(copy: Copy) -> None:
    name = copy.sources.local_list
    problems = copy.problems(Expected(reference=name, names=(name,)))
    assert {problem.subject for problem in problems} == {name}


def test_layer_of_unknown_content_is_not_passed_over(copy: Copy) -> None:
    """Neither the record nor a readable config says what the layer hashes to."""
    copy.edit("layers", copy.top, diff_digest="")
    _edit_config(copy)
    problems = copy.problems()
    assert any("config of image" in problem.where for problem in problems)


def test_wrong_layer_id_formula_is_not_the_oci_chain_id(copy: Copy) -> None:
    first, second = copy.image.diff_ids[:2]
    assert copy.top == layer_id(copy.base, parse_diff_id(second))
    assert copy.top != hashlib.sha256(f"{first} {second}".encode()).hexdigest()


# --- hostile tar-split files -------------------------------------------------------------------


def _with_first_file(lines: list[Json], **fields: object) -> list[Json]:
    index = next(i for i, line in enumerate(lines) if line.get("size"))
    lines[index] |= fields
    return lines


TAR_SPLIT_DAMAGE: dict[str, tuple[Callable[[list[Json]], list[Json]], str]] = {
    "climbing-name": (lambda x: _with_first_file(x, name="../../../etc/shadow"), "where the tar"),
    "name-with-nul": (lambda x: _with_first_file(x, name="a\0b"), "where the tar header says"),
    "other-name": (lambda x: _with_first_file(x, name="opt/empty"), "where the tar header says"),
    "absurd-size": (lambda x: _with_first_file(x, size=1 << 62), "where the tar header says"),
    "negative-size": (lambda x: _with_first_file(x, size=-1), "size is -1"),
    "no-entries": (lambda _: [], "hashes to sha256:e3b0c442"),
    "extra-zeros": (
        lambda x: [*x, {"type": 2, "payload": base64.b64encode(bytes(512)).decode()}],
        "is longer than",
    ),
    "order": (lambda x: x[::-1], "expected"),
}


@pytest.mark.parametrize("name", TAR_SPLIT_DAMAGE)
def test_tampered_tar_split_file(copy: Copy, name: str) -> None:
    change, message = TAR_SPLIT_DAMAGE[name]
    copy.write_lines(change(copy.lines()))
    problems = copy.problems()
    assert any(message in problem.message for problem in problems), problems
    assert all(problem.where.startswith(f"layer {copy.top[:12]}") for problem in problems)


# --- read-only, interrupted, concurrent --------------------------------------------------------

_VERIFY = """
import sys
from pathlib import Path
from installer_plugin.errors import VerificationError
from installer_plugin.events import Events
from installer_plugin.model import Expected
from installer_plugin.process.pool import Crew
from installer_plugin.process.runner import Runner
from installer_plugin.stages.verify import verify
from installer_plugin.storage.store.graph_root import GraphRoot
with GraphRoot.open(Path(sys.argv[1])) as store:
    try:
        expected = Expected(reference=sys.argv[2], names=(sys.argv[2],))
        verify(store, [expected], Events(), Crew(Runner()))
    except VerificationError as error:
        print(error)
    else:
        print("proven")
"""


def run_unshared(copy: Copy, prepare: str) -> list[str]:
    """Verify in mounts of its own, in which *prepare* has mounted the store ("$2")."""
    script = f'set -e; {prepare}; exec "$1" -c "$4" "$2" "$3"'
    arguments = (sys.executable, copy.root, copy.image.name, _VERIFY)
    argv = unshared(("sh", "-c", script, "sh", *arguments))
    return run(argv, cwd=Path(__file__).parents[2]).stdout.splitlines()


def test_missing_lock_file_on_a_read_only_mount(copy: Copy) -> None:
    (copy.root / "overlay-images/images.lock").unlink()
    (line,) = run_unshared(copy, 'mount --bind "$2" "$2"; mount -o remount,ro,bind "$2"')
    assert "images.lock: is missing, expected a lock file" in line


@pytest.mark.parametrize("workers", [1, 2])
def test_interruption_stops_the_workers(copy: Copy, workers: int) -> None:
    class Interrupter:
        def send(self, event: Event) -> None:
            if isinstance(event, Progress):
                raise InterruptedBySignal("SIGTERM")

    began = time.monotonic()
    options = VerifyOptions(workers=workers)
    with GraphRoot.open(copy.root) as store, pytest.raises(InterruptedBySignal):
        _verify(store, copy.expected(), Events([Interrupter()]), options)
    assert time.monotonic() - began < 10
    assert not [t for t in threading.enumerate() if t.name.startswith("crew")]


@pytest.mark.parametrize(("workers", "shared"), [(1, False), (3, False), (2, True), (3, True)])
def test_every_number_of_workers_finds_the_same(
    copy: Copy, workers: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shared:
        monkeypatch.setattr(schedule, "WORTH_SHARING", 0)
        monkeypatch.setattr(schedule, "EQUAL_ENOUGH", 0)
    options = VerifyOptions(workers=workers)
    with GraphRoot.open(copy.root) as store:
        proven = _verify(store, copy.expected(), QUIET, options)
    assert proven == copy.verify()
    next(path for path in copy.diff.rglob("*") if path.is_file()).write_text("other")
    next(copy.root.glob("overlay/*/diff")).chmod(0o777)
    with GraphRoot.open(copy.root) as store, pytest.raises(VerificationError) as caught:
        _verify(store, copy.expected(), QUIET, options)
    assert caught.value.problems == copy.problems()
    copy.tar_split.unlink()
    with GraphRoot.open(copy.root) as store, pytest.raises(VerificationError) as caught:
        _verify(store, copy.expected(), QUIET, options)
    assert caught.value.problems == copy.problems()


def test_verification_writes_nothing(copy: Copy) -> None:
    def state() -> list[tuple[str, int, int]]:
        return sorted(
            (str(path), path.lstat().st_mtime_ns, path.lstat().st_ctime_ns)
            for path in copy.root.rglob("*")
            if not stat.S_ISLNK(path.lstat().st_mode)
        )

    before = state()
    copy.verify()
    assert state() == before
