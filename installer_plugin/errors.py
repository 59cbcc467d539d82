"""What can go wrong: one hierarchy, divided by who must act, each with the exit code it ends in."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

TRACEBACK_VARIABLE = "BOUND_IMAGES_TRACEBACK"
"""Set to anything, it makes an internal error show where in the code it came from."""


class ExitCode(IntEnum):
    """Exit codes of the command; public, documented in the README."""

    DONE = 0
    BUG = 1
    """Something that this program should have foreseen."""
    USAGE = 2
    SOURCE_IMAGE = 3
    PREFLIGHT = 4
    COPY = 5
    VERIFICATION = 6
    HOST = 7
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, told so that the reader knows what to do next."""

    subject: str
    """What it is about: an image reference, a file, a tool."""
    message: str
    """What was seen, and what was expected."""
    where: str = ""
    """File (and line) or store in which it was seen; empty when the subject says it."""
    hint: str = ""
    """The next step, as an imperative; empty only when there is none."""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.subject}{place}: {self.message}"


class BoundImagesError(Exception):
    """Root of all errors that we raise; carries every problem that was found, not the first.

    One that nobody gave a better class ends the command with the exit code of its own.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.HOST

    def __init__(self, *problems: Problem) -> None:
        if not problems:
            raise RuntimeError("an error needs at least one problem to report")
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as its problems, not as its text."""
        return type(self), self.problems

    @classmethod
    def of(cls, subject: str, message: str, *, where: str = "", hint: str = "") -> Self:
        """An error with one problem."""
        return cls(Problem(subject=subject, message=message, where=where, hint=hint))

    def retold(self, retell: Callable[[Problem], Problem]) -> BoundImagesError:
        """The same error with problems that *retell* has put in other words."""
        return type(self)(*map(retell, self.problems))


class DataError(BoundImagesError):
    """Bytes from elsewhere (a store, a unit, a lock file) are not what their format asks for.

    Low-level: parsers and readers raise it; the stage that asked for the data turns it into one of
    the errors below, because only the stage knows whose fault it is.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, subject: str, message: str, *, hint: str = "") -> None:
        super().__init__(Problem(subject=subject, message=message, hint=hint))
        self.subject = subject
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as what it was made of."""
        return partial(type(self), hint=self.hint), (self.subject, self.message)

    def problem(self, *, hint: str = "") -> Problem:
        """The same as a problem to report; *hint* is used where the error brings none."""
        return Problem(subject=self.subject, message=self.message, hint=self.hint or hint)

    def retold(self, retell: Callable[[Problem], Problem]) -> BoundImagesError:
        """The same error in other words."""
        told = retell(self.problem())
        return type(self)(told.subject, told.message, hint=told.hint)


class DamagedStoreError(DataError):
    """A store's own files are wrong: what the caller named is right, but nothing can be taken from it."""

    exit_code = ExitCode.PREFLIGHT


class ConfigError(BoundImagesError):
    """The caller must act: an option, a configuration file, a lock file or a receipt is wrong."""

    exit_code = ExitCode.USAGE


class SourceImageError(BoundImagesError):
    """The author of the OS image must act: a declaration is wrong."""

    exit_code = ExitCode.SOURCE_IMAGE


class PreflightError(BoundImagesError):
    """The operator must act before anything is written: missing image, no space, no tool."""

    exit_code = ExitCode.PREFLIGHT


class CopyError(BoundImagesError):
    """Copying into the target store failed."""

    exit_code = ExitCode.COPY


class VerificationError(BoundImagesError):
    """What is on the target's disk is not what was asked for."""

    exit_code = ExitCode.VERIFICATION


class HostError(BoundImagesError):
    """A step of the host around us failed: bootc, a disk, a mount."""

    exit_code = ExitCode.HOST


class BugError(BoundImagesError):
    """This program did something that it should not: nobody else has to act."""

    exit_code = ExitCode.BUG


class InterruptedBySignal(BaseException):
    """A signal asked us to stop; like KeyboardInterrupt it passes every ``except Exception``."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


def caught(error: Exception) -> BoundImagesError:
    """What a program reports at its door about an error that no step has put in better words.

    What the system refused is an error of the host; all else is a fault of ours, reported with its
    place in the code.
    """
    if isinstance(error, BoundImagesError):
        return error
    if isinstance(error, OSError):
        return HostError.of(
            str(error.filename or "the system"),
            f"cannot be used: {error.strerror or error}",
            hint="see whether it is there, mounted and has room (ls -l, df)",
        )
    import traceback  # noqa: PLC0415 - slow to load, and seldom needed

    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    return BugError.of(
        "bootc-bound-images",
        f"internal error: {type(error).__name__}: {error}{place}",
        hint=f"please report it, with what {TRACEBACK_VARIABLE}=1 shows",
    )


def is_full(error: OSError) -> bool:
    """Whether *error* says that there is no room left, be it for bytes, inodes or a quota."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def joined(errors: Sequence[BoundImagesError]) -> BoundImagesError:
    """All problems of *errors* as one error, of the class whose exit code comes first.

    A wrong source image (3) explains a missing image (4), so the smaller code is the one to act on.
    """
    first = min(errors, key=lambda error: error.exit_code)
    ordered = sorted(errors, key=lambda error: error.exit_code)
    return type(first)(*(problem for error in ordered for problem in error.problems))
