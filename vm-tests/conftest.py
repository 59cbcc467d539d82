"""Fixtures of the cases, and the table of what was proven."""

import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
from host import BootcError, Host, InContainer, NextToStandin, add_bootc, kernel_reads_gpt
from machine import Accelerator, QemuError, find_accelerator
from osroot import CACHE, SUITE, OsRootError, os_root
from rundir import keep, run_directory
from scene import UNITS_OF_APPS, Clock, Scene, Step, build_apps, os_with
from summary import Told, case_lines, left_out_lines, prepared_lines

from tests.support.leftovers import SESSION_VARIABLE, Machine, detach_below, leftovers
from tests.support.stores import Store, make_store

# Settings of the person who runs the cases must not decide what they see.
for _name in tuple(os.environ):
    if _name.startswith(("CONTAINERS_", "STORAGE_", "BOUND_IMAGES_", "STANDIN_")):
        del os.environ[_name]
SUITE_OF_BOOTC = "sid"
"""Which has the libraries that a bootc of today needs."""
SESSION = uuid.uuid4().hex[:12]
os.environ[SESSION_VARIABLE] = SESSION


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep", action="store_true", help="keep disks and consoles")
    parser.addoption("--bootc", type=Path, help="a bootc to install with, not the stand-in")
    parser.addoption("--suite", help="the Debian suite of the OS")
    parser.addoption("--case", action="append", default=[], help="a part of a case's name")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: installs and boots in QEMU")
    config.addinivalue_line("markers", "bootc: needs bootc itself")
    config.addinivalue_line("markers", "standin(reason): cannot be shown with bootc itself")
    config.addinivalue_line("markers", "slow: left out unless all cases are asked for")
    # Told to end, clean up as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.vm)
    if not config.getoption("--bootc"):
        items[:] = [item for item in items if not item.get_closest_marker("bootc")]
    parts: list[str] = config.getoption("--case")
    if parts:
        items[:] = [item for item in items if any(part in case_name(item) for part in parts)]
    if not items:
        pytest.exit("no case has such a name; see 'def test_' in vm-tests/test_*.py", returncode=2)
    if config.getoption("--bootc"):
        _leave_out(config, items)


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out the cases that bootc itself cannot run; the table says which, and why."""
    marks = {case_name(item): item.get_closest_marker("standin") for item in items}
    left = {name: str(mark.args[0]) for name, mark in marks.items() if mark}
    config.stash[LEFT_OUT] = left
    items[:] = [item for item in items if case_name(item) not in left]


def case_name(item: pytest.Item) -> str:
    """As the table shows it."""
    return item.name.removeprefix("test_")


# --- what is made once -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def work(pytestconfig: pytest.Config) -> Iterator[Path]:
    """A directory on the file system of the cache, so that the OS can be linked into it."""
    with run_directory(CACHE, "run", SESSION) as folder:
        yield folder
        if pytestconfig.stash.get(FAILED, False) or pytestconfig.getoption("--keep"):
            keep(folder)
            pytestconfig.stash[KEPT] = folder


@pytest.fixture(scope="session")
def stores() -> Iterator[Path]:
    """A directory for stores: the path of podman's run root has to be short."""
    with run_directory(Path(tempfile.gettempdir()), "vm-stores", SESSION) as folder:
        yield folder


FAILED = pytest.StashKey[bool]()
KEPT = pytest.StashKey[Path]()
CLOCK = pytest.StashKey[Clock]()
PREPARED = pytest.StashKey[Clock]()
LEFT_OUT = pytest.StashKey[Mapping[str, str]]()
TOLD = "told"


@pytest.fixture(scope="session")
def prepared(pytestconfig: pytest.Config) -> Clock:
    """Times of what all cases need."""
    return pytestconfig.stash.setdefault(PREPARED, Clock())


@pytest.fixture(scope="session", autouse=True)
def _nothing_left(work: Path, stores: Path) -> Iterator[None]:
    """Fail the run if a mount, loop device or process outlives it."""
    before = Machine.now()
    yield
    left = leftovers(before, SESSION, (work, stores), alone=False)
    assert not left, "the cases left behind:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def system(pytestconfig: pytest.Config, work: Path, prepared: Clock) -> Path:
    """Root directory of the OS."""
    bootc: Path | None = pytestconfig.getoption("--bootc")
    suite = pytestconfig.getoption("--suite") or (SUITE_OF_BOOTC if bootc else SUITE)
    try:
        with prepared.step(f"OS root of Debian {suite}, built once"):
            root = os_root(suite=suite)
        return _with_bootc(root, bootc, work, prepared) if bootc else root
    except (OsRootError, BootcError) as error:
        pytest.exit(f"vm-tests: {error}", returncode=2)


def _with_bootc(root: Path, bootc: Path, work: Path, prepared: Clock) -> Path:
    began = time.monotonic()
    root = os_with(root, work / "os-with-bootc", {})
    version = add_bootc(root, bootc)
    prepared.steps.append(Step(f"{version} put into it", time.monotonic() - began))
    return root


@pytest.fixture(scope="session")
def host(pytestconfig: pytest.Config, work: Path, prepared: Clock) -> Host:
    """Where installations run."""
    if not pytestconfig.getoption("--bootc"):
        return NextToStandin()
    began = time.monotonic()
    reads_gpt = kernel_reads_gpt(work)
    if not reads_gpt:
        what = "partitions told to the kernel, which reads no GPT here"
        prepared.steps.append(Step(what, time.monotonic() - began))
    return InContainer(reads_gpt)


@pytest.fixture(scope="session")
def accelerator(system: Path, work: Path, prepared: Clock) -> Accelerator:
    """What guests run with."""
    (kernel,) = (system / "usr/lib/modules").iterdir()
    began = time.monotonic()
    try:
        found = find_accelerator(kernel / "vmlinuz", kernel / "initramfs.img", work / "probe")
    except QemuError as error:
        pytest.exit(f"vm-tests: {error}", returncode=2)
    why = "no guest lives with KVM" if Path("/dev/kvm").exists() else "there is no /dev/kvm"
    way = "KVM" if found == "kvm" else f"emulation, since {why} here"
    prepared.steps.append(Step(f"guests run by {way}", time.monotonic() - began))
    return found


@pytest.fixture(scope="session")
def apps(stores: Path, prepared: Clock) -> Store:
    """A store with the app images."""
    base = stores / "apps"
    with prepared.step("app images"):
        return build_apps(make_store(base), base)


@pytest.fixture(scope="session")
def bound_os(system: Path, work: Path) -> Path:
    """The OS that binds both app images, one by .container and one by .image."""
    return os_with(system, work / "os", UNITS_OF_APPS)


@pytest.fixture(scope="session")
def scene(apps: Store, host: Host, accelerator: Accelerator, work: Path, prepared: Clock) -> Scene:
    """What all cases work with; each has a directory and a clock of its own."""
    return Scene(store=apps, host=host, accelerator=accelerator, folder=work, clock=prepared)


@pytest.fixture(scope="session")
def good_disk(bound_os: Path, scene: Scene) -> Path:
    """A disk that the OS was installed to; never to be changed."""
    maker = replace(scene, folder=scene.folder / "good")
    maker.folder.mkdir()
    disk = maker.new_disk()
    done = maker.install(bound_os, disk)
    assert "mode: after (bootc reads the bound images of /" in done.stderr, done.stderr
    return disk


# --- one case --------------------------------------------------------------------------------


@pytest.fixture
def stage(request: pytest.FixtureRequest, scene: Scene) -> Iterator[Scene]:
    """A directory, a clock and what is needed to install and boot."""
    folder = scene.folder / request.node.name.replace("/", "-")
    folder.mkdir()
    clock = request.node.stash.setdefault(CLOCK, Clock())
    yield replace(scene, folder=folder, clock=clock)
    left = detach_below(folder)
    assert not left, f"the case left mounts: {left}"


# --- the table -------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is not None:
        item.config.stash[FAILED] = True
    if call.when == "call" or (call.when == "setup" and call.excinfo is not None):
        function = getattr(item, "function", None)
        about = (getattr(function, "__doc__", None) or item.name).splitlines()[0]
        steps = item.stash.get(CLOCK, Clock()).steps
        told = Told(case_name(item), about, call.duration, steps)
        item.user_properties.append((TOLD, told))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    def write(lines: Iterable[str]) -> None:
        for line in lines:
            terminalreporter.write_line(line)

    reports = {
        outcome: terminalreporter.getreports(outcome) for outcome in ("passed", "failed", "error")
    }
    # What could not be prepared, or has left something behind, is not proven either.
    wrong = {report.nodeid: report for report in (*reports["failed"], *reports["error"])}
    right = {r.nodeid: r for r in reports["passed"] if r.when == "call" and r.nodeid not in wrong}

    def told(these: Mapping[str, pytest.TestReport]) -> list[Told]:
        properties = (value for report in these.values() for _, value in report.user_properties)
        return [value for value in properties if isinstance(value, Told)]

    write(prepared_lines(config.stash.get(PREPARED, Clock()).steps))
    write(case_lines("proven:", told(right)))
    write(case_lines("NOT proven:", told(wrong)))
    if LEFT_OUT in config.stash:
        write(left_out_lines(config.stash[LEFT_OUT]))
    if KEPT in config.stash:
        write(["", f"kept: {config.stash[KEPT]}"])
