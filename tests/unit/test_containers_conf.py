"""storage.conf and registries.conf: which stores and short names podman would use."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installer_plugin.errors import DataError
from installer_plugin.storage.source.containers_conf import (
    OSBUILD_STORE,
    RegistriesConf,
    StorageConf,
    load_registries_conf,
    load_storage_conf,
)

ETC, USR = "etc/containers", "usr/share/containers"
DROP_IN = f"{ETC}/registries.conf.d/1.conf"
CACHE = "var/cache/containers/short-name-aliases.conf"
DEFAULT = ("/var/lib/containers/storage",)
NO_ENV: Mapping[str, str] = {}


def _stores(*paths: str) -> str:
    return f"[storage.options]\nadditionalimagestores = [{', '.join(paths)}]\n"


def _write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _storage(root: Path, files: Mapping[str, str], env: Mapping[str, str] = NO_ENV) -> StorageConf:
    return load_storage_conf(_write(root, files), env)


def _registries(
    root: Path, files: Mapping[str, str], env: Mapping[str, str] = NO_ENV
) -> RegistriesConf:
    return load_registries_conf(_write(root, files), env)


# --- storage.conf ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "stores"),
    [
        ({}, DEFAULT),
        ({f"{ETC}/storage.conf": '[storage]\ngraphroot = "/g"\n'}, ("/g",)),
        ({f"{ETC}/storage.conf": ""}, DEFAULT),
        ({f"{ETC}/storage.conf": '[storage]\ngraphroot = ""\n'}, DEFAULT),
        ({f"{USR}/storage.conf": '[storage]\ngraphroot = "/u"\n'}, ("/u",)),
        (
            {
                f"{USR}/storage.conf": '[storage]\ngraphroot = "/u"\n',
                f"{ETC}/storage.conf": '[storage]\ngraphroot = "/e"\n',
            },
            ("/e",),
        ),
        (
            {f"{ETC}/storage.conf": '[storage]\ngraphroot = "/g"\n' + _stores('"/a"', '"/g"', '"/b"')},
            ("/g", "/a", "/b"),
        ),
        (
            {f"{ETC}/storage.conf": _stores('"/a"'), f"{USR}/storage.conf.d/1.conf": _stores('"/b"')},
            (*DEFAULT, "/b"),
        ),
        (
            {
                f"{ETC}/storage.conf": _stores('"/a"'),
                f"{USR}/storage.conf.d/1.conf": _stores('"/b"', "{append=true}"),
            },
            (*DEFAULT, "/a", "/b"),
        ),
        (
            {
                f"{ETC}/storage.conf": _stores('"/a"'),
                f"{USR}/storage.conf.d/1.conf": _stores('"/b"', "{append=false}"),
            },
            (*DEFAULT, "/b"),
        ),
        (
            {
                f"{USR}/storage.conf.d/1.conf": '[storage]\ngraphroot = "/1"\n',
                f"{USR}/storage.conf.d/2.conf": '[storage]\ngraphroot = "/2"\n',
                f"{ETC}/storage.conf.d/2.conf": "",
                f"{ETC}/storage.conf.d/3.txt": '[storage]\ngraphroot = "/3"\n',
            },
            ("/1",),
        ),
        ({f"{ETC}/storage.conf.d/1.conf": '[storage]\ndriver = "overlay2"\n'}, DEFAULT),
        ({f"{ETC}/storage.conf": "[storage.options.overlay]\nmountopt = 5\n[unknown]\nx = 1\n"}, DEFAULT),
    ],
    ids=[
        "defaults", "etc", "empty", "empty-value", "usr", "etc-before-usr", "additional",
        "drop-in-replaces", "drop-in-appends", "drop-in-appends-not", "drop-in-masked-by-name",
        "overlay2", "keys-of-others",
    ],
)  # fmt: skip
def test_stores_are_those_of_podman(
    files: Mapping[str, str], stores: tuple[str, ...], tmp_path: Path
) -> None:
    conf = _storage(tmp_path, files)
    assert [f"/{store.relative_to(tmp_path)}" for store in conf.stores] == list(stores)


def test_files_that_were_read_are_told_in_order(tmp_path: Path) -> None:
    names = (f"{ETC}/storage.conf", f"{ETC}/storage.conf.d/a.conf", f"{USR}/storage.conf.d/b.conf")
    files = {**dict.fromkeys(names, ""), names[0]: '[storage]\ndriver = "zfs"\n'}
    with pytest.raises(DataError) as refused:
        _storage(tmp_path, files)
    assert refused.value.subject == ", ".join(str(tmp_path / name) for name in names)


def test_named_file_replaces_all_others(tmp_path: Path) -> None:
    named = tmp_path / "named.conf"
    named.write_text('[storage]\ngraphroot = "/named"\n')
    files = {
        f"{ETC}/storage.conf": _stores('"/a"'), f"{ETC}/storage.conf.d/1.conf": _stores('"/b"'),
    }  # fmt: skip
    conf = _storage(tmp_path, files, {"CONTAINERS_STORAGE_CONF": str(named)})
    assert conf.stores == (tmp_path / "named",)


@pytest.mark.parametrize(
    ("options", "additional"),
    [
        ("additionalimagestore=/x", ["/x"]),
        ("overlay.imagestore=/x,overlay.mountopt=nodev,imagestore=/y", ["/x", "/y"]),
        ("overlay.mountopt=nodev", []),
        ("", ["/a"]),
    ],
    ids=["one", "aliases", "others", "empty"],
)
def test_storage_opts_replace_the_additional_stores(
    options: str, additional: list[str], tmp_path: Path
) -> None:
    env = {"STORAGE_OPTS": options}
    conf = _storage(tmp_path, {f"{ETC}/storage.conf": _stores('"/a"')}, env)
    assert [f"/{store.relative_to(tmp_path)}" for store in conf.additional] == additional


def test_store_of_osbuild_is_searched_where_it_is_there(tmp_path: Path) -> None:
    store = tmp_path / OSBUILD_STORE.lstrip("/")
    assert store not in _storage(tmp_path, {}).stores
    store.mkdir(parents=True)
    assert _storage(tmp_path, {}).additional == (store,)


@pytest.mark.parametrize(
    ("text", "env", "where"),
    [
        ('[storage]\ndriver = "vfs"\n', {}, "storage.conf"),
        ("", {"STORAGE_DRIVER": "btrfs"}, "storage.conf"),
        (None, {"STORAGE_DRIVER": "btrfs"}, "STORAGE_DRIVER"),
    ],
    ids=["file", "variable", "variable-alone"],
)
def test_other_driver_is_refused(
    text: str | None, env: Mapping[str, str], where: str, tmp_path: Path
) -> None:
    files = {} if text is None else {f"{ETC}/storage.conf": text}
    with pytest.raises(DataError, match="expected overlay") as caught:
        _storage(tmp_path, files, env)
    assert caught.value.subject.endswith(where)


def test_variable_has_the_last_word_about_the_driver(tmp_path: Path) -> None:
    files = {f"{ETC}/storage.conf": '[storage]\ndriver = "vfs"\n'}
    assert _storage(tmp_path, files, {"STORAGE_DRIVER": "overlay"}).stores


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[storage", "is not TOML"),
        ("\0", "is not TOML"),
        ("storage = 5", "storage is 5, expected a table"),
        ("[storage]\ngraphroot = 5\n", r"storage\.graphroot is 5, expected a string"),
        ("[storage]\ndriver = []\n", r"storage\.driver is \[\], expected a string"),
        ("[storage]\noptions = 1\n", r"storage\.options is 1, expected a table"),
        ("[storage.options]\nadditionalimagestores = '/x'\n", r"additionalimagestores is '/x', expected"),
        ("[storage.options]\nadditionalimagestores = [1]\n", "expected an array of strings"),
        ("[storage.options]\nadditionalimagestores = [{x=1}]\n", "expected an array of strings"),
        ("#" * (1 << 20) + "\n", "is longer than"),
    ],
    ids=["toml", "nul", "storage", "graphroot", "driver", "options", "string", "number", "table", "long"],
)  # fmt: skip
@pytest.mark.parametrize("name", [f"{ETC}/storage.conf", f"{USR}/storage.conf.d/x.conf"])
def test_garbage_names_file_and_key(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _storage(tmp_path, {name: text})
    assert caught.value.subject == str(tmp_path / name)


@pytest.mark.parametrize("variable", ["CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"])
def test_named_file_that_is_absent_is_named(variable: str, tmp_path: Path) -> None:
    load = load_storage_conf if "STORAGE" in variable else load_registries_conf
    with pytest.raises(DataError, match="absent: cannot be read: No such file"):
        load(tmp_path, {variable: str(tmp_path / "absent")})


def test_text_that_is_no_utf_8_is_a_data_error(tmp_path: Path) -> None:
    path = _write(tmp_path, {f"{ETC}/storage.conf": ""}) / ETC / "storage.conf"
    path.write_bytes(b'[storage]\ngraphroot = "\xff"\n')
    with pytest.raises(DataError, match="is not TOML"):
        load_storage_conf(tmp_path, {})


# --- registries.conf -------------------------------------------------------------------------


def _search(*names: str) -> str:
    return f"unqualified-search-registries = [{', '.join(names)}]\n"


@pytest.mark.parametrize(
    ("files", "search"),
    [
        ({}, ()),
        ({f"{ETC}/registries.conf": _search('"quay.io"', '"docker.io"')}, ("quay.io", "docker.io")),
        ({f"{USR}/registries.conf": _search('"quay.io"')}, ("quay.io",)),
        ({f"{ETC}/registries.conf": '[registries.search]\nregistries = ["v1.io"]\n'}, ("v1.io",)),
        (
            {f"{ETC}/registries.conf": _search('"a.io"'), DROP_IN: _search('"b.io"')},
            ("b.io",),
        ),
        ({f"{ETC}/registries.conf": _search('"a.io"'), DROP_IN: ""}, ("a.io",)),
        ({f"{ETC}/registries.conf": _search('"a.io"'), DROP_IN: _search()}, ()),
    ],
    ids=["none", "etc", "usr", "version-1", "drop-in", "drop-in-without", "drop-in-empties"],
)  # fmt: skip
def test_search_list_is_the_last_one(
    files: Mapping[str, str], search: tuple[str, ...], tmp_path: Path
) -> None:
    assert _registries(tmp_path, files).search == search


def test_aliases_add_up_and_an_empty_one_takes_back(tmp_path: Path) -> None:
    files = {
        f"{USR}/registries.conf.d/000.conf": '[aliases]\na = "x.io/a"\nb = "x.io/b"\nc = "x.io/c"\n',
        f"{ETC}/registries.conf.d/999.conf": '[aliases]\na = "y.io/a"\nb = ""\n',
        CACHE: '[aliases]\nc = "z.io/c"\n"team/d" = "z.io/d"\n',
    }
    conf = _registries(tmp_path, files)
    assert conf.aliases == {"a": "y.io/a", "c": "z.io/c", "team/d": "z.io/d"}


def test_drop_ins_add_to_a_named_registries_conf(tmp_path: Path) -> None:
    named = tmp_path / "named.conf"
    named.write_text(_search('"named.io"'))
    files = {
        f"{ETC}/registries.conf": _search('"etc.io"'),
        f"{ETC}/registries.conf.d/1.conf": '[aliases]\na = "x.io/a"\n',
    }
    conf = _registries(tmp_path, files, {"CONTAINERS_REGISTRIES_CONF": str(named)})
    assert conf.search == ("named.io",)
    assert conf.aliases == {"a": "x.io/a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[aliases", "is not TOML"),
        ("unqualified-search-registries = 'x'\n", "unqualified-search-registries is 'x', expected"),
        ("unqualified-search-registries = [1]\n", "expected an array of strings"),
        ("aliases = 1\n", "aliases is 1, expected a table"),
        ("[aliases]\nx = 1\n", r"aliases\.x is 1, expected a string"),
        ("registries = 1\n", "registries is 1, expected a table"),
        ("[registries]\nsearch = 1\n", r"registries\.search is 1, expected a table"),
    ],
    ids=["toml", "search", "search-number", "aliases", "alias", "registries", "version-1"],
)
@pytest.mark.parametrize(
    "name", [f"{ETC}/registries.conf", f"{ETC}/registries.conf.d/x.conf", CACHE]
)
def test_garbage_in_registries_names_file_and_key(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _registries(tmp_path, {name: text})
    assert caught.value.subject == str(tmp_path / name)


def test_tables_of_registries_are_no_concern(tmp_path: Path) -> None:
    text = '[[registry]]\nlocation = "x.io"\ninsecure = true\n' + 'short-name-mode = "enforcing"\n'
    assert _registries(tmp_path, {f"{ETC}/registries.conf": text}).search == ()


# --- anything --------------------------------------------------------------------------------

LINES = st.lists(
    st.sampled_from((
        "[storage]", "[storage.options]", "[aliases]", "[[storage]]", "[registries.search]",
        'graphroot = "/x"', "graphroot = 1", 'driver = "overlay"', "driver = {}",
        'additionalimagestores = ["/x", {append=true}]', "additionalimagestores = [[1]]",
        'unqualified-search-registries = ["x"]', "registries = [nan]", "a = 1979-05-27", "x" * 5,
    ))
    | st.text(max_size=20),
    max_size=8,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_any_file_is_read_or_a_data_error(tmp_path: Path, lines: list[str]) -> None:
    text = "\n".join(lines).encode(errors="replace").decode()
    _write(tmp_path, {f"{ETC}/storage.conf": text, f"{ETC}/registries.conf": text})
    with suppress(DataError):
        assert load_storage_conf(tmp_path, {}).stores
    with suppress(DataError):
        assert all(load_registries_conf(tmp_path, {}).aliases.values())
