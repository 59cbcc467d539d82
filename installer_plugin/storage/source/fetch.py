"""An OS image from elsewhere, brought into a throw-away store so that its files can be read."""

from __future__ import annotations

from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.process.runner import Command, CommandError, Runner
from installer_plugin.storage.tool_argv import copy_argv

NAME = "localhost/source:1"
"""What the image is called in the throw-away store."""


def fetch_image(source: str, scratch: Path, runner: Runner) -> Path:
    """Copy the image *source* (one of TRANSPORTS) and return the graph root it is in.

    What is in *scratch* from an earlier call is taken, whatever *source* has by now. Raises DataError
    when it cannot be had.
    """
    store, done = scratch / "fetched", scratch / "fetched.done"
    if done.exists():
        return store
    target = f"containers-storage:[overlay@{store}+{scratch / 'run-fetched'}]{NAME}"
    command = Command(argv=copy_argv(source, target, scratch), purpose=f"read {source}")
    try:
        runner.run(command)
    except CommandError as error:
        raise DataError(
            source,
            f"cannot be read: {error.problem(source).message}",
            hint="check the source image's transport and name",
        ) from error
    done.touch()
    return store
