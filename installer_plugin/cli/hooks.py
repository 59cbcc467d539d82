"""The command ``hooks list``: what would run, in order, from where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import click

from installer_plugin.cli.options import DIRECTORY, Given, speech
from installer_plugin.cli.output import Output, open_output, run_to_exit
from installer_plugin.errors import HostError
from installer_plugin.files.rootfs import printable
from installer_plugin.hooks.directories import hook_directories
from installer_plugin.hooks.plan import BUILT_IN, PhasePlan, Planned, plans, require_allowed
from installer_plugin.stages import report


@click.group()
def hooks() -> None:
    """Programs of yours that run during an installation."""


@hooks.command("list")
@click.option(
    "--root", type=DIRECTORY, default="/", show_default=True, metavar="DIR",
    help="Look below this root directory, such as that of an image.",
)  # fmt: skip
@click.option(
    "--unsafe-skip-verify", is_flag=True,
    help="Accept a hook or mask in place of 50-verify, the proof.",
)  # fmt: skip
@speech
def list_hooks(root: Path, *, unsafe_skip_verify: bool, **given: Unpack[Given]) -> None:
    """Show what would run in an installation, in its order.

    That is: our own stages, hooks, and what hooks override.

    Hooks are executables /etc/bootc-bound-images/hooks.d/PHASE.d/NN-NAME; PHASE is one of
    pre-install, post-install, verify, cleanup. The same directories are read below /run,
    /usr/local/lib and /usr/lib; a name in an earlier one replaces it in a later one, and a link to
    /dev/null masks it. Fails (exit 7) when a hook is there that will be refused.
    """
    output = open_output(given["format"], given["progress_fd"], quiet=given["quiet"])

    def body() -> None:
        found = plans(hook_directories(root), unsafe_skip_verify=unsafe_skip_verify)
        listed = tuple(found.values())
        document = report.document(
            "hooks",
            str(root),
            hooks=[_json(each) for plan in listed for each in plan.hooks],
            ignored=[str(path) for plan in listed for path in plan.ignored],
            problems=[report.problem_json(p) for plan in listed for p in plan.problems],
        )
        output.result(_text(listed), document)
        _warn(listed, output)
        try:
            require_allowed(*listed)
        except HostError as error:
            # The JSON document has the problems already: they are told to people only.
            Output(json=False, context=output.context).failure(error)
            sys.exit(error.exit_code)

    run_to_exit(output, body)


def _warn(listed: Sequence[PhasePlan], output: Output) -> None:
    for plan in listed:
        for path in plan.ignored:
            message = f"{printable(str(path))} is ignored: hooks are named NN-name"
            output.context.events.warn("hooks", message)


def _text(listed: Sequence[PhasePlan]) -> str:
    rows = [_row(each) for plan in listed for each in plan.hooks]
    return report.table(("PHASE", "NO", "NAME", "FILE", "NOTE"), rows)


def _row(hook: Planned) -> tuple[str, ...]:
    number, _, name = hook.name.partition("-")
    file, notes = str(hook.file or BUILT_IN), []
    if hook.masked:
        notes.append(f"masked by {file}")
        file = next(iter(hook.overrides), "none")
    elif hook.overrides:
        notes.append(f"overrides {', '.join(hook.overrides)}")
    if hook.problems:
        notes.append("refused")
    return hook.phase, number, name, printable(file), printable("; ".join(notes))


def _json(hook: Planned) -> report.Document:
    number, _, name = hook.name.partition("-")
    return {
        "phase": str(hook.phase),
        "number": int(number),
        "name": name,
        "basename": hook.name,
        "file": str(hook.file) if hook.file else None,
        "built_in": hook.file is None,
        "masked": hook.masked,
        "refused": bool(hook.problems),
        "overrides": list(hook.overrides),
    }


COMMANDS = {"hooks": hooks}
