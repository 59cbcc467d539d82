"""Layers opened by blivet (https://github.com/storaged-project/blivet) and the libblockdev below it.

Its formats and device libraries are used, not its device tree: that scans every disk of the machine,
takes no loop device for a disk, and knows nothing where udevd is not running (blivet#1002).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from installer_plugin.block.base import Key
from installer_plugin.block.luks import Cryptsetup, read_passphrase, wrong_key
from installer_plugin.block.udev import device_mapper_env
from installer_plugin.errors import HostError

LIBBLOCKDEV_3_SINCE = (3, 8)
"""First blivet that speaks to libblockdev 3 instead of 2 (blivet commit 80d5a08d)."""
UNFIT_KEY = ("Incorrect passphrase", "Operation not permitted")
"""What libblockdev 2 says when no key slot takes the key, and what libcryptsetup's EPERM reads as."""


def mismatch(blivet: str, libraries: Collection[str]) -> str:
    """Why this blivet cannot work with one of these versions of libblockdev; "" when it can."""
    found = re.match(r"(\d+)\.(\d+)", blivet)
    if found is None:
        return f"blivet has no version to go by: {blivet!r}"
    late = (int(found[1]), int(found[2])) >= LIBBLOCKDEV_3_SINCE
    needed, fitting = ("3", "blivet<3.8") if late else ("2", "blivet>=3.8")
    have = sorted({version.partition(".")[0] for version in libraries})
    if not have:
        return f"blivet {blivet} needs libblockdev {needed}, which is not installed"
    if needed in have:
        return ""
    return (
        f"blivet {blivet} needs libblockdev {needed}, this system has libblockdev "
        f"{' and '.join(have)}: install '{fitting}'"
    )


def blivet_missing() -> str:
    """Why blivet cannot be used; "" when it can. One sentence, whatever is wrong with it."""
    from importlib import metadata  # noqa: PLC0415 - takes long, and most targets need no blivet

    try:
        version = metadata.version("blivet")
    except metadata.PackageNotFoundError:
        return "blivet is not installed"
    try:
        repository: Any = import_module("gi").Repository.get_default()
    except (ImportError, AttributeError):
        return f"blivet {version} needs PyGObject (python3-gi), which is not installed"
    why = mismatch(version, tuple(repository.enumerate_versions("BlockDev")))
    return why or _unusable(version)


def _unusable(version: str) -> str:
    try:
        availability = _blivet("blivet.tasks.availability")
    except (ImportError, ValueError, AttributeError, RuntimeError, OSError) as error:
        said = str(error).partition("\n")[0]
        return f"blivet {version} cannot be used: {said}"
    for plugin in (availability.BLOCKDEV_CRYPTO_PLUGIN, availability.BLOCKDEV_LVM_PLUGIN):
        if not plugin.available:
            return f"blivet {version} lacks a part of libblockdev: {plugin}"
    return ""


def _blivet(module: str) -> Any:  # noqa: ANN401 - it has no types
    """A module of blivet, imported without its warnings and without the filters that it sets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(module)


@contextmanager
def _without_udevd() -> Iterator[None]:
    """Have libdevmapper, in this process and in lvm's, make its nodes itself where nobody else does."""
    before = {name: os.environ.get(name) for name in device_mapper_env()}
    os.environ.update(device_mapper_env())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True)
class BlivetOpener:
    """Opens layers through libblockdev."""

    plain: Cryptsetup
    """For TPMs, and for passphrases that are not text: GObject strings carry nothing else."""
    name: str = "blivet"

    def open_luks(self, device: Path, mapping: str, key: Key) -> None:
        """See :class:`base.LayerOpener`."""
        file = key.passphrase_file or key.key_file
        passphrase = read_passphrase(key.passphrase_file) if key.passphrase_file else None
        # libblockdev 3.5 has no call for tokens: without a key, only a TPM can help.
        if file is None or not _is_text(passphrase):
            self.plain.open(device, mapping, key)
            return
        formats = _blivet("blivet.formats")
        errors = _blivet("blivet.errors")
        secret = (
            {"key_file": str(file)} if passphrase is None else {"passphrase": passphrase.decode()}
        )
        luks = formats.get_format("luks", device=str(device), name=mapping, exists=True, **secret)
        try:
            with _without_udevd():
                luks.setup()
        except errors.LUKSError as error:
            if any(word in str(error) for word in UNFIT_KEY):
                raise wrong_key(device, file) from error
            raise _failed(f"open the encrypted {device}", error) from error

    def activate(self, group: str, members: tuple[Path, ...]) -> None:
        """See :class:`base.LayerOpener`."""
        lvm = _blivet("blivet.devicelibs.lvm")
        library: Any = lvm.blockdev.lvm
        for member in members:
            lvm.lvm_devices_add(str(member))
        try:
            with _without_udevd():
                for volume in library.lvs(group):
                    if "pool" not in (volume.segtype or "") and not volume.lv_name.startswith("["):
                        library.lvactivate(group, volume.lv_name, ignore_skip=True)
        except lvm.blockdev.LVMError as error:
            raise _failed(f"activate the volume group {group}", error) from error
        finally:
            lvm.lvm_devices_reset()


def _is_text(passphrase: bytes | None) -> bool:
    if passphrase is None:
        return True
    try:
        return "\0" not in passphrase.decode()
    except UnicodeDecodeError:
        return False


def _failed(purpose: str, error: Exception) -> HostError:
    said = str(error).strip().partition("\n")[0]
    hint = "is dm-mod or dm-crypt missing in this kernel (modprobe dm-crypt)?"
    return HostError.of("blivet", f"could not {purpose}: {said}", hint=hint)
