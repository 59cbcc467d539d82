"""``install``: the caller's ``bootc install`` line, with bound images guaranteed.

The recipe: everything that can be known first; then bootc, in one of two ways (see ``way``); then what
bootc has claimed is read back from the disk.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from installer_plugin.block.base import OpenOptions
from installer_plugin.block.opened import make_writable, open_target
from installer_plugin.errors import (
    BoundImagesError,
    ConfigError,
    CopyError,
    HostError,
    PreflightError,
    Problem,
    SourceImageError,
    VerificationError,
)
from installer_plugin.events import Events
from installer_plugin.hooks.phases import Phase
from installer_plugin.hosts.boot_entries import held_back
from installer_plugin.hosts.bootc_args import BootcInstall, SkipSpelling, Verb, skip_spelling
from installer_plugin.hosts.finalize import finalize
from installer_plugin.hosts.phases import HookOptions, Phases, retarget
from installer_plugin.hosts.relay import relayed
from installer_plugin.hosts.shim import EVENTS, Outcome, Session, shim_script
from installer_plugin.hosts.way import Situation, Way, When, choose_way
from installer_plugin.model import ResolvedImage, VerifiedImage
from installer_plugin.pipeline import Checked, check, verify_target
from installer_plugin.process import Command, CommandError, find_tool
from installer_plugin.request import Context, Request, configured, open_root
from installer_plugin.rootfs import Rootfs
from installer_plugin.staged.directory import StateDirectory
from installer_plugin.storage.conf import load_storage_conf
from installer_plugin.storage.scratch import scratch_directory

BOOTC = "bootc"
STAGE = "install"
MODULES = "usr/lib/modules"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What the user asked for."""

    bootc: BootcInstall
    request: Request
    """Without a target: only bootc knows where it mounts one."""
    when: When = When.AUTO
    keep: bool = False
    """Whether a target that failed may boot all the same."""
    hooks: HookOptions = field(default_factory=HookOptions)
    opening: OpenOptions = field(default_factory=OpenOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was done, or for a dry run what would be."""

    way: Way
    images: tuple[VerifiedImage, ...]
    plan: tuple[str, ...] = ()
    """Lines that say what would be done; empty when it was done."""


def install(asked: InstallRequest, context: Context) -> Installed:
    """Install with bootc; on return every bound image is on the target, proven.

    Raises what went wrong: before the disk is touched whenever that can be known.
    """
    with scratch_directory(Path(tempfile.gettempdir())) as work:
        state = StateDirectory.open(work / "state")
        state.write_request(asked.request)
        phases = Phases(state, asked.hooks, context)
        spelling = _bootc_spelling(asked.bootc, context)
        run = _Run(asked, context, work, state, phases)
        if asked.request.dry_run:
            _, way = run.choose()
            return Installed(way=way, images=(), plan=_plan(asked, way, spelling, phases))
        with phases.cleaned_up():
            phases.run(Phase.PRE_INSTALL)
            images, way = run.choose()
            if not images:
                run.bootc(asked.bootc.argv(), {})
                return Installed(way=way, images=())
            if way.when is When.DURING:
                run.during(images)
            else:
                run.after(spelling)
            return Installed(way=way, images=run.proven())


@dataclass(frozen=True, slots=True)
class _Run:
    """One installation under way."""

    asked: InstallRequest
    context: Context
    work: Path
    state: StateDirectory
    phases: Phases

    def choose(self) -> tuple[tuple[ResolvedImage, ...], Way]:
        """The images, and the way to take for them; says which and why."""
        quiet = replace(self.context, events=Events())  # the stages have told all of it
        checked = check(self.asked.request, quiet)
        way = choose_way(self.asked.when, _situation(self.asked, checked, self.context))
        self.context.events.step(STAGE, f"way in: {way.when} ({way.reason})")
        _warn_of_composefs(way, self.asked, self.context)
        return checked.images, way

    def bootc(self, argv: tuple[str, ...], env: dict[str, str]) -> None:
        """Run bootc, its output streaming through; raises HostError with its exit code."""
        purpose = f"install to {self.asked.bootc.target}"
        command = Command(argv=argv, purpose=purpose, env=env)
        try:
            self.context.runner.follow(command, _pass_through)
        except CommandError as error:
            hint = "see bootc's own message above"
            raise HostError(error.problem(" ".join(argv[:3]), hint=hint)) from error

    def during(self, images: Sequence[ResolvedImage]) -> None:
        """Let bootc come to its copying, and be there in its place."""
        names = tuple(dict.fromkeys(image.bound.bootc_name or "" for image in images))
        session = Session(
            folder=self.work,
            owner=os.getpid(),
            expected=names,
            keep=self.asked.keep,
            hooks=self.asked.hooks,
        )
        session.save()
        programs = self.work / "bin"
        programs.mkdir()
        shim = programs / "podman"
        shim.write_text(shim_script(sys.executable, self.work))
        shim.chmod(0o755)
        path = f"{programs}:{os.environ.get('PATH', os.defpath)}"
        try:
            with relayed(self.work / EVENTS, self.context.events):
                self.bootc(self.asked.bootc.argv(), {"PATH": path})
        except HostError as error:
            outcome = Outcome.load(self.work)
            if outcome and outcome.exit_code:
                raise _failure(outcome) from error
            raise
        if Outcome.load(self.work) is None:
            raise HostError(
                Problem(
                    subject="bootc install",
                    message="ended well without having asked for the bound images",
                    hint="use --when=after, and tell us about your version of bootc",
                )
            )

    def after(self, spelling: SkipSpelling) -> None:
        """Let bootc install without bound images, then do the rest on its target."""
        install = self.asked.bootc
        own = tuple(word for word in install.args if word != "--bound-images=stored")
        extra = [str(spelling)]
        if install.verb is Verb.TO_FILESYSTEM and not install.skip_finalize:
            extra.append("--skip-finalize")
        self.bootc(replace(install, args=own).argv(*extra), {})
        with self._target(read_only=False) as root:
            retarget(self.state, self.asked.request, root)
            with held_back(root, keep=self.asked.keep):
                self.phases.run(Phase.POST_INSTALL)
                self.phases.run(Phase.VERIFY)
            if not install.skip_finalize:
                self._finalize(root)

    def proven(self) -> tuple[VerifiedImage, ...]:
        """Read the finished target once more, whatever bootc has said."""
        with self._target(read_only=True) as root:
            request = replace(self.asked.request, target=root)
            return verify_target(request, self.context)

    @contextmanager
    def _target(self, *, read_only: bool) -> Iterator[Path]:
        options = replace(self.asked.opening, read_only=read_only)
        events, runner = self.context.events, self.context.runner
        with open_target(self.asked.bootc.target, options, runner, events) as opened:
            if not read_only:
                make_writable(opened, runner)
            yield opened.physical_root

    def _finalize(self, root: Path) -> None:
        try:
            finalize(root, self.context.runner)
        except CommandError as error:
            hint = "the images are there and proven; look at the file system"
            raise HostError(error.problem(str(root), hint=hint)) from error


def _pass_through(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _bootc_spelling(install: BootcInstall, context: Context) -> SkipSpelling:
    if find_tool(BOOTC) is None:
        raise PreflightError(
            Problem(
                subject=BOOTC,
                message="not found in PATH, expected it there",
                hint="run this inside the bootc image, or install bootc",
            )
        )
    asks = ((BOOTC, "--version"), (BOOTC, "install", install.verb, "--help"))
    try:
        version, help_text = (
            context.runner.run(Command(argv=argv, purpose="ask bootc what it can")).stdout.decode(
                errors="replace"
            )
            for argv in asks
        )
    except CommandError as error:
        raise PreflightError(error.problem(BOOTC, hint="see whether bootc runs at all")) from error
    return skip_spelling(version.strip(), help_text)


def _situation(asked: InstallRequest, checked: Checked, context: Context) -> Situation:
    with configured():
        conf = load_storage_conf(context.system, context.env)
        with open_root(asked.request, context) as root:
            uki = brings_uki(root)
    return Situation(
        install=asked.bootc,
        source=asked.request.source,
        bound=[image.bound for image in checked.images],
        resolved=checked.images,
        default_stores=frozenset(conf.stores),
        composefs_image=uki,
    )


def brings_uki(root: Rootfs) -> bool:
    """Whether the image has a unified kernel image, for which bootc takes its composefs backend."""
    folders = ["boot/EFI/Linux"]
    if root.is_dir(MODULES):
        folders += [f"{MODULES}/{version}" for version in root.list(MODULES)]
    names = (name for folder in folders if root.is_dir(folder) for name in root.list(folder))
    return any(name.endswith(".efi") for name in names)


def _warn_of_composefs(way: Way, asked: InstallRequest, context: Context) -> None:
    if asked.bootc.composefs or "composefs" in way.reason:
        context.events.warn(
            STAGE,
            "the composefs backend of bootc (seen up to 1.16) keeps only the OS image when it cleans "
            "up: its next upgrade will remove the bound images; run 'podman pull' or install again",
        )


def _failure(outcome: Outcome) -> BoundImagesError:
    """What the shim reported, as the error it was there."""
    kinds = (SourceImageError, PreflightError, CopyError, VerificationError, HostError, ConfigError)
    kind = next((kind for kind in kinds if kind.exit_code == outcome.exit_code), HostError)
    return kind(*outcome.problems)


def _plan(
    asked: InstallRequest, way: Way, spelling: SkipSpelling, phases: Phases
) -> tuple[str, ...]:
    """What would be done, in order: phases with their hooks, and commands."""

    def steps(phase: Phase) -> list[str]:
        hooks = phases.plans[phase].hooks
        return [
            f"{phase}: {hook.name} ({hook.file or 'built in'}{', masked' if hook.masked else ''})"
            for hook in hooks
        ]

    inside = [*steps(Phase.POST_INSTALL), *steps(Phase.VERIFY)]
    if way.when is When.DURING:
        lines = [
            "run: " + " ".join(asked.bootc.argv()),
            *(f"  in its copy step, {x}" for x in inside),
        ]
    else:
        lines = ["run: " + " ".join(asked.bootc.argv(str(spelling))), *inside]
    return (
        *steps(Phase.PRE_INSTALL),
        *lines,
        f"read back: {asked.bootc.target}",
        *steps(Phase.CLEANUP),
    )
