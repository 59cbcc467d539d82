"""Which platform an OS image is for, which images that runs, and which instance of a list it gets."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from installer_plugin.declarations.os_platform import PROGRAMS, platform_of, this_machine, x86_level
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import Platform
from installer_plugin.storage.source.platforms import choose_instance, runs
from installer_plugin.storage.store.manifests import Descriptor
from tests.support.values import digest


def _platform(text: str) -> Platform:
    os, architecture, variant = (*text.split("/"), "", "")[:3]
    return Platform(os=os, architecture=architecture, variant=variant)


@pytest.mark.parametrize(
    ("machine", "image", "fits"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/s390x", False),
        ("linux/amd64", "linux/arm64", False),
        ("linux/amd64", "linux/386", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/s390x", "linux/s390x", True),
        ("linux/s390x", "linux/amd64", False),
        ("linux/amd64/v3", "linux/amd64/v2", True),
        ("linux/amd64/v2", "linux/amd64/v3", False),
        ("linux/amd64", "linux/amd64/v1", True),
        ("linux/amd64", "linux/amd64/v2", False),
        ("linux/arm/v7", "linux/arm/v6", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm", "linux/arm/v7", True),
        ("linux/arm", "linux/arm/v8", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64", "linux/arm64/v9", False),
        ("linux/arm64", "linux/arm/v7", False),
        ("linux/amd64", "", True),
        ("linux/riscv64", "linux/riscv64/strange", False),
    ],
)
def test_machine_runs_its_architecture_and_the_variants_below(
    machine: str, image: str, *, fits: bool
) -> None:
    assert runs(_platform(machine), _platform(image)) is fits


@pytest.mark.parametrize(
    ("machine", "listed", "chosen"),
    [
        ("linux/amd64", ["linux/s390x", "linux/amd64"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v3", "linux/amd64/v2"], 1),
        ("linux/amd64/v2", ["linux/amd64", "linux/amd64/v3", "linux/amd64/v2"], 2),
        ("linux/amd64/v2", ["linux/amd64/v3"], None),
        ("linux/arm", ["linux/arm/v8", "linux/arm/v6", "linux/arm/v7"], 2),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5", "linux/arm/v6"], 2),
        ("linux/arm64", ["linux/arm64/v8"], 0),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], 1),
        ("linux/amd64", ["linux/s390x", None], 1),
        ("linux/amd64", ["unknown/unknown", "windows/amd64"], None),
        ("linux/amd64", [], None),
    ],
)
def test_best_instance_is_chosen(
    machine: str, listed: Sequence[str | None], chosen: int | None
) -> None:
    instances = [
        Descriptor(
            digest=digest(str(number)),
            size=1,
            media_type="",
            platform=None if text is None else _platform(text),
        )
        for number, text in enumerate(listed)
    ]
    expected = None if chosen is None else instances[chosen]
    assert choose_instance(instances, _platform(machine)) == expected


def elf(machine: int, *, bits: int = 64, order: str = "<") -> bytes:
    """The head of a program for a machine."""
    ident = b"\x7fELF" + bytes((2 if bits == 64 else 1, 1 if order == "<" else 2, 1)) + bytes(9)
    return ident + struct.pack(f"{order}HHI", 3, machine, 1) + bytes(48)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Rootfs]:
    with Rootfs.open(tmp_path) as opened:
        yield opened


def _program(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "architecture"),
    [
        (elf(62), "amd64"), (elf(183), "arm64"), (elf(22, order=">"), "s390x"),
        (elf(21), "ppc64le"), (elf(243), "riscv64"), (elf(40, bits=32), "arm"),
        (elf(3, bits=32), "386"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_the_os_image_say_what_it_is_for(
    program: str, content: bytes, architecture: str, tmp_path: Path, root: Rootfs
) -> None:
    _program(tmp_path, program, content)
    assert platform_of(root).architecture == architecture


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 10, elf(9999), elf(22)])
def test_what_says_nothing_is_passed_over(content: bytes, tmp_path: Path, root: Rootfs) -> None:
    _program(tmp_path, PROGRAMS[0], content)
    assert platform_of(root) == this_machine()
    _program(tmp_path, PROGRAMS[2], elf(22, order=">"))
    assert platform_of(root) == Platform(os="linux", architecture="s390x")


def test_link_of_the_os_image_stays_in_it(tmp_path: Path, root: Rootfs) -> None:
    (tmp_path / "bin").symlink_to("/usr/bin")
    _program(tmp_path, "usr/bin/dash", elf(22, order=">"))
    (tmp_path / "usr/bin/sh").symlink_to("dash")
    assert platform_of(root).architecture == "s390x"


V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("", "v1"),
        (V2, "v2"),
        ("cx16 lahf_lm popcnt pni sse4_1 sse4_2", "v1"),
        (f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", "v3"),
        (f"{V2} avx avx2 bmi1 bmi2 f16c fma movbe xsave", "v2"),
        ("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", "v1"),
    ],
)
def test_level_of_a_processor_needs_all_levels_below(flags: str, level: str) -> None:
    assert x86_level(flags.split()) == level
