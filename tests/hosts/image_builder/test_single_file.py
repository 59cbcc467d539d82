"""The program as one file: reproducible, whole, and clear to a Python that is too old."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from backend.tree import find_version

from installer_plugin import __version__
from installer_plugin.hosts.image_builder.single_file import _MAIN, single_file
from tests.hosts.image_builder.conftest import OS, Built
from tests.support.commands import run, unshared
from tests.support.images import REPOSITORY

pytestmark = pytest.mark.real
BUILD = REPOSITORY / "packaging/build-single-file"


def test_the_same_sources_make_the_same_bytes(program: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first.pyz", "again.pyz")]
    for file in files:
        run((sys.executable, BUILD, file))
    version = find_version(REPOSITORY)
    assert files[0].read_bytes() == files[1].read_bytes() == single_file(version)
    assert program.read_bytes() == single_file()


def test_what_is_released_says_the_version_of_its_tag(tmp_path: Path) -> None:
    file = tmp_path / "program.pyz"
    file.write_bytes(single_file("1.2.3"))
    done = run((sys.executable, "-I", file, "--version"))
    assert done.stdout == "bootc-bound-images, version 1.2.3\n"
    with ZipFile(file) as archive:
        assert archive.read("VERSION") == b"1.2.3\n"


def test_it_says_its_version_and_has_the_licences(program: Path) -> None:
    done = run((sys.executable, "-I", program, "--version"))
    assert done.stdout == f"bootc-bound-images, version {__version__}\n"
    with ZipFile(program) as archive:
        assert archive.read("VERSION").decode().strip() == __version__
        assert b"Apache License" in archive.read("LICENSE")
        assert b"Redistribution" in archive.read("LICENSE.click")
        assert archive.testzip() is None


def test_it_makes_itself_again_where_it_runs(program: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from installer_plugin.hosts.image_builder.single_file import single_file, stage_files; "
        "sys.stdout.buffer.write(single_file()); stage_files()"
    )
    argv = (sys.executable, "-I", "-c", script, str(program))
    done = subprocess.run(argv, capture_output=True, check=True, cwd="/")
    assert done.stdout == program.read_bytes()


def test_commands_run_from_it(program: Path, built: Built) -> None:
    argv = unshared((sys.executable, "-I", program, "check", f"containers-storage:{OS}"))
    assert "3 images" in run(argv, env=built.store.env).stdout


def test_an_older_python_gets_one_line_and_no_traceback() -> None:
    old = "import sys; sys.version_info = (3, 9, 18, 'final', 0)\n"
    done = run((sys.executable, "-c", old + _MAIN), ok=(4,))
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: bootc-bound-images needs Python 3.11 or later, this is")
