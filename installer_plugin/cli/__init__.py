"""The command line; the only place that knows click."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from installer_plugin.errors import InterruptedBySignal
from installer_plugin.process.signals import interruptible


def main(args: Sequence[str] | None = None, prog_name: str | None = None) -> None:
    """Be the program: run what *args* say, None for those we were started with; ends the process.

    It can be interrupted from here on, also while what it needs is loaded.
    """
    try:
        with interruptible():
            from installer_plugin.cli.program import program  # noqa: PLC0415 - slow to load

            program(args, prog_name)
    except InterruptedBySignal as interruption:
        from installer_plugin.files.outlet import say  # noqa: PLC0415 - seldom needed

        hint = "everything it had started has ended; run the command again to go on"
        say(f"interrupted by {interruption.signal_name}: {hint}")
        sys.exit(interruption.exit_code)
