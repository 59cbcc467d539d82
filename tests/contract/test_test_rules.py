"""The rules that the tests themselves keep: guard against processes, skips, coverage floors."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import UnexpectedProcess
from tests.support.commands import run
from tests.support.coverage_gate import COMPLETE, shortfalls
from tests.support.images import REPOSITORY
from tests.support.waiting import SECONDS, wait_until

XDIST_PATIENCE = 5
"""Seconds that xdist gives a worker whose controller has ended before it interrupts the test."""


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
    ("require", "workers", "outcome"),
    [
        ("", 0, "1 passed, 1 skipped"),
        ("elsewhere", 0, "1 passed, 1 skipped"),
        ("network,slow", 0, "1 failed, 1 passed"),
        ("all", 0, "1 failed, 1 passed"),
        ("elsewhere", 1, "1 passed, 1 skipped"),
        ("all", 1, "1 failed, 1 passed"),
    ],
)
def test_skip_is_a_failure_where_required(
    require: str, workers: int, outcome: str, tmp_path: Path
) -> None:
    done = _nested(
        tmp_path,
        "@pytest.mark.slow\ndef test_it(): pytest.skip('no reason')\ndef test_other(): pass\n",
        f"--require={require}", f"--numprocesses={workers}", ok=("failed" in outcome,),
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].startswith(outcome)
    forbidden = "skipped, but --require forbids it"
    assert (forbidden in done.stdout) == ("failed" in outcome)
    assert "no reason" in done.stdout


@pytest.mark.real
@pytest.mark.parametrize("workers", [0, 2], ids=["alone", "workers"])
def test_what_this_machine_cannot_show_is_said_last(workers: int, tmp_path: Path) -> None:
    done = _nested(
        tmp_path,
        "@pytest.mark.bootc\ndef test_it(): assert False\ndef test_other(): assert False\n",
        f"--numprocesses={workers}", ok=(1,), env={"PATH": f"{Path(sys.executable).parent}:/bin"},
    )  # fmt: skip
    *_, failed, title, left_out, total = done.stdout.splitlines()
    assert failed.startswith("FAILED ")
    assert "::test_other" in failed
    assert "NOT TESTED on this machine" in title
    assert left_out.startswith("1 test that compare with bootc itself: ")
    assert total.startswith("1 failed")


@pytest.mark.real
def test_explicit_requirement_is_not_left_out(tmp_path: Path) -> None:
    done = _nested(
        tmp_path, "@pytest.mark.bootc\ndef test_it(): assert False\n", "--require=bootc", ok=(1,)
    )
    assert done.stdout.splitlines()[-1].startswith("1 failed")


@pytest.mark.real
@pytest.mark.parametrize("workers", [0, 2], ids=["alone", "workers"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_run_that_is_told_to_end_cleans_up_first(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    argv = _nested_argv(
        tmp_path,
        "from pathlib import Path\nimport time\n@pytest.fixture\ndef thing(request):\n"
        "    file = Path(__file__).with_name(request.node.name)\n"
        "    file.touch()\n    yield\n    time.sleep(0.5)\n    file.rename(f'{file}-cleaned')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_it(number, thing): time.sleep(600)\n",
        f"--numprocesses={workers}",
    )
    under_way = max(workers, 1)
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list(tmp_path.glob("test_it[[]*"))) == under_way, "their begin")
        began = time.monotonic()
        process.send_signal(number)
        told = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == pytest.ExitCode.INTERRUPTED, told
    assert "left behind" not in told
    assert len(list(tmp_path.glob("test_it[[]*-cleaned"))) == under_way
    assert len(list(tmp_path.glob("test_it[[]*"))) == under_way
    if number == signal.SIGTERM:
        assert time.monotonic() - began < XDIST_PATIENCE


def _nested_argv(directory: Path, text: str, *arguments: str) -> tuple[str, ...]:
    """A call of pytest with these rules on tests of its own."""
    markers = "".join(f"    {name}\n" for name in ("real", "slow", "bootc"))
    (directory / "pytest.ini").write_text(f"[pytest]\naddopts = -q -ra\nmarkers =\n{markers}")
    (directory / "test_it.py").write_text(f"import pytest\n{text}")
    return (
        sys.executable, "-m", "pytest", "-p", "tests.conftest", *arguments,
        f"--rootdir={directory}", f"--basetemp={directory / 'base'}",
        "-p", "no:cacheprovider", str(directory / "test_it.py"),
    )  # fmt: skip


def _nested(
    directory: Path,
    text: str,
    *arguments: str,
    ok: Sequence[int] = (0,),
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return run(_nested_argv(directory, text, *arguments), cwd=REPOSITORY, ok=ok, env=env)


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
