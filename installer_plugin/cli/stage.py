"""The command ``stage``: one of our stages, for runners of hooks that are not ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

import click
from click.core import ParameterSource

from installer_plugin.cli import options as opt
from installer_plugin.cli.completion import sources
from installer_plugin.cli.options import PLACE, Given, options, request_of
from installer_plugin.cli.output import open_output, run_to_exit
from installer_plugin.errors import ConfigError
from installer_plugin.pipeline import Stage
from installer_plugin.request import Request
from installer_plugin.state.paths import with_absolute_paths
from installer_plugin.state.run_stage import run_stage
from installer_plugin.state.state_directory import StateDirectory

ANYWHERE = frozenset(("name", "state", "target", "format", "progress_fd", "quiet"))
"""Options that every stage takes; the others are remembered from stage discover."""


@click.command()
@click.argument("name", type=click.Choice([stage.value for stage in Stage]), metavar="NAME")
@click.option(
    "--state", type=PLACE, required=True, metavar="DIR", envvar="BOUND_IMAGES_STATE",
    help="Where the stages keep what they know; made if it is missing.  [env: BOUND_IMAGES_STATE]",
)  # fmt: skip
@click.option(
    "--source", metavar="ROOT", envvar="BOUND_IMAGES_SOURCE", shell_complete=sources,
    help="For stage discover: the OS image or root that is installed.  [env: BOUND_IMAGES_SOURCE]",
)  # fmt: skip
@click.option(
    "--target", type=PLACE, metavar="DIR", envvar="BOUND_IMAGES_TARGET",
    help="Where the target is mounted, as soon as it is.  [env: BOUND_IMAGES_TARGET]",
)  # fmt: skip
@options(
    opt.store,
    opt.lock,
    opt.engine,
    opt.other_architecture,
    opt.no_space_check,
    opt.backend,
    opt.scratch,
    opt.jobs,
    opt.receipt,
    opt.dry_run,
)
def stage(name: str, state: Path, source: str | None, **given: Unpack[Given]) -> None:
    """Run one stage of an installation.

    The stages are discover, resolve, preflight, copy, label, verify and record. They run in this
    order, each in a call of its own. Stage discover takes the options of 'copy';
    those after it find them in the state directory.
    """
    output = open_output(given["format"], given["progress_fd"], quiet=given["quiet"])
    asked = _asked_here()

    def body() -> None:
        directory = StateDirectory.open(state)
        wanted = Stage(name)
        kept = directory.read_request()
        if wanted is Stage.DISCOVER and (asked or kept is None):
            if source is None:
                raise _usage("--source", "is missing: stage discover has to know what is installed")
            directory.forget(Stage.DISCOVER)
            directory.write_request(with_absolute_paths(request_of(source, **given)))
        elif wanted is not Stage.DISCOVER and asked:
            raise _usage(
                ", ".join(asked),
                "belongs to stage discover: the stages after it find it in the state directory",
            )
        elif kept:
            _keep_target(directory, kept, given["target"])
        done = run_stage(wanted, directory, output.context)
        output.done(done.text, done.document)

    run_to_exit(output, body)


def _asked_here() -> tuple[str, ...]:
    """Options of this command line that are not for every stage; the environment is for all calls."""
    context = click.get_current_context()
    return tuple(
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in ANYWHERE
        and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )


def _keep_target(directory: StateDirectory, request: Request, target: Path | None) -> None:
    """Remember the target when it is named first; another one than before is an error."""
    if target is None:
        return
    target = target.absolute()
    if request.target is None:
        directory.write_request(replace(request, target=target))
    elif request.target != target:
        raise _usage("--target", f"is {target}, but was {request.target} for an earlier stage")


def _usage(option: str, message: str) -> ConfigError:
    hint = "see 'bootc-bound-images stage --help'"
    return ConfigError.of(option, message, hint=hint)


COMMANDS = {"stage": stage}
