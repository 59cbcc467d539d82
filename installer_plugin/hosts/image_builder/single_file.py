"""The whole program as one file that any Python >= 3.11 runs: for build roots that have nothing of ours.

The same sources make the same bytes: sorted names, one date, nothing compressed (other versions of zlib
compress differently).
"""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from installer_plugin import __version__
from installer_plugin.errors import ConfigError, Problem
from installer_plugin.process.runner import PACKAGE_PLACE

NAME = "bootc-bound-images.pyz"
STAGE_FILES = ("org.bootc-bound-images.install", "org.bootc-bound-images.install.meta.json")
HOOKS = "hooks/osbuild"
SHARED = Path("share/bootc-bound-images")
"""Below a prefix: where packages put the hooks."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip file can name."""
LIBRARY = "click"
_INTERPRETER = b"#!/usr/bin/env python3\n"
_MAIN = """\
# Any Python gets as far as this.
import sys

if sys.version_info < (3, 11):
    sys.stderr.write(
        "error: bootc-bound-images needs Python 3.11 or later, this is Python %d.%d (%s)\\n"
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )
    sys.exit(4)

from installer_plugin.cli import main

main(prog_name="bootc-bound-images")
"""


def single_file(version: str = __version__) -> bytes:
    """The program, which says that it is this *version*; the one that runs from a file is that file.

    Raises ConfigError where a part of it is not to be found.
    """
    if PACKAGE_PLACE.is_file():
        return PACKAGE_PLACE.read_bytes()  # it is what runs just now
    buffer = BytesIO()
    buffer.write(_INTERPRETER)
    with ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(_parts(version)):
            entry = ZipInfo(name, EPOCH)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def stage_files() -> dict[str, bytes]:
    """Our osbuild stage: its files by name; raises ConfigError."""
    if PACKAGE_PLACE.is_file():
        with ZipFile(PACKAGE_PLACE) as archive:
            return {name: archive.read(f"{HOOKS}/{name}") for name in STAGE_FILES}
    prefixes = dict.fromkeys(map(Path, (sys.prefix, "/usr/local", "/usr")))
    places = [PACKAGE_PLACE / HOOKS, *(prefix / SHARED / HOOKS for prefix in prefixes)]
    for place in places:
        if (place / STAGE_FILES[0]).exists():
            return {name: (place / name).read_bytes() for name in STAGE_FILES}
    raise _missing(STAGE_FILES[0], f"is in none of {', '.join(map(str, places))}")


def _parts(version: str) -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _MAIN.encode()
    yield "VERSION", f"{version}\n".encode()
    yield from _licences()
    for name, content in _modules("installer_plugin", PACKAGE_PLACE / "installer_plugin"):
        named = content.replace(f'"{__version__}"'.encode(), f'"{version}"'.encode())
        yield name, named if name == "installer_plugin/__init__.py" else content
    yield from _modules(LIBRARY, _library())
    for name, content in stage_files().items():
        yield f"{HOOKS}/{name}", content


def _modules(name: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*.py"):
        yield f"{name}/{path.relative_to(folder)}", path.read_bytes()


def _library() -> Path:
    found = importlib.util.find_spec(LIBRARY)
    if found is None or not found.submodule_search_locations:
        raise _missing(LIBRARY, "is not installed as a package")
    return Path(found.submodule_search_locations[0])


def _licences() -> Iterator[tuple[str, bytes]]:
    own = PACKAGE_PLACE / "LICENSE"
    if own.exists():
        yield "LICENSE", own.read_bytes()
    else:
        yield from _licence_of("bootc-bound-images", "LICENSE")
    yield from _licence_of(LIBRARY, f"LICENSE.{LIBRARY}")


def _licence_of(distribution: str, name: str) -> Iterator[tuple[str, bytes]]:
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError as error:
        raise _missing(distribution, "has no metadata, in which its licence is named") from error
    texts = sorted(Path(file.locate()) for file in files if "LICENSE" in file.name.upper())
    if not texts:
        raise _missing(distribution, "has no licence text")
    yield name, b"\n".join(text.read_bytes() for text in texts)


def _missing(subject: str, message: str) -> ConfigError:
    hint = "install bootc-bound-images again, or run its single file"
    return ConfigError(Problem(subject=subject, message=f"{message}, expected it there", hint=hint))
