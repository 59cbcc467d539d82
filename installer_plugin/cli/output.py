"""How a command speaks and ends: result on stdout, everything else on stderr, signals, exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

import click

from installer_plugin.errors import (
    TRACEBACK_VARIABLE,
    BoundImagesError,
    HostError,
    caught,
)
from installer_plugin.events import OUTPUT, Events, JsonLinesSink, Sink, sink_for
from installer_plugin.files.outlet import Outlet, say
from installer_plugin.model import Finding
from installer_plugin.process.runner import Runner
from installer_plugin.request import Context
from installer_plugin.stages import report

PROGRESS_PATIENCE_SECONDS = 30.0
"""How long a program that asked for events may leave its pipe full before it gets no more."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command's words go."""

    json: bool
    context: Context

    def result(self, text: str, document: Mapping[str, object]) -> None:
        """Print what was asked for, in the chosen format; raises HostError when it cannot be."""
        self.print((json.dumps(document, indent=2) if self.json else text) + "\n")

    def print(self, text: str) -> None:
        """Print *text*, which is what was asked for; raises HostError when it cannot be written.

        A reader that has gone away has read enough.
        """
        try:
            _write(sys.stdout, text)
        except ConnectionError:
            return
        except OSError as error:
            message = f"the result cannot be written: {error.strerror}"
            hint = "send it to a place that has room and can be written"
            raise HostError.of("stdout", message, hint=hint) from error

    def done(self, text: str, document: Mapping[str, object]) -> None:
        """Print what was done, in the chosen format: it stays done when nobody gets to know."""
        try:
            self.result(text, document)
        except HostError as error:
            self.context.events.warn(OUTPUT, f"{error}; the work itself is done")

    def findings(self, findings: Sequence[tuple[str, Finding]]) -> None:
        """Show findings to people; the JSON documents carry them."""
        if findings and not self.json:
            say(report.findings_text(findings))

    def failure(self, error: BoundImagesError) -> None:
        """Show an error: always to people, and as the document that a program waits for."""
        if self.json:
            with suppress(OSError):  # the exit code says it too
                _write(sys.stdout, json.dumps(report.error_json(error), indent=2) + "\n")
        say(report.problems_text(error.problems))


def _write(stream: TextIO | None, text: str) -> None:
    """Write *text* to one of our own streams, which is None where it is closed; raises OSError."""
    if stream is not None:
        Outlet.of(stream).write(text)


def open_output(form: str, progress_fd: int | None, *, quiet: bool) -> Output:
    """The output of one command; raises click.BadParameter for a descriptor that is not open."""
    sinks: list[Sink] = []
    if sys.stderr is not None and not quiet:
        sinks.append(sink_for(sys.stderr, Outlet.of(sys.stderr)))
    if progress_fd is not None:
        _require_writable(progress_fd)
        outlet = Outlet(progress_fd, patience=PROGRESS_PATIENCE_SECONDS)
        sinks.append(JsonLinesSink(outlet, outlet.has_room))
    return Output(form == "json", Context(Runner(), Events(sinks), os.environ))


def _require_writable(fd: int) -> None:
    try:
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as error:
        message = f"{fd} is not an open file descriptor: {error.strerror}"
        raise click.BadParameter(message, param_hint="--progress-fd") from error
    if mode == os.O_RDONLY:
        message = f"{fd} is open for reading only, expected a descriptor to write to"
        raise click.BadParameter(message, param_hint="--progress-fd")


def run_to_exit(output: Output, body: Callable[[], None]) -> None:
    """Run a command's body and end the process with its exit code."""
    try:
        body()
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        known = caught(error)
        output.failure(known)
        sys.exit(known.exit_code)
