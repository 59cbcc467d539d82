"""How a command speaks and ends: result on stdout, everything else on stderr, signals, exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click

from installer_plugin.errors import (
    TRACEBACK_VARIABLE,
    BoundImagesError,
    ExitCode,
    InterruptedBySignal,
    caught,
)
from installer_plugin.events import Events, JsonLinesSink, Sink, sink_for
from installer_plugin.model import Finding
from installer_plugin.process.runner import Runner
from installer_plugin.process.signals import interruptible
from installer_plugin.request import Context
from installer_plugin.stages import report


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command's words go."""

    json: bool
    context: Context

    def result(self, text: str, document: Mapping[str, object]) -> None:
        """Print the result in the chosen format."""
        click.echo(json.dumps(document, indent=2) if self.json else text)

    def findings(self, findings: Sequence[tuple[str, Finding]]) -> None:
        """Show findings to people; the JSON documents carry them."""
        if findings and not self.json:
            click.echo(report.findings_text(findings), err=True)

    def failure(self, error: BoundImagesError) -> None:
        """Show an error: always to people, and as the document that a program waits for."""
        if self.json:
            click.echo(json.dumps(report.error_json(error), indent=2))
        click.echo(report.problems_text(error.problems), err=True)


def open_output(form: str, progress_fd: int | None, *, quiet: bool) -> Output:
    """The output of one command; raises click.BadParameter for a descriptor that is not open."""
    sinks: list[Sink] = [] if quiet else [sink_for(sys.stderr)]
    if progress_fd is not None:
        try:
            stream = os.fdopen(progress_fd, "w", closefd=False)
        except OSError as error:
            raise click.BadParameter(
                f"{progress_fd} is no open file descriptor: {error.strerror}",
                param_hint="--progress-fd",
            ) from error
        sinks.append(JsonLinesSink(stream))
    return Output(form == "json", Context(Runner(), Events(sinks), os.environ))


def run_to_exit(output: Output, body: Callable[[], None]) -> None:
    """Run a command's body and end the process with its exit code."""
    try:
        with interruptible():
            body()
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        known = caught(error)
        output.failure(known)
        sys.exit(known.exit_code)
    except InterruptedBySignal as interruption:
        hint = "everything it had started has ended; run the command again to go on"
        click.echo(f"interrupted by {interruption.signal_name}: {hint}", err=True)
        sys.exit(ExitCode.INTERRUPTED)
