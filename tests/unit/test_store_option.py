"""`--store`: which text means which source."""

from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.model import SourceKind
from installer_plugin.process.runner import Runner
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.searching import Searching
from installer_plugin.storage.source.store_option import SourceSpec, open_sources, parse_source_spec
from tests.support.values import AMD64

STORE = SourceKind.CONTAINERS_STORAGE
SEARCHING = Searching(RegistriesConf(aliases={}), AMD64)


@pytest.mark.parametrize(
    ("text", "kind", "place", "stands_for"),
    [
        ("/var/lib/store", STORE, "/var/lib/store", None),
        ("store", STORE, "store", None),
        ("containers-storage:/s", STORE, "/s", None),
        ("containers-storage:[overlay@/s+/run]", STORE, "/s", None),
        ("[overlay@/s+/run:overlay.imagestore=/x]", STORE, "/s", None),
        ("[/s]", STORE, "/s", None),
        ("oci:/layout", SourceKind.OCI, "/layout", None),
        ("oci:layout:1", SourceKind.OCI, "layout:1", None),
        ("localhost/x:1=oci:/layout", SourceKind.OCI, "/layout", "localhost/x:1"),
        ("oci-archive:/a.tar", SourceKind.OCI_ARCHIVE, "/a.tar", None),
        ("dir:/d", SourceKind.DIR, "/d", None),
        ("docker-archive:/a.tar", SourceKind.DOCKER_ARCHIVE, "/a.tar", None),
        ("x:1=docker-archive:/a", SourceKind.DOCKER_ARCHIVE, "/a", "x:1"),
        ("quay.io/x/y:1=dir:/d=1", SourceKind.DIR, "/d=1", "quay.io/x/y:1"),
        ("ssh://host", SourceKind.SSH, "ssh://host", None),
        ("ssh://me@host.example:2222/", SourceKind.SSH, "ssh://me@host.example:2222/", None),
        ("ssh://me@[2001:db8::1]:22", SourceKind.SSH, "ssh://me@[2001:db8::1]:22", None),
    ],
    ids=lambda value: str(value) or "empty",
)
def test_text_names_a_source(
    text: str, kind: SourceKind, place: str, stands_for: str | None
) -> None:
    assert parse_source_spec(text) == SourceSpec(kind=kind, place=place, stands_for=stands_for)


@pytest.mark.parametrize(
    "text",
    [
        "", "containers-storage:", "docker://quay.io/x", "docker-archive:", "docker-daemon:x:1",
        "oci:", "dir:",
        "ssh://", "ssh:///path", "ssh://host:port", "ssh://host:0", "ssh://host/store", "ssh://host?x",
        "ssh://-oProxyCommand=x", "ssh://-x@host", "ssh://a b@host", "ssh://[::1",
        "UPPER=dir:/d", "@=dir:/d",
    ],
    ids=lambda text: text or "empty",
)  # fmt: skip
def test_other_text_is_refused_with_what_was_given(text: str) -> None:
    with pytest.raises(DataError, match="expected") as caught:
        parse_source_spec(text)
    assert text in str(caught.value)


def test_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(DataError, match="expected ssh:") as caught:
        parse_source_spec("ssh://me:secret@host")
    assert "secret" not in str(caught.value)


def test_path_with_a_colon_is_a_store_where_it_exists(tmp_path: Path) -> None:
    store = tmp_path / "a:b"
    store.mkdir()
    assert parse_source_spec(str(store)).place == str(store)


def _store(path: Path) -> Path:
    (path / "overlay-images").mkdir(parents=True)
    return path


def _open(
    tmp_path: Path, *texts: str, default: tuple[Path, ...] = ()
) -> tuple[str, tuple[Path, ...]]:
    specs = tuple(map(parse_source_spec, texts))
    with open_sources(specs, default, SEARCHING, Runner()) as sources:
        return " ".join(source.label for source in sources.all), sources.graph_roots


def test_named_stores_replace_the_default_ones_and_are_searched_together(tmp_path: Path) -> None:
    one, two = _store(tmp_path / "1"), _store(tmp_path / "2")
    label, roots = _open(tmp_path, str(one), "dir:/d", str(two), "ssh://host", default=(tmp_path,))
    assert label == f"{one}, {two} dir:/d ssh://host"
    assert roots == (one, two)


def test_without_stores_the_default_ones_that_exist_are_opened(tmp_path: Path) -> None:
    one = _store(tmp_path / "1")
    label, roots = _open(tmp_path, default=(tmp_path / "absent", one, one))
    assert label == f"{tmp_path}/absent, {one}"
    assert roots == (one,)


@pytest.mark.parametrize(
    ("below", "hint"), [("storage", "did you mean"), ("other", "podman info")], ids=["near", "far"]
)
def test_named_directory_that_is_no_store_is_refused(below: str, hint: str, tmp_path: Path) -> None:
    _store(tmp_path / below)
    with pytest.raises(DataError, match="not a containers-storage") as caught:
        _open(tmp_path, str(tmp_path))
    assert hint in caught.value.hint
