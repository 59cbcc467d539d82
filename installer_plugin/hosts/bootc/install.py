"""``install``: the caller's ``bootc install`` line, with bound images guaranteed.

The recipe: everything that can be known first; then bootc, in one of two modes (see ``mode``); then what
bootc has claimed is read back from the disk.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin.errors import (
    PreflightError,
)
from installer_plugin.files.scratch import scratch_directory
from installer_plugin.hooks.phases import Phase
from installer_plugin.hosts.bootc.bootc_cli import BootcInstall, SkipSpelling, skip_spelling
from installer_plugin.hosts.bootc.finalize import finalize_commands
from installer_plugin.hosts.bootc.hook_phases import Phases
from installer_plugin.hosts.bootc.mode import Mode, When
from installer_plugin.hosts.bootc.run import Found, InstallRequest, Run, without_any
from installer_plugin.model import VerifiedImage
from installer_plugin.process.runner import Command, CommandError, Runner, find_tool
from installer_plugin.request import Request, Work
from installer_plugin.state.paths import with_absolute_paths
from installer_plugin.state.state_directory import StateDirectory
from installer_plugin.storage.base import TRANSPORTS

BOOTC = "bootc"
HELD_BACK = "set aside: the boot entries that bootc has written"
GIVEN_BACK = "give back: the boot entries"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was done, or for a dry run what would be."""

    mode: Mode
    images: tuple[VerifiedImage, ...]
    plan: tuple[str, ...] = ()
    """Lines that say what would be done; empty when it was done."""


def install(asked: InstallRequest, work: Work) -> Installed:
    """Install with bootc; on return every bound image is on the target, proven.

    Raises what went wrong: before the disk is touched whenever that can be known.
    """
    place, can_run = _work_place()
    request = with_absolute_paths(work.request)
    with scratch_directory(place) as folder, _kept_source(request) as fetched:
        state = StateDirectory.open(folder / "state")
        work = work.asking(replace(request, fetched=fetched))
        state.write_request(work.request)
        phases = Phases(state, asked.hooks, work.context, asked.disk)
        with nullcontext() if request.dry_run else phases.cleaned_up():
            phases.require_allowed()
            spelling = _bootc_spelling(asked.bootc, work.runner)
            run = Run(asked, work, folder, state, phases)
            run.require_target()
            if request.dry_run:
                found = run.look(can_run_shim=can_run)
                return Installed(mode=found.mode, images=(), plan=_plan(run, found, spelling))
            with run.target_forgotten():
                run.prepare()
                found = run.look(can_run_shim=can_run)
                return Installed(mode=found.mode, images=run.install(found, spelling))


@contextmanager
def _kept_source(request: Request) -> Iterator[Path | None]:
    """Where an image from elsewhere is kept, so that all stages read the same one."""
    if not request.source.startswith(TRANSPORTS):
        yield None
        return
    with scratch_directory(request.scratch or Path(tempfile.gettempdir())) as kept:
        yield kept


def _work_place() -> tuple[Path, bool]:
    """Where we keep what bootc's children read, and whether programs can be started there.

    Not below /tmp where that can be helped: bootc mounts a file system of its own there
    (install.rs, setup_tmp_mounts).
    """
    places = (Path("/run"), Path("/var/lib"), Path(tempfile.gettempdir()))
    usable = [place for place in places if os.access(place, os.W_OK)]
    for place in usable:
        if not os.statvfs(place).f_flag & os.ST_NOEXEC:
            return place, True
    return usable[0], False


def _bootc_spelling(install: BootcInstall, runner: Runner) -> SkipSpelling:
    if find_tool(BOOTC) is None:
        raise PreflightError.of(
            BOOTC,
            "not found in PATH, expected it there",
            hint="run this inside the bootc image, or install bootc",
        )
    asks = ((BOOTC, "--version"), (BOOTC, "install", install.verb, "--help"))
    try:
        version, help_text = (
            runner.run(Command(argv=argv, purpose="ask bootc what it can")).stdout.decode(
                errors="replace"
            )
            for argv in asks
        )
    except CommandError as error:
        raise PreflightError(error.problem(BOOTC, hint="see whether bootc runs at all")) from error
    return skip_spelling(version.strip(), help_text)


def _plan(run: Run, found: Found, spelling: SkipSpelling) -> tuple[str, ...]:
    """What would be done, in order: phases with their hooks, and commands."""
    asked, phases = run.asked, run.phases

    def steps(phase: Phase) -> list[str]:
        hooks = phases.plans[phase].hooks
        return [
            f"{phase}: {hook.name} ({hook.file or 'built in'}{', masked' if hook.masked else ''})"
            for hook in hooks
        ]

    inside = [*steps(Phase.POST_INSTALL), *steps(Phase.VERIFY)]
    target = asked.bootc.target
    if not found.images:
        lines = [f"run: {shlex.join(without_any(asked.bootc, run.work, spelling))}"]
    elif found.mode.when is When.DURING:
        lines = [f"run: {shlex.join(asked.bootc.argv)}"]
        lines += [f"  in its copy step, {line}" for line in (HELD_BACK, *inside, GIVEN_BACK)]
        lines += [f"read back: {target}"]
    else:
        lines = [f"run: {shlex.join(asked.bootc.argv_without_images(spelling))}"]
        lines += [f"open: {target}", HELD_BACK, *inside, GIVEN_BACK]
        if not asked.bootc.skip_finalize:
            # A disk is mounted in a place that is made for it.
            root = Path("ROOT") if asked.disk else target
            finalizing = finalize_commands((root,), frozenset())
            lines += [f"finalize: {shlex.join(command.argv)}" for command in finalizing]
        lines += [f"read back: {target}"]
    return (*steps(Phase.PRE_INSTALL), *lines, *steps(Phase.CLEANUP))
