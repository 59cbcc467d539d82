"""Says whether the podman that a unit starts looks into bootc's store.

What podman takes, tried with 4.3, 5.4 and 5.8: options on the command line replace all others, then
``STORAGE_OPTS``, then ``storage.conf``. ``containers.conf`` gives it no store, whatever it sets.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from installer_plugin.declarations.default_stores import DefaultStores
from installer_plugin.declarations.unit_syntax import Unit

BOOTC_STORE = "/usr/lib/bootc/storage"
STORE_ARGUMENT = f"GlobalArgs=--storage-opt=additionalimagestore={BOOTC_STORE}"
_SAME_STORE = frozenset({BOOTC_STORE, "/sysroot/ostree/bootc/storage"})
"""The first is a link to the second."""
_KEYS = frozenset({"additionalimagestore", "imagestore"})
_DRIVERS = ("overlay2.", "overlay.", ".")
_OWN_STORE = ("--root", "--storage-driver")
"""Options after which podman forgets what storage.conf says of stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodmanCall:
    """What a unit's service gives to podman."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    @classmethod
    def of(cls, unit: Unit, section: str) -> PodmanCall:
        """The call of *unit* with the arguments that *section* adds."""
        return cls(
            arguments=tuple(
                _words(unit, section, "GlobalArgs") + _words(unit, section, "PodmanArgs")
            ),
            environment=service_environment(unit),
        )

    def options(self, name: str) -> Iterator[str]:
        """Values of the option ``--name``, as ``--name=value`` or in two words."""
        words = iter(self.arguments)
        for word in words:
            option, equals, value = word.partition("=")
            if option == name:
                yield value if equals else next(words, "")

    def reaches_store(self, defaults: DefaultStores) -> bool:
        """Whether podman finds images of bootc's store, *defaults* being what the root configures."""
        if options := [*self.options("--storage-opt")]:
            return any(map(_names_store, options))
        if any(any(True for _ in self.options(name)) for name in _OWN_STORE):
            return False
        if variable := self.environment.get("STORAGE_OPTS", ""):
            # Without a storage.conf, older ones do not get as far as the variable.
            read = defaults.configured or defaults.reads_drop_ins
            return read and any(map(_names_store, variable.split(",")))
        stores = defaults.of(self.environment.get("CONTAINERS_STORAGE_CONF", ""))
        return any(is_bootc_store(path) for store in stores for path in store.split(","))


def service_environment(unit: Unit) -> Mapping[str, str]:
    """Variables that ``Environment=`` gives to the unit's service."""
    pairs = (word.partition("=") for word in _words(unit, "Service", "Environment"))
    return {name: value for name, equals, value in pairs if equals}


def is_bootc_store(path: str) -> bool:
    """Whether *path* is the store of bootc on the installed system."""
    parts: list[str] = []
    for part in PurePosixPath(path).parts[1:]:
        if part == "..":
            del parts[-1:]
        else:
            parts.append(part)
    return path.startswith("/") and "/" + "/".join(parts) in _SAME_STORE


def _names_store(option: str) -> bool:
    """``[overlay.]additionalimagestore=PATH[,PATH]``, or ``imagestore``; case does not matter."""
    key, _, value = option.partition("=")
    key = key.lower()
    for driver in _DRIVERS:
        key = key.removeprefix(driver)
    return key in _KEYS and any(map(is_bootc_store, value.split(",")))


def _words(unit: Unit, section: str, key: str) -> list[str]:
    return [word for found in unit.all(section, key) for word in split_words(found.value)]


def split_words(value: str) -> list[str]:
    """Words of a value with many; one that has an open quote is split at blanks."""
    try:
        return shlex.split(value)
    except ValueError:
        return value.split()


def describe(defaults: DefaultStores) -> str:
    """What else of the root's configuration was looked at, for a message; "" when nothing."""
    seen: Iterable[str] = (
        *(f"{file} has not" for file in defaults.files),
        *(f"{file} is ignored by this podman" for file in defaults.ignored),
        *(f"{file} names it, but podman takes no store from there" for file in defaults.elsewhere),
        *([f"{defaults.error}"] if defaults.error else []),
    )
    return "; ".join(seen)
