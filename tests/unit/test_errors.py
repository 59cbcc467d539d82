"""One base of errors: problems, exit codes, what crosses a process, and the net at a program's door."""

import errno
import pickle

import pytest

from installer_plugin.errors import (
    BoundImagesError,
    BugError,
    ConfigError,
    DamagedStoreError,
    DataError,
    ExitCode,
    HostError,
    PreflightError,
    Problem,
    caught,
)
from installer_plugin.process.runner import Command, CommandError

COMMAND = Command(argv=("mkfs.xfs", "/dev/x"), purpose="make a file system")
EVERY = (
    ConfigError(
        Problem(subject="a", message="b", where="c", hint="d"), Problem(subject="e", message="f")
    ),
    PreflightError.of("x", "y", hint="z"),
    DataError("a", "b", hint="c"),
    DamagedStoreError("a", "b"),
    CommandError(COMMAND, "failed with exit code 1", "no room"),
    BugError.of("x", "y"),
)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_error_of_ours_crosses_a_process_as_it_is(error: BoundImagesError) -> None:
    there = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert type(there) is type(error)
    assert (str(there), there.problems, there.exit_code) == (
        str(error),
        error.problems,
        error.exit_code,
    )


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_error_of_ours_has_an_exit_code_of_the_table_and_passes_the_net_unchanged(
    error: BoundImagesError,
) -> None:
    assert error.exit_code in set(ExitCode) - {ExitCode.DONE}
    assert caught(error) is error


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_retold_error_keeps_its_exit_code(error: BoundImagesError) -> None:
    told = error.retold(lambda problem: Problem(subject="disk", message=problem.message))
    assert told.exit_code == error.exit_code
    assert [(p.subject, p.message) for p in told.problems] == [
        ("disk", p.message) for p in error.problems
    ]


def test_what_the_system_refuses_names_the_file_and_is_the_hosts_error() -> None:
    known = caught(OSError(errno.EROFS, "Read-only file system", "/target/x"))
    assert isinstance(known, HostError)
    assert known.exit_code == ExitCode.HOST
    (problem,) = known.problems
    assert (problem.subject, problem.message) == (
        "/target/x",
        "cannot be used: Read-only file system",
    )
    assert problem.hint


def test_fault_of_our_own_names_its_kind_and_its_place() -> None:
    with pytest.raises(KeyError) as seen:
        dict[str, str]()["key"]
    known = caught(seen.value)
    assert known.exit_code == ExitCode.BUG
    (problem,) = known.problems
    assert "KeyError: 'key' (test_errors.py:" in problem.message
    assert "BOUND_IMAGES_TRACEBACK" in problem.hint


def test_error_without_a_problem_is_a_fault_of_our_own() -> None:
    with pytest.raises(RuntimeError, match="at least one problem"):
        ConfigError()
