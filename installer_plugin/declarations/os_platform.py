"""The platform of an OS image: what its own programs run on, whatever the machine is that installs it.

A program's header says it (ELF, ``e_machine``); the root of an image has nothing else that always does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import Platform

PROGRAMS = (
    "usr/lib/systemd/systemd",
    "lib/systemd/systemd",
    "usr/bin/bootc",
    "usr/bin/bash",
    "usr/bin/env",
    "bin/sh",
)
"""Programs of which an OS image has one at least."""
_HEAD_SIZE = 40
_MAGIC = b"\x7fELF"
_BITS_64, _LITTLE = 2, 1
_MACHINES = {
    (3, 1, _LITTLE): "386",
    (8, 1, _LITTLE): "mipsle",
    (8, _BITS_64, _LITTLE): "mips64le",
    (21, _BITS_64, _LITTLE): "ppc64le",
    (21, _BITS_64, 2): "ppc64",
    (22, _BITS_64, 2): "s390x",
    (40, 1, _LITTLE): "arm",
    (62, _BITS_64, _LITTLE): "amd64",
    (183, _BITS_64, _LITTLE): "arm64",
    (243, _BITS_64, _LITTLE): "riscv64",
    (258, _BITS_64, _LITTLE): "loong64",
}
"""``e_machine``, class and byte order -> the name that Go and image configs have for it."""
_NAMES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
    "loongarch64": "loong64",
}
"""Machines whose name for uname(2) is not Go's."""
_LEVELS = (
    ("v4", frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"))),
    ("v3", frozenset(("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"))),
    ("v2", frozenset(("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"))),
)
"""Levels of x86-64 and what /proc/cpuinfo calls the features that each adds to the one below."""
CPUINFO_LIMIT = 1 << 20


def platform_of(root: Rootfs) -> Platform:
    """The platform that the OS in *root* is for; that of this machine when no program tells.

    The variant is this machine's where the architecture is: nothing in an image says more.
    """
    machine = this_machine()
    for program in PROGRAMS:
        architecture = _architecture(root, program)
        if architecture:
            variant = machine.variant if architecture == machine.architecture else ""
            return Platform(os="linux", architecture=architecture, variant=variant)
    return machine


def this_machine() -> Platform:
    """The platform that this machine runs."""
    name = os.uname().machine
    architecture = _NAMES.get(name, name)
    variant = ""
    if architecture == "arm":
        variant = f"v{name[4]}"
    elif architecture == "amd64":
        variant = x86_level(_processor_flags(Path("/proc/cpuinfo")))
    return Platform(os="linux", architecture=architecture, variant=variant)


def x86_level(flags: Collection[str]) -> str:
    """The level of x86-64 (``v1`` to ``v4``) of a processor with these *flags* of /proc/cpuinfo."""
    level = "v1"
    for name, features in reversed(_LEVELS):
        if not features.issubset(flags):
            break
        level = name
    return level


def _processor_flags(file: Path) -> frozenset[str]:
    with file.open("rb") as cpuinfo:
        text = cpuinfo.read(CPUINFO_LIMIT).decode(errors="replace")
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _architecture(root: Rootfs, program: str) -> str | None:
    """What the program is for; None when it is not there or is not a program."""
    try:
        with os.fdopen(root.open_file(program), "rb") as file:
            head = file.read(_HEAD_SIZE)
    except (OSError, DataError):
        return None
    if len(head) < _HEAD_SIZE or not head.startswith(_MAGIC):
        return None
    order = "little" if head[5] == _LITTLE else "big"
    machine = int.from_bytes(head[18:20], "little" if order == "little" else "big")
    return _MACHINES.get((machine, head[4], head[5]))
