"""``storage.conf`` and ``registries.conf``: which stores and short names podman would use here.

Formats: containers-storage.conf(5), containers-registries.conf(5). Only root's files are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.storage.store.drivers import way_out

DEFAULT_GRAPH_ROOT = "/var/lib/containers/storage"
OSBUILD_STORE = "/run/osbuild/containers/storage"
"""Where osbuild shows a build's containers to bootc (osbuild inputs/org.osbuild.containers-storage)."""
_CONF_LIMIT = 1 << 20

Table = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConf:
    """The stores that podman looks into, in its order."""

    graph_root: Path
    additional: tuple[Path, ...]

    @property
    def stores(self) -> tuple[Path, ...]:
        """All stores, the primary one first, without repetition."""
        return tuple(dict.fromkeys((self.graph_root, *self.additional)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistriesConf:
    """What short names stand for."""

    search: tuple[str, ...] = ()
    """``unqualified-search-registries``."""
    aliases: Mapping[str, str]


def load_storage_conf(root: Path, env: Mapping[str, str]) -> StorageConf:
    """Read the configuration of the system at *root* (``/`` but for tests).

    ``CONTAINERS_STORAGE_CONF`` names a file that replaces all others, drop-ins included; ``STORAGE_OPTS``
    replaces the additional stores, as it does for podman. Raises DataError that names the file.
    """
    named = env.get("CONTAINERS_STORAGE_CONF")
    files = (
        [Path(named)]
        if named
        else [*_main_file(root, "storage.conf"), *_drop_ins(root, "storage.conf.d")]
    )
    graph_root, driver = DEFAULT_GRAPH_ROOT, ""
    additional: tuple[str, ...] = ()
    for file in files:
        table = _Toml.load(file)
        storage = table.table("storage")
        graph_root = storage.string("graphroot") or graph_root
        driver = storage.string("driver") or driver
        additional = storage.table("options").array("additionalimagestores", additional)
    driver = env.get("STORAGE_DRIVER") or driver
    if driver not in ("", "overlay", "overlay2"):
        raise DataError(
            ", ".join(map(str, files)) or "STORAGE_DRIVER",
            f"sets the storage driver {driver!r}, expected overlay",
            hint=f"name an overlay store with --store, or {way_out(Path(graph_root), driver)}",
        )
    if env.get("STORAGE_OPTS"):
        additional = _stores_of_options(env["STORAGE_OPTS"])
    osbuild = root / OSBUILD_STORE.lstrip("/")
    return StorageConf(
        graph_root=_below(root, graph_root),
        additional=(
            *(_below(root, store) for store in additional),
            *([osbuild] if osbuild.is_dir() else []),
        ),
    )


def load_registries_conf(root: Path, env: Mapping[str, str]) -> RegistriesConf:
    """Read short-name configuration of the system at *root*; raises DataError that names the file.

    Later files replace the search list and add aliases; aliases that podman recorded itself
    (``short-name-aliases.conf``) win over all (c/image pkg/sysregistriesv2).
    """
    named = env.get("CONTAINERS_REGISTRIES_CONF")
    files = [Path(named)] if named else [*_main_file(root, "registries.conf")]
    files += _drop_ins(root, "registries.conf.d")
    recorded = root / "var/cache/containers/short-name-aliases.conf"
    search: tuple[str, ...] = ()
    aliases: dict[str, str] = {}
    for file in [*files, *([recorded] if recorded.is_file() else [])]:
        table = _Toml.load(file)
        search = table.array("unqualified-search-registries", search)
        search = table.table("registries").table("search").array("registries", search)
        for name, value in table.table("aliases").strings().items():
            aliases[name] = value
            if not value:
                del aliases[name]
    return RegistriesConf(search=search, aliases=aliases)


def _main_file(root: Path, name: str) -> Iterable[Path]:
    for folder in ("etc/containers", "usr/share/containers"):
        file = root / folder / name
        if file.is_file():
            return [file]
    return []


def _drop_ins(root: Path, name: str) -> list[Path]:
    """Drop-ins in the order they apply: sorted by name, ``/etc`` replaces ``/usr/share``."""
    found: dict[str, Path] = {}
    for folder in ("usr/share/containers", "etc/containers"):
        found |= {file.name: file for file in (root / folder / name).glob("*.conf")}
    return [found[file] for file in sorted(found)]


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/") if root != Path("/") else Path(path)


def _stores_of_options(text: str) -> tuple[str, ...]:
    """Additional stores in ``STORAGE_OPTS`` (comma-separated ``[driver.]key=value``)."""
    pairs = (option.partition("=") for option in text.split(","))
    keys = ("additionalimagestore", "imagestore")
    return tuple(value for key, _, value in pairs if key.strip().removeprefix("overlay.") in keys)


@dataclass(frozen=True, slots=True)
class _Toml:
    """Typed access to a TOML table; every complaint names the file and the key."""

    data: Table
    where: str
    path: str = ""

    @classmethod
    def load(cls, file: Path) -> _Toml:
        try:
            fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as stream:
                content = stream.read(_CONF_LIMIT + 1)
        except OSError as error:
            raise DataError(str(file), f"cannot be read: {error.strerror}") from error
        if len(content) > _CONF_LIMIT:
            raise DataError(str(file), f"is longer than {_CONF_LIMIT} bytes, expected a small file")
        import tomllib  # noqa: PLC0415 - slow to load, and a target is proven without it

        try:
            return cls(tomllib.loads(content.decode()), str(file))
        except (ValueError, RecursionError) as error:
            raise DataError(str(file), f"is not TOML: {error}") from error

    def _value(self, key: str, expected: str, fits: Callable[[object], bool]) -> object:
        value = self.data.get(key)
        if value is not None and not fits(value):
            raise DataError(self.where, f"{self.path}{key} is {value!r}, expected {expected}")
        return value

    def table(self, key: str) -> _Toml:
        value = self._value(key, "a table", lambda value: isinstance(value, dict))
        data = value if isinstance(value, dict) else {}
        return _Toml(data, self.where, f"{self.path}{key}.")

    def string(self, key: str) -> str:
        return str(self._value(key, "a string", lambda value: isinstance(value, str)) or "")

    def array(self, key: str, before: tuple[str, ...]) -> tuple[str, ...]:
        """An array of strings; *before* when absent, continued with ``{append=true}`` in it."""
        value = self._value(key, "an array of strings", _is_string_array)
        if not isinstance(value, list):
            return before
        texts = tuple(item for item in value if isinstance(item, str))
        return (*before, *texts) if {"append": True} in value else texts

    def strings(self) -> Mapping[str, str]:
        return {key: self.string(key) for key in self.data}


def _is_string_array(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, str) or item in ({"append": True}, {"append": False}) for item in value
    )
