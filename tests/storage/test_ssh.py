"""Images on another host: a real sshd, the podman behind it, and podman's and ssh's ways to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.events import Events
from installer_plugin.model import SourceKind
from installer_plugin.process.runner import CommandError, Runner
from installer_plugin.stages.copy import CopyOptions, copy
from installer_plugin.stages.resolve import resolve
from installer_plugin.storage.base import Found
from installer_plugin.storage.engine.scp import ScpEngine, scp_argv
from installer_plugin.storage.engine.select import Selected
from installer_plugin.storage.source.ssh import SshSource, parse_inspected
from installer_plugin.storage.store.target_store import find_target_store
from tests.support import sshd
from tests.support.images import ImageSources
from tests.support.sshd import SshHost
from tests.support.stores import Store, make_store
from tests.support.values import bound


@dataclass(frozen=True, slots=True)
class Remote:
    host: SshHost
    agent: Path


@pytest.fixture(scope="module")
def remote(
    image_sources: ImageSources, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Remote]:
    base = tmp_path_factory.mktemp("ssh")
    with sshd.serve(base, image_sources.store) as host, sshd.agent(base) as agent:
        yield Remote(host, agent)


@pytest.fixture
def address(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> str:
    _enter(remote.host.env(agent=remote.agent), monkeypatch)
    return remote.host.address


def _enter(env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def _copy(found: Found, reference: str, target: Path) -> Store:
    """Copy through the stage, and return an empty store that has the target's beside it."""
    source = SshSource(found.location.store, Runner())
    resolution = resolve([bound(reference)], [source])
    assert resolution.problems == ()
    scratch = target.with_name("scratch")
    scratch.mkdir()
    target.mkdir()
    place = find_target_store(target)
    (image,) = resolution.images
    options = CopyOptions(selected=(Selected(image, ScpEngine(Runner())),), scratch=(scratch,))
    copy(place, options, Events(), Runner())
    assert list(scratch.iterdir()) == []
    return make_store(target.with_name("reader"), additional=[place.graph_root])


def _found(address: str, reference: str) -> Found:
    found = SshSource(address, Runner()).find(reference)
    assert found is not None
    return found


def test_image_is_found_with_its_identities(image_sources: ImageSources, address: str) -> None:
    app = image_sources.app_b
    found = _found(address, app.name)
    assert found.image_id == app.id
    assert found.digest == app.digest
    assert tuple(layer.diff_id for layer in found.layers) == app.diff_ids
    assert sum(layer.size for layer in found.layers) > 1 << 20
    assert str(found.location) == address


@pytest.mark.parametrize(
    "reference", ["localhost/absent:1", "localhost/app-b:absent", "absent"], ids=str
)
def test_absent_image_is_none(reference: str, address: str) -> None:
    assert SshSource(address, Runner()).find(reference) is None


def test_pinned_image_is_refused_with_the_way_that_keeps_digests(
    image_sources: ImageSources, address: str
) -> None:
    with pytest.raises(DataError, match="keeps no digest") as caught:
        SshSource(address, Runner()).find(image_sources.web_by_digest)
    assert "oci-archive:" in caught.value.hint


@pytest.mark.parametrize("way", ["podman-scp", "ssh-alone"])
def test_image_is_copied(
    way: str,
    image_sources: ImageSources,
    remote: Remote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = remote.agent if way == "podman-scp" else None
    _enter(remote.host.env(agent=agent), monkeypatch)
    app = image_sources.app_b
    store = _copy(_found(remote.host.address, app.name), app.name, tmp_path / "target")
    seen = store.image(app.name)
    assert (seen.id, seen.diff_ids) == (app.id, app.diff_ids)
    assert not list(tmp_path.glob("target/**/libpod"))


def test_podman_scp_is_the_first_way(
    image_sources: ImageSources, address: str, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    options = ("--root", str(store.root))
    store.run(scp_argv(options, address, image_sources.app_b.name))
    assert (store.root / "overlay-images" / image_sources.app_b.id / "manifest").is_file()


@pytest.mark.parametrize(
    ("address", "argument"),
    [
        ("ssh://host", "host:22::x:1"),
        ("ssh://me@host/", "me@host:22::x:1"),
        ("ssh://me@host:2200", "me@host:2200::x:1"),
        ("ssh://[::1]", "[::1]:22::x:1"),
    ],
    ids=["host", "user", "port", "ipv6"],
)
def test_podman_scp_is_told_the_port(address: str, argument: str) -> None:
    assert scp_argv((), address, "x:1")[-1] == argument


def test_unreachable_host_is_no_absent_image(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    _enter(remote.host.env(), monkeypatch)
    source = SshSource("ssh://root@127.0.0.1:1", Runner())
    with pytest.raises(CommandError, match="ssh failed with exit code 255") as caught:
        source.find("localhost/app-b:1")
    assert "Connection refused" in caught.value.stderr
    (problem,) = resolve([bound("localhost/app-b:1")], [source]).problems
    assert problem.hint == "check the store ssh://root@127.0.0.1:1"


def test_copy_that_fails_says_what_both_ways_said(
    image_sources: ImageSources, address: str, tmp_path: Path
) -> None:
    app = image_sources.app_b
    found = _found(address, app.name)
    (image,) = resolve([bound(app.name)], [SshSource(address, Runner())]).images
    gone = type(found.location)(kind=SourceKind.SSH, store=address, item="localhost/gone:1")
    image = type(image)(
        bound=image.bound, names=image.names, source=gone, image_id=image.image_id,
        digest=image.digest, manifest_digests=(), layers=image.layers,
    )  # fmt: skip
    with pytest.raises(CommandError) as caught:
        ScpEngine(Runner()).copy(image, tmp_path / "store", tmp_path)
    assert caught.value.stderr.count("localhost/gone:1") >= 1
    assert "while trying to copy localhost/app-b:1" in str(caught.value)


@pytest.mark.parametrize(
    "output",
    [
        b"", b"{}", b"[]", b"[{}]", b'[{"RootFS":{"Layers":[1]}}]', b"[null]", b"\xff",
        b'[{"RootFS":{"Layers":[]},"Id":"1","Digest":"","Size":1}]',
    ],
    ids=["empty", "object", "nothing", "bare", "bad-layer", "null", "no-utf-8", "bad-id"],
)  # fmt: skip
def test_strange_answer_is_a_data_error(output: bytes) -> None:
    with pytest.raises(DataError, match="gave what is not an image"):
        parse_inspected(output, "ssh://host", "x:1")
