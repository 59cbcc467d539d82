"""Encrypted disks and logical volumes, opened by util-linux's friends and by blivet."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from installer_plugin.block.base import BackendChoice, Key
from installer_plugin.block.blivet import blivet_missing
from installer_plugin.block.target import make_writable
from installer_plugin.errors import ConfigError
from installer_plugin.process.runner import Runner
from tests.block.scene import (
    LINUX,
    LVM_TYPE,
    ROOT,
    SYSTEM,
    Opener,
    Part,
    attached,
    boot,
    make_disk,
    make_file_system,
    mounted,
)
from tests.support.commands import run

pytestmark = pytest.mark.device_mapper

PASSPHRASE = "correct horse battery staple"  # noqa: S105 - opens nothing but the tests' images
QUICK = ("--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--batch-mode")
ENV = {} if Path("/run/udev/control").exists() else {"DM_DISABLE_UDEV": "1"}

BACKENDS = [BackendChoice.UTIL_LINUX, *([] if blivet_missing() else [BackendChoice.BLIVET])]
backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def key(tmp_path: Path) -> Key:
    file = tmp_path / "passphrase"
    file.write_text(f"{PASSPHRASE}\n")
    return Key(passphrase_file=file)


@contextmanager
def encrypted(device: Path, tmp_path: Path) -> Iterator[Path]:
    """Encrypt a device and open it."""
    exact = tmp_path / "exact"
    exact.write_text(PASSPHRASE)
    run(("cryptsetup", "luksFormat", *QUICK, device, exact), env=ENV)
    name = f"test-{secrets.token_hex(4)}"
    run(("cryptsetup", "open", "--key-file", exact, device, name), env=ENV)
    try:
        yield Path("/dev/mapper") / name
    finally:
        run(("cryptsetup", "close", name), env=ENV)


@contextmanager
def volumes(device: Path, *names: str) -> Iterator[tuple[str, dict[str, Path]]]:
    """Make a volume group on a device, with volumes."""
    group = f"test{secrets.token_hex(4)}"
    only = ("--config", f'devices {{ use_devicesfile=0 filter=["a|^{device}$|","r|.*|"] }}')
    run(("lvm", "vgcreate", *only, group, device), env=ENV)
    for name in names:
        run(("lvm", "lvcreate", *only, "--yes", "-L", "120M", "-n", name, group), env=ENV)
    try:
        yield group, {name: Path(f"/dev/mapper/{group}-{name}") for name in names}
    finally:
        run(("lvm", "vgchange", *only, "--activate", "n", group), env=ENV)


def fill(device: Path, part: Part) -> None:
    """Make a file system on a device."""
    run(("mkfs.ext4", "-q", "-F", "-L", part.label, device))
    with mounted(device) as root:
        for folder in part.holds:
            (root / folder).mkdir(parents=True)


def test_the_tools_are_there() -> None:
    for tool in ("cryptsetup", "lvm", "dmsetup"):
        run((tool, "--version" if tool == "cryptsetup" else "version"))


def luks_disk(tmp_path: Path, *, type_id: str = ROOT) -> Path:
    image = make_disk(tmp_path / "luks.img", boot(), Part(size=200, type=type_id))
    with attached(image) as disk, encrypted(Path(f"{disk}p2"), tmp_path) as opened:
        fill(opened, Part(label="x", holds=SYSTEM))
    return image


@backends
@pytest.mark.parametrize("type_id", [ROOT, LINUX], ids=["marked", "unmarked"])
def test_luks_is_opened_with_a_passphrase(
    backend: BackendChoice, type_id: str, key: Key, opener: Opener, tmp_path: Path
) -> None:
    image = luks_disk(tmp_path, type_id=type_id)
    with opener(image, key=key, backend=backend) as target:
        make_writable(target, Runner())
        (target.physical_root / "written").write_text("yes")
    with (
        opener(image, key=key, backend=backend, read_only=True)
        if backend is not (BackendChoice.BLIVET)
        else opener(image, key=key) as target
    ):
        assert (target.physical_root / "written").read_text() == "yes"
    assert PASSPHRASE not in opener.told.text


@backends
def test_luks_is_opened_with_a_key_file(
    backend: BackendChoice, opener: Opener, tmp_path: Path
) -> None:
    image = luks_disk(tmp_path)
    with opener(image, key=Key(key_file=tmp_path / "exact"), backend=backend) as target:
        assert (target.physical_root / SYSTEM[0]).is_dir()


@pytest.mark.parametrize("type_id", [ROOT, LINUX], ids=["marked", "unmarked"])
def test_luks_without_a_key_says_what_to_give(type_id: str, opener: Opener, tmp_path: Path) -> None:
    image = luks_disk(tmp_path, type_id=type_id)
    with pytest.raises(ConfigError, match="no key was given") as caught, opener(image):
        pass
    assert "--passphrase-file" in caught.value.problems[0].hint


@backends
@pytest.mark.parametrize("type_id", [ROOT, LINUX], ids=["marked", "unmarked"])
def test_wrong_key_is_told_apart_from_other_failures(
    backend: BackendChoice, type_id: str, opener: Opener, tmp_path: Path
) -> None:
    image = luks_disk(tmp_path, type_id=type_id)
    wrong = tmp_path / "wrong"
    wrong.write_text("not it\n")
    for key in (Key(passphrase_file=wrong), Key(key_file=wrong)):
        with (
            pytest.raises(ConfigError, match="does not open it") as caught,
            opener(image, key=key, backend=backend),
        ):
            pass
        assert "not it" not in str(caught.value)


@backends
@pytest.mark.parametrize("read_only", [False, True])
def test_root_volume_is_found_by_its_label(
    backend: BackendChoice, *, read_only: bool, opener: Opener, tmp_path: Path
) -> None:
    if read_only and backend is BackendChoice.BLIVET:
        backend = BackendChoice.AUTO
    image = make_disk(tmp_path / "lvm.img", boot(), Part(size=300, type=LVM_TYPE))
    with attached(image) as disk, volumes(Path(f"{disk}p2"), "data", "rootlv") as (_, found):
        fill(found["data"], Part(label="data"))
        fill(found["rootlv"], Part(label="root", holds=SYSTEM))
    with opener(image, backend=backend, read_only=read_only) as target:
        assert (target.physical_root / SYSTEM[0]).is_dir()


@backends
def test_root_volume_is_found_by_what_it_holds(
    backend: BackendChoice, opener: Opener, tmp_path: Path
) -> None:
    image = make_disk(tmp_path / "lvm.img", boot(), Part(size=300, type=LVM_TYPE))
    with attached(image) as disk, volumes(Path(f"{disk}p2"), "a", "b") as (group, found):
        fill(found["a"], Part(label="a"))
        fill(found["b"], Part(label="b", holds=SYSTEM))
    with opener(image, backend=backend) as target:
        assert (target.physical_root / SYSTEM[0]).is_dir()
    with opener(image, backend=backend, root_partition=f"{group}/a") as target:
        assert not (target.physical_root / SYSTEM[0]).is_dir()


@backends
def test_volumes_inside_of_luks(
    backend: BackendChoice, key: Key, opener: Opener, tmp_path: Path
) -> None:
    image = make_disk(tmp_path / "both.img", boot(), Part(size=320))
    with ExitStack() as stack:
        disk = stack.enter_context(attached(image))
        inner = stack.enter_context(encrypted(Path(f"{disk}p2"), tmp_path))
        _, found = stack.enter_context(volumes(inner, "root", "var"))
        fill(found["root"], Part(label="", holds=SYSTEM))
        fill(found["var"], Part(label="var"))
    with opener(image, key=key, backend=backend) as target:
        assert (target.physical_root / SYSTEM[0]).is_dir()


def test_whole_device_encrypted(key: Key, opener: Opener, tmp_path: Path) -> None:
    image = make_file_system(tmp_path / "whole.img", Part(kind="ext4", size=200))
    with attached(image, partitions=False) as disk, encrypted(disk, tmp_path) as inner:
        fill(inner, Part(holds=SYSTEM))
    with opener(image, key=key) as target:
        assert (target.physical_root / SYSTEM[0]).is_dir()
