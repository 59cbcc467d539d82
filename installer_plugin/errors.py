"""What can go wrong: one hierarchy, divided by who must act, each with the exit code it ends in."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of the command; public, documented in the README."""

    DONE = 0
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


class DataError(Exception):
    """Bytes from elsewhere (a store, a unit, a lock file) are not what their format asks for.

    Low-level: parsers and readers raise it; the stage that asked for the data turns it into one of
    the errors below, because only the stage knows whose fault it is.
    """

    def __init__(self, subject: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{subject}: {message}")
        self.subject = subject
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str], dict[str, object]]:
        """Pickled as what it was made of, and not as its text."""
        return type(self), (self.subject, self.message), {"hint": self.hint}

    def problem(self, *, hint: str = "") -> Problem:
        """The same as a problem to report; *hint* is used where the error brings none."""
        return Problem(subject=self.subject, message=self.message, hint=self.hint or hint)


class DamagedStoreError(DataError):
    """A store's own files are wrong: what the caller named is right, but nothing can be taken from it."""


class BoundImagesError(Exception):
    """Root of all errors that end the command; carries every problem that was found, not the first."""

    exit_code: ClassVar[ExitCode]

    def __init__(self, *problems: Problem) -> None:
        if not problems:
            raise RuntimeError("an error needs at least one problem to report")
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems

    @classmethod
    def of(cls, subject: str, message: str, *, where: str = "", hint: str = "") -> BoundImagesError:
        """An error with one problem."""
        return cls(Problem(subject=subject, message=message, where=where, hint=hint))


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


class InterruptedBySignal(BaseException):
    """A signal asked us to stop; like KeyboardInterrupt it passes every ``except Exception``."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


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
