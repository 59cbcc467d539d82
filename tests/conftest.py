"""Fixtures, the process guard and the rule that a skipped test may be a failure."""

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

from installer_plugin.block.base import OpenOptions
from installer_plugin.block.namespace import own_mounts
from tests.support import registry
from tests.support.commands import run
from tests.support.debian import CACHE, DebianRoot, cached_root
from tests.support.disks import LoopFsFactory
from tests.support.fork_server import ended_at_last
from tests.support.images import ImageSources, build_sources
from tests.support.left_out import LeftOut
from tests.support.leftovers import SESSION_VARIABLE, Machine, detach_below, leftovers, new_session
from tests.support.sources import SourceRootBuilder
from tests.support.waiting import wait_until
from tests.support.workers import Ending, is_controller, is_worker

TESTS = Path(__file__).parent
REAL_DIRECTORIES = ("storage", "faults", "block", "bench", "packaging")
DEBIAN_FIXTURES = frozenset(("debian", "debian_root"))
PROCESS_EVENTS = frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn")
)

ReportT = TypeVar("ReportT", pytest.TestReport, pytest.CollectReport)

SESSION = new_session()
VM_CASES = os.environ.pop("VM_CASES", "")
"""Process that runs the VM cases at the same time, if there is one (`.ci/run`)."""
# Settings of the person who runs the tests must not decide what they see.
for _name in tuple(os.environ):
    if _name.startswith(("CONTAINERS_", "STORAGE_", "BOUND_IMAGES_", "REGISTRY_AUTH_FILE")):
        del os.environ[_name]
os.environ[SESSION_VARIABLE] = SESSION


# A loaded machine is slow, which says nothing about the code.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    """Add what a whole run needs: an orderly end, and a last word on what was not tested."""
    Ending(config)
    config.pluginmanager.register(LeftOut(config), "left-out")
    if is_controller(config):
        config.pluginmanager.register(_NothingLeftByAll(config), "nothing-left-by-all")


# --- a skip may be a failure -----------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        metavar="NAMES",
        default="",
        help="comma list of test directories or markers, or `all`: a skip there is a failure",
    )


def _required(config: pytest.Config, names: set[str]) -> bool:
    wanted = set(str(config.getoption("--require")).split(",")) - {""}
    return bool(wanted & (names | {"all"}))


def _fail_if_skipped(report: ReportT, config: pytest.Config, names: set[str]) -> ReportT:
    if report.skipped and not hasattr(report, "wasxfail") and _required(config, names):
        report.outcome = "failed"
        report.longrepr = f"skipped, but --require forbids it: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    names = {mark.name for mark in item.iter_markers()} | set(item.path.parts)
    return _fail_if_skipped((yield), item.config, names)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _fail_if_skipped((yield), collector.config, set(collector.path.parts))


# --- plain tests start no processes ----------------------------------------------------------


class UnexpectedProcess(BaseException):
    """No Exception: code under test that catches those must not hide it."""


class _Guard:
    forbidden = False


def _forbid_processes(event: str, arguments: tuple[object, ...]) -> None:
    if _Guard.forbidden and event in PROCESS_EVENTS:
        _Guard.forbidden = False  # what reports the failure may start what it likes
        message = f"mark the test @pytest.mark.real if it may do this: {event} {arguments[:2]}"
        raise UnexpectedProcess(message)


def _forbid_wide_signals(event: str, arguments: tuple[object, ...]) -> None:
    """Process group 1 is everybody (kill(2), -1), 0 is the tests themselves.

    A scripted process of pytest-subprocess has such numbers, and code that ends it believes them.
    """
    group = arguments[0] if event == "os.killpg" else None
    if isinstance(group, int) and group <= 1:
        raise UnexpectedProcess(f"a signal to process group {group}")


sys.addaudithook(_forbid_processes)
sys.addaudithook(_forbid_wide_signals)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(TESTS / name) for name in REAL_DIRECTORIES):
            item.add_marker(pytest.mark.real)
        # One worker waits for these roots, which take a minute, and asks what is in them, once.
        if DEBIAN_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("debian"))


@pytest.fixture(autouse=True)
def _process_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    _Guard.forbidden = request.node.get_closest_marker("real") is None
    yield
    _Guard.forbidden = False


# --- nothing is left behind ------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _own_records() -> Iterator[None]:
    """Keep apart what the product remembers about disks: others on this machine have disks too."""
    if os.geteuid() != 0:
        yield
        return
    records = OpenOptions().state
    records.mkdir(mode=0o700, exist_ok=True)
    with own_mounts():
        run(("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", records))
        yield


def _wait_for_vm_cases() -> None:
    """Their loop devices would count as left behind."""
    if VM_CASES:
        wait_until(lambda: not Path("/proc", VM_CASES).exists(), "their end", seconds=3600)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left(
    _own_records: None, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[None]:
    """Fail the run if a mount, loop device or process outlives it."""
    before = Machine.now()
    yield
    own = (tmp_path_factory.getbasetemp(), CACHE)
    alone = _required(pytestconfig, set()) and not is_worker(pytestconfig)
    _wait_for_vm_cases()
    left = leftovers(before, SESSION, own, alone=alone)
    assert not left, "the tests left behind:\n" + "\n".join(left)


@pytest.fixture(scope="session", autouse=True)
def _no_fork_server_left(_nothing_left: None) -> Iterator[None]:
    with ended_at_last():
        yield


class _NothingLeftByAll:
    """Fails the run if something outlives all workers; each has looked for its own before.

    Only here can be seen what a worker that crashed has left, and what names nobody's directory.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._alone = _required(config, set())
        self._before = Machine.now()
        self._left: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        _wait_for_vm_cases()
        self._left = leftovers(self._before, SESSION, (), alone=self._alone)
        if self._left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._left:
            terminalreporter.section("the tests left behind", red=True)
            terminalreporter.write("\n".join((*self._left, "")))


@pytest.fixture(autouse=True)
def _nothing_mounted_below(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a mount in its directory.

    The directory is deleted next, and the deletion would go on through the mount.
    """
    directory = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if directory is not None:
        left = detach_below(directory)
        assert not left, f"the test left mounts: {left}"


# --- fixtures --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def image_sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageSources]:
    """Real stores, layouts and a running registry with images; never to be changed by a test."""
    base = tmp_path_factory.mktemp("images")
    (base / "registry").mkdir()
    with registry.serve(base / "registry") as address:
        yield build_sources(base, address)


@pytest.fixture(scope="session")
def debian_root(tmp_path_factory: pytest.TempPathFactory) -> DebianRoot:
    """Debian 13 with podman 5, skopeo and Quadlet."""
    return DebianRoot(root=cached_root(), scratch=tmp_path_factory.mktemp("debian"))


@pytest.fixture
def loop_fs(tmp_path: Path) -> Iterator[LoopFsFactory]:
    """Factory of fresh mounted file systems, which end with the test."""
    directory = tmp_path / "loop-fs"
    directory.mkdir()
    with ExitStack() as stack:
        yield LoopFsFactory(directory, stack)


@pytest.fixture
def source_root(tmp_path: Path) -> SourceRootBuilder:
    """Builder of OS roots with bound-image declarations."""
    return SourceRootBuilder(tmp_path)
