"""A build with image-builder: looked at before, with our ``osbuild`` in PATH, proven after."""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from installer_plugin.errors import HostError, PreflightError, Problem
from installer_plugin.files.scratch import scratch_directory
from installer_plugin.hosts.image_builder.builder_cli import Builder, BuilderLine
from installer_plugin.hosts.image_builder.exports import Build, Export, prove_exports
from installer_plugin.hosts.image_builder.library import DEFAULT, require_library
from installer_plugin.hosts.image_builder.mode import When
from installer_plugin.hosts.image_builder.os_content import OsImageContent
from installer_plugin.hosts.image_builder.os_image import read_os_image
from installer_plugin.hosts.image_builder.osbuild_front import PROGRAM, REAL
from installer_plugin.hosts.image_builder.session import (
    EVENTS,
    PROGRAMS,
    BuildOutcome,
    BuildSession,
)
from installer_plugin.process.runner import Command, find_tool, our_program_argv
from installer_plugin.request import Work
from installer_plugin.stages import report
from installer_plugin.state.event_relay import relayed

STAGE = "image-builder"
INSTALL = {
    Builder.IMAGE_BUILDER: "install image-builder",
    Builder.BOOTC_IMAGE_BUILDER: "install image-builder, under that name as well",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What the user asked for."""

    line: BuilderLine
    when: When = When.AUTO
    library: Path = DEFAULT
    """osbuild's library directory."""
    verify_again: bool = False
    """Whether the content is read in the build too, not only from the finished disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A build that is over."""

    mode: str
    reason: str
    exports: tuple[Export, ...]
    content: OsImageContent
    planned: bool = False
    """Whether nothing was built: a dry run."""


def pass_through(line: BuilderLine) -> NoReturn:
    """Become the program itself, for calls in which bootc installs nothing; raises PreflightError."""
    _require_tool(str(line.builder), INSTALL[line.builder])
    os.execvp(line.argv[0], line.argv)  # noqa: S606 - no shell is wanted


def build(asked: BuildRequest, work: Work) -> Built:
    """Check, build, prove; raises every error that has an exit code of its own."""
    _require_tools(asked)
    content = read_os_image(asked.line.image, work)
    if content.images:
        work.events.step(STAGE, f"{len(content.images)} bound images of {asked.line.image}")
    if work.request.dry_run:
        return Built(mode="", reason="", exports=(), content=content, planned=True)
    with scratch_directory(Path(tempfile.gettempdir())) as folder:
        outcome = _run(asked, content, folder, work)
        exports = _exports(asked, content, outcome, work)
    return Built(mode=outcome.mode, reason=outcome.reason, exports=exports, content=content)


def _exports(
    asked: BuildRequest, content: OsImageContent, outcome: BuildOutcome, work: Work
) -> tuple[Export, ...]:
    if not outcome.images:
        work.events.step(STAGE, report.NOTHING)
        return ()
    build = Build(image=asked.line.image, content=content, verify_again=asked.verify_again)
    return tuple(prove_exports(outcome, build, work))


def _run(asked: BuildRequest, content: OsImageContent, folder: Path, work: Work) -> BuildOutcome:
    """Run the builder with our osbuild first in PATH; raises what that one found, and HostError."""
    line = asked.line
    session = BuildSession(
        folder=folder,
        when=asked.when,
        larger=line.larger,
        library=asked.library.absolute(),
        request=replace(work.request, lock=work.request.lock and work.request.lock.absolute()),
        verify_again=asked.verify_again,
        known=content,
    )
    session.save()
    command = Command(
        argv=line.argv, purpose=f"build disks of {line.image}", env={"PATH": _path(folder)}
    )
    with relayed(folder / EVENTS, work.events):
        code = work.runner.attach(command)
    outcome = BuildOutcome.load(folder)
    if outcome is not None and outcome.problems:
        raise outcome.error()
    if code:
        raise HostError.of(
            shlex.join(line.argv[:2]),
            f"failed with exit code {code}",
            hint=f"see what {line.builder} has said above",
        )
    if outcome is None:
        raise HostError.of(
            shlex.join(line.argv[:2]),
            "ended well without having called osbuild through PATH: nothing is guaranteed",
            hint="use 'bootc-bound-images osbuild-manifest', and report your version of it",
        )
    return outcome


def _path(folder: Path) -> str:
    """PATH with our osbuild first."""
    programs = folder / PROGRAMS
    programs.mkdir()
    program = programs / REAL
    call = shlex.join(our_program_argv(PROGRAM, str(folder)))
    program.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
    program.chmod(0o755)
    return f"{programs}:{os.environ.get('PATH', os.defpath)}"


def _require_tools(asked: BuildRequest) -> None:
    problems = [
        _no_tool(tool, hint)
        for tool, hint in (
            (str(asked.line.builder), INSTALL[asked.line.builder]),
            (REAL, "install osbuild"),
        )
        if find_tool(tool) is None
    ]
    if problems:
        raise PreflightError(*problems)
    if asked.when in (When.AUTO, When.STAGE):
        require_library(asked.library)


def _require_tool(tool: str, hint: str) -> None:
    if find_tool(tool) is None:
        raise PreflightError(_no_tool(tool, hint))


def _no_tool(tool: str, hint: str) -> Problem:
    message = "is not in PATH, expected the program"
    return Problem(subject=tool, message=message, hint=hint)
