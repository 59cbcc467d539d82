"""The rules that the tests themselves keep: guard against processes, skips, coverage floors."""

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import TESTS, UnexpectedProcess
from tests.support.commands import run
from tests.support.coverage_gate import COMPLETE, shortfalls
from tests.support.images import REPOSITORY
from tests.support.waiting import SECONDS, wait_until

PACKAGE = "installer_plugin"


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
        "    yield file\n    time.sleep(0.5)\n    file.rename(f'{file}-cleaned')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        # Not the fixture makes the file: a signal between that and its yield leaves it no clean-up.
        "def test_it(number, thing):\n    thing.touch()\n    time.sleep(600)\n",
        f"--numprocesses={workers}",
    )
    under_way = max(workers, 1)
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(list(tmp_path.glob("test_it[[]*"))) == under_way, "their begin")
        process.send_signal(number)
        told = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == pytest.ExitCode.INTERRUPTED, told
    assert "left behind" not in told
    assert len(list(tmp_path.glob("test_it[[]*-cleaned"))) == under_way
    assert len(list(tmp_path.glob("test_it[[]*"))) == under_way


@pytest.mark.real
def test_what_is_left_is_looked_for_when_the_vm_cases_have_ended(tmp_path: Path) -> None:
    text = "from pathlib import Path\ndef test_it(): Path(f'{__file__}-ran').touch()\n"
    argv = _nested_argv(tmp_path, text)
    with subprocess.Popen(("sleep", "30")) as cases:
        env = {**os.environ, "VM_CASES": str(cases.pid)}
        with subprocess.Popen(argv, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL) as process:
            wait_until((tmp_path / "test_it.py-ran").exists, "the test")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(3)
            cases.kill()
            cases.wait()
            assert process.wait(SECONDS) == 0


CONTROLLER = """
import signal, subprocess, sys
from types import SimpleNamespace
from tests.support.workers import Ending
ending = Ending(SimpleNamespace(getoption=lambda *_: 1))
worker = subprocess.Popen(("sleep", "600"))
try:
    signal.raise_signal(int(sys.argv[1]))
except KeyboardInterrupt:
    print(worker.poll() or worker.wait(60))
finally:
    worker.kill()
"""


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_controller_that_is_told_to_end_interrupts_its_workers_at_once(
    number: signal.Signals,
) -> None:
    """xdist alone would wait for five seconds of the ten that its workers have for cleaning up."""
    done = run((sys.executable, "-c", CONTROLLER, str(int(number))), cwd=REPOSITORY)
    assert int(done.stdout) == -signal.SIGINT


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


# --- what a test replaces is looked up again -------------------------------------------------


def _replaced_constants() -> Iterator[tuple[str, str]]:
    """Modules of the package, and their constants that tests replace by `monkeypatch.setattr`."""
    for file in TESTS.rglob("test_*.py"):
        tree = ast.parse(file.read_text())
        modules = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        for call in ast.walk(tree):
            match call:
                case ast.Call(
                    func=ast.Attribute(attr="setattr"),
                    args=[ast.Name(id=module), ast.Constant(value=str(name)), *_],
                ) if name.isupper() and modules.get(module, "").startswith(f"{PACKAGE}."):
                    yield modules[module], name
                case ast.Call(
                    func=ast.Attribute(attr="setattr"), args=[ast.Constant(value=str(path)), _]
                ) if path.startswith(f"{PACKAGE}.") and path.rpartition(".")[2].isupper():
                    module, _, name = path.rpartition(".")
                    yield module, name


def read_on_import(source: str, name: str) -> list[int]:
    """Lines in which a module reads a name when it is imported: defaults, decorators, constants."""
    lines: list[int] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_once: list[ast.AST] = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            at_once += getattr(node, "decorator_list", [])
            for child in at_once:
                visit(child)
            return
        match node:
            case ast.Name(id=found, ctx=ast.Load()) if found == name:
                lines.append(node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return lines


def test_constant_that_a_test_replaces_is_not_bound_before() -> None:
    replaced = set(_replaced_constants())
    assert len(replaced) > 5
    for module, name in replaced:
        file = REPOSITORY / f"{module.replace('.', '/')}.py"
        assert read_on_import(file.read_text(), name) == [], f"{module}.{name}: a test sees nothing"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f(a=X): return a", [1]),
        ("def f(*, a=X): return a", [1]),
        ("class C:\n    def f(self, a=X): ...", [2]),
        ("class C:\n    a: int = X", [2]),
        ("Y = X * 2", [1]),
        ("def f(a): return a + X", []),
        ("class C:\n    def f(self): return X", []),
        ("X = 1", []),
    ],
)
def test_names_that_are_read_on_import_are_found(source: str, lines: list[int]) -> None:
    assert read_on_import(source, "X") == lines


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
