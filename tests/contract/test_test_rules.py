"""The rules that the tests themselves keep: guard against processes, skips, coverage floors."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import UnexpectedProcess
from tests.support.commands import run
from tests.support.coverage_gate import COMPLETE, shortfalls
from tests.support.images import REPOSITORY


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run(("true",), check=True),
        lambda: os.system("true"),  # noqa: S605
        lambda: os.posix_spawn("/bin/true", ("true",), {}),
        os.fork,
    ],
    ids=["subprocess", "system", "posix_spawn", "fork"],
)
def test_plain_test_starts_no_process(start: Callable[[], object]) -> None:
    with pytest.raises(UnexpectedProcess, match=r"pytest\.mark\.real"):
        start()


@pytest.mark.real
def test_real_test_starts_processes() -> None:
    assert subprocess.run(("true",), check=False).returncode == 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("require", "code"), [("", 0), ("elsewhere", 0), ("network,slow", 1), ("all", 1)]
)
def test_skip_is_a_failure_where_required(require: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n    real\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.slow\ndef test_it(): pytest.skip('no reason')\n"
    )
    argv = (
        sys.executable, "-m", "pytest", "-p", "tests.conftest", f"--require={require}",
        f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'base'}", str(tmp_path / "test_it.py"),
    )  # fmt: skip
    done = run(argv, cwd=REPOSITORY, ok=(code,))
    assert "no reason" in done.stdout or code == 0


@pytest.mark.parametrize(
    ("files", "package", "expected"),
    [
        (dict.fromkeys(COMPLETE, 100.0), 95.0, []),
        (dict.fromkeys(COMPLETE, 100.0), 94.99, ["installer_plugin: 94.99 %"]),
        (dict.fromkeys(COMPLETE, 100.0) | {"files/rootfs.py": 99.5}, 99.0, ["rootfs.py: 99.50 %"]),
        (dict.fromkeys(COMPLETE[1:], 100.0), 99.0, ["quadlet.py: not measured"]),
    ],
    ids=["enough", "package", "module", "missing"],
)
def test_coverage_floor(files: dict[str, float], package: float, expected: list[str]) -> None:
    measured = {f"installer_plugin/{name}": value for name, value in files.items()}
    found = shortfalls(measured, package)
    assert len(found) == len(expected)
    assert all(part in line for part, line in zip(expected, found, strict=True))
