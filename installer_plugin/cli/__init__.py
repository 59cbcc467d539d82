"""The command line; the only place that knows click."""

from installer_plugin.cli.program import main

__all__ = ["main"]
