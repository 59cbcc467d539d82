"""Boot entries beside the root: on a boot partition and on the EFI system partition of a real disk."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from installer_plugin.block.base import OpenOptions
from installer_plugin.block.target import make_writable, open_boot_places
from installer_plugin.errors import ConfigError
from installer_plugin.events import Events
from installer_plugin.hosts.bootc.boot_entries import ASIDE, NOTE, held_back, restore, set_aside
from installer_plugin.process.runner import Runner
from tests.block.luks_header import write_luks2_header
from tests.block.scene import ESP, ROOT, SYSTEM, Opener, Part, make_disk, mounted, place
from tests.support.commands import run

XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
ENTRIES, IMAGES = "loader/entries", "EFI/Linux"
SYSTEM_ROOT = Part(kind="ext4", type=ROOT, holds=SYSTEM)
BOTH = (ENTRIES, IMAGES)
EFI = Part(kind="vfat", type=ESP, name="EFI-SYSTEM", label="ESP", size=40, holds=BOTH)


FOUND = {
    "XBOOTLDR": ("gpt", Part(kind="ext4", type=XBOOTLDR, holds=BOTH)),
    "XBOOTLDR vfat": ("gpt", Part(kind="vfat", size=40, type=XBOOTLDR, holds=(ENTRIES,))),
    "partition name": ("gpt", Part(kind="xfs", size=320, name="boot", holds=(ENTRIES,))),
    "label": ("gpt", Part(kind="ext4", label="boot", holds=BOTH)),
    "ESP": ("gpt", EFI),
    # Not what firmware reads, but every kernel can mount it.
    "ESP ext4": ("gpt", replace(EFI, kind="ext4")),
    "MBR label": ("dos", Part(kind="ext4", type="83", label="boot", holds=(ENTRIES,))),
    "MBR ESP": ("dos", Part(kind="vfat", size=40, type="ef", holds=BOTH)),
    "MBR XBOOTLDR": ("dos", Part(kind="ext4", type="ea", holds=(ENTRIES,))),
}


@contextmanager
def partition(image: Path, number: int) -> Iterator[Path]:
    """A partition's file system, mounted."""
    device = run(("losetup", "--find", "--show", "--partscan", image)).stdout.strip()
    try:
        run(("partx", "--update", device))
        with mounted(Path(f"{device}p{number}")) as point:
            yield point
    finally:
        run(("losetup", "--detach", device))


def write_entries(image: Path, number: int, part: Part) -> None:
    with partition(image, number) as top:
        for folder, name in ((ENTRIES, "a.conf"), (IMAGES, "b.efi")):
            if folder in part.holds:
                (top / folder / name).write_text("title a\n")


def files(image: Path, number: int) -> list[str]:
    with partition(image, number) as top:
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())


def expected(part: Part, suffix: str) -> list[str]:
    found = []
    for folder, name in ((ENTRIES, "a.conf"), (IMAGES, "b.efi")):
        if folder in part.holds:
            found.append(f"{folder}/{name}{suffix}")
            if suffix:
                found.append(str(Path(folder).parent / NOTE))
    return sorted(found)


@pytest.mark.parametrize(
    ("table", "part"),
    [
        pytest.param(table, part, id=name, marks=[pytest.mark.vfat] if part.kind == "vfat" else [])
        for name, (table, part) in FOUND.items()
    ],
)
def test_entries_beside_the_root_are_set_aside_and_come_back(
    table: str, part: Part, opener: Opener, tmp_path: Path
) -> None:
    root = SYSTEM_ROOT if table == "gpt" else Part(kind="ext4", type="83", holds=SYSTEM)
    image = make_disk(tmp_path / "disk.img", part, root, table=table)
    write_entries(image, 1, part)
    with opener(image, with_boot=True) as target:
        assert len(target.boot) == 1
        held = set_aside((target.physical_root, *target.boot), "an image is missing")
        assert held != ()
        restore(held)
    assert files(image, 1) == expected(part, "")
    with opener(image, with_boot=True) as target:
        assert set_aside((target.physical_root, *target.boot), "an image is missing") != ()
    assert files(image, 1) == expected(part, ASIDE)


def test_only_who_asks_for_them_gets_boot_file_systems(opener: Opener, tmp_path: Path) -> None:
    boot = Part(kind="ext4", type=XBOOTLDR, holds=(ENTRIES,))
    image = make_disk(tmp_path / "disk.img", boot, SYSTEM_ROOT)
    with opener(image) as target:
        assert target.boot == ()


@pytest.mark.parametrize("kind", ["ext4", pytest.param("vfat", marks=pytest.mark.vfat)])
def test_every_file_system_with_entries_is_reached_at_once(
    kind: str, opener: Opener, tmp_path: Path
) -> None:
    esp = replace(EFI, kind=kind)
    boot = Part(kind="ext4", type=XBOOTLDR, holds=(ENTRIES,))
    root = Part(kind="ext4", type=ROOT, holds=(*SYSTEM, "boot/loader/entries"))
    image = make_disk(tmp_path / "disk.img", esp, boot, root)
    write_entries(image, 1, esp)
    write_entries(image, 2, boot)
    with opener(image, with_boot=True) as target:
        make_writable(target, Runner())
        (target.physical_root / "boot/loader/entries/c.conf").touch()
        with held_back((target.physical_root, *target.boot), Events([opener.told]), keep=False):
            names = [p.name for top in (target.physical_root, *target.boot) for p in top.rglob("*")]
            assert sorted(name for name in names if name.endswith(ASIDE)) == [
                f"a.conf{ASIDE}", f"a.conf{ASIDE}", f"b.efi{ASIDE}", f"c.conf{ASIDE}"
            ]  # fmt: skip
            assert not [name for name in names if name.endswith((".conf", ".efi"))]
    assert files(image, 1) == expected(esp, "")
    assert files(image, 2) == expected(boot, "")
    assert files(image, 3) == ["boot/loader/entries/c.conf"]
    assert "no boot entries" not in opener.told.text


def test_boot_file_system_that_cannot_be_mounted_is_told(opener: Opener, tmp_path: Path) -> None:
    boot = Part(kind="ext4", type=XBOOTLDR, holds=(ENTRIES,))
    image = make_disk(tmp_path / "disk.img", boot, SYSTEM_ROOT)
    with image.open("r+b") as file:
        file.seek((1 << 20) + 1024 + 0x68)  # the superblock's read-only features
        file.write(b"\xff\xff\xff\xff")
    with opener(image, with_boot=True) as target:
        assert target.boot == ()
    assert f"{image}: partition 1: mount failed" in opener.told.text


@contextmanager
def boot_places(target: Path, opener: Opener) -> Iterator[Sequence[Path]]:
    options = OpenOptions(state=opener.state)
    with open_boot_places(target, options, Runner(), Events([opener.told])) as places:
        yield places


def encrypt(image: Path, start: int) -> None:
    """Put an encrypted volume without any key at so many MiB."""
    header = image.with_name("header")
    write_luks2_header(header)
    place(header, image, start)


def test_root_that_cannot_be_opened_keeps_nobody_from_the_others(
    opener: Opener, tmp_path: Path
) -> None:
    """An encrypted root without its key: its boot entries are where the boot loader reads them."""
    boot = Part(kind="ext4", type=XBOOTLDR, holds=(ENTRIES,))
    image = make_disk(tmp_path / "disk.img", boot, Part(type=ROOT, name="root"))
    write_entries(image, 1, boot)
    encrypt(image, 65)
    with boot_places(image, opener) as places:
        assert len(places) == 1
        set_aside(places, "no key")
    assert files(image, 1) == expected(boot, ASIDE)
    assert "only its boot partitions are opened: " in opener.told.text
    assert "is encrypted (LUKS), and no key was given" in opener.told.text


def test_root_that_cannot_be_opened_and_nothing_else_is_an_error(
    opener: Opener, tmp_path: Path
) -> None:
    image = make_disk(tmp_path / "disk.img", Part(kind="ext4"), Part(type=ROOT, name="root"))
    encrypt(image, 65)
    with (
        pytest.raises(ConfigError, match="no key was given"),
        boot_places(image, opener),
    ):
        pass


def test_directory_is_the_one_place(opener: Opener, tmp_path: Path) -> None:
    with boot_places(tmp_path, opener) as places:
        assert places == (tmp_path,)
