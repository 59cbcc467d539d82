"""One installation under way: bootc with our stages around or inside it, and what it leaves proven."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from installer_plugin.block.base import OpenedTarget
from installer_plugin.block.luks import TokenError
from installer_plugin.block.owner_lock import opening
from installer_plugin.block.target import make_writable, open_target
from installer_plugin.block.undo_journal import close_stale
from installer_plugin.declared import configured
from installer_plugin.errors import (
    BoundImagesError,
    ConfigError,
    CopyError,
    HostError,
    PreflightError,
    SourceImageError,
    VerificationError,
)
from installer_plugin.events import Events, after_failure
from installer_plugin.expectations import expected_of_resolved
from installer_plugin.files.outlet import say
from installer_plugin.hooks.options import HookOptions
from installer_plugin.hooks.phases import Phase
from installer_plugin.hosts.bootc.abandoned import close_abandoned
from installer_plugin.hosts.bootc.boot_block import Unproven
from installer_plugin.hosts.bootc.boot_entries import held_back
from installer_plugin.hosts.bootc.bootc_cli import BootcInstall, SkipSpelling, Verb
from installer_plugin.hosts.bootc.disk_room import room_problems, system_bytes
from installer_plugin.hosts.bootc.entries_before import Before
from installer_plugin.hosts.bootc.finalize import finalize, writable
from installer_plugin.hosts.bootc.hook_phases import Phases, retarget
from installer_plugin.hosts.bootc.mode import Mode, When, choose_mode, situation_of
from installer_plugin.hosts.bootc.podman_shim import shim_script
from installer_plugin.hosts.bootc.shim_session import EVENTS, Outcome, Session
from installer_plugin.hosts.bootc.target_checks import require_opening, require_target
from installer_plugin.hosts.bootc.watchdog import Guard, guarding
from installer_plugin.image_json import parse_verified
from installer_plugin.model import ResolvedImage, VerifiedImage
from installer_plugin.opening import UnopenedError
from installer_plugin.pipeline import Stage, check
from installer_plugin.process.foreign_texts import last_error_of_bootc
from installer_plugin.process.runner import Command, CommandError
from installer_plugin.proving import verify_target
from installer_plugin.request import TARGET_ITSELF, Work
from installer_plugin.stages import report
from installer_plugin.stages.label import CHECK as LABELS
from installer_plugin.stages.preflight import check_labelling
from installer_plugin.stages.verify import CHECKS, CONTENT, VerifyOptions
from installer_plugin.state.event_relay import relayed
from installer_plugin.state.job import Job
from installer_plugin.state.state_directory import StateDirectory, damaged_is_an_error
from installer_plugin.storage.selinux import Policy

STAGE = "install"
COMPOSEFS_WARNING = (
    "the composefs backend of bootc (seen up to 1.16) keeps only the OS image when it cleans up, and "
    "fetches no bound images: the next 'bootc switch' or 'bootc upgrade' removes all of them at once, "
    "from the running system too; run 'podman pull' or install again after it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What the user asked for."""

    bootc: BootcInstall
    when: When = When.AUTO
    keep: bool = False
    """Whether a target that failed may boot all the same."""
    hooks: HookOptions = field(default_factory=HookOptions)
    verify_again: bool = False
    """Whether the finished disk is read once more as a whole."""

    @property
    def disk(self) -> Path | None:
        """The disk or disk image that is installed to."""
        return self.bootc.target if self.bootc.verb is Verb.TO_DISK else None


@dataclass(frozen=True, slots=True)
class Found:
    """What is known once everything has been looked at."""

    images: tuple[ResolvedImage, ...]
    mode: Mode
    composefs: bool
    """Whether bootc takes its composefs backend."""


@dataclass(frozen=True, slots=True)
class Run:
    """One installation under way."""

    asked: InstallRequest
    work: Work
    """Its request has no target: only bootc knows where it mounts one."""
    folder: Path
    """Private directory of this installation."""
    state: StateDirectory
    phases: Phases

    def require_target(self) -> None:
        """Take back what a killed run has left; raises for a target that cannot be one."""
        state, runner = self.work.opening.state, self.work.runner
        if not self.work.request.dry_run:
            close_abandoned(state, self.work.context)
        with opening(state):
            for problem in close_stale(state, runner):
                self.work.events.warn(STAGE, f"an earlier run left {problem}")
        require_opening(self.asked.bootc, self.work.opening)
        require_target(self.asked.bootc, runner)

    @contextmanager
    def target_forgotten(self) -> Iterator[None]:
        """Tell cleanup hooks of no target that is mounted no more."""
        try:
            yield
        except BaseException:
            with after_failure(
                self.work.events, STAGE, "cleanup hooks may hear of a target that is gone"
            ):
                self._forget_target()
            raise
        self._forget_target()

    def _forget_target(self) -> None:
        target = self.asked.bootc.target
        there = target if target.is_dir() else None
        self.state.write_request(replace(self.work.request, target=there))

    def prepare(self) -> None:
        """Run the phase in which the target is untouched; what is wrong is told all at once."""
        try:
            self.phases.run(Phase.PRE_INSTALL)
        except (SourceImageError, PreflightError):
            # A stage knows its own problems only.
            check(self.work.telling(Events()))
            raise

    def _approved(self) -> tuple[ResolvedImage, ...]:
        """What was found before bootc; looked for here where hooks stand in for our stages."""
        if self.state.has(Stage.PREFLIGHT):
            return Job(self.state, self.work, own=True).known().images
        return check(self.work.telling(Events())).images

    def look(self, *, can_run_shim: bool) -> Found:
        """The images, and the way to take for them; says which and why. Raises PreflightError."""
        images = self._approved()
        situation = situation_of(self.asked.bootc, self.work, images, can_run_shim=can_run_shim)
        composefs = self.asked.bootc.composefs or situation.composefs_image
        if not images:
            return Found((), Mode(When.AFTER, report.NOTHING), composefs)
        if situation.policy:
            _require_labelling(situation.policy)
        self._require_room(images, composefs=composefs)
        mode = choose_mode(self.asked.when, situation)
        self.work.events.step(STAGE, f"mode: {mode.when} ({mode.reason})")
        if composefs:
            self.work.events.warn(STAGE, COMPOSEFS_WARNING)
        return Found(images, mode, composefs)

    def _require_room(self, images: tuple[ResolvedImage, ...], *, composefs: bool) -> None:
        install = self.asked.bootc
        if install.verb is not Verb.TO_DISK or self.work.request.no_space_check:
            return
        with configured():
            system = system_bytes(self.work.telling(Events()))
        if system is None:
            said = "the size of the OS image is not known here: only its images' is checked"
            self.work.events.step(STAGE, said)
        problems = room_problems(install, images, system=system or 0, composefs=composefs)
        if problems:
            raise PreflightError(*problems)

    def install(self, found: Found, spelling: SkipSpelling) -> tuple[VerifiedImage, ...]:
        """Let bootc install in the mode that was found, and prove what it has left."""
        target = self.asked.bootc.target
        unproven = Unproven(before=Before.look(target.absolute()), opening=self.work.opening)
        # Without images there is nothing without which the target must not boot.
        keep = self.asked.keep or not found.images
        with guarding(unproven, self.work.context, keep=keep) as guard:
            if not found.images:
                self.bootc(without_any(self.asked.bootc, self.work, spelling), guard)
                return ()
            if found.mode.when is When.DURING:
                with guard.protected():
                    self.during(found.images, guard)
            else:
                self.after(spelling, guard)
            with guard.protected(once_more=True):
                return self.proven(found)

    def bootc(
        self,
        argv: tuple[str, ...],
        guard: Guard,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Run bootc, its output streaming through; raises HostError with its exit code."""
        purpose = f"install to {self.asked.bootc.target}"
        command = Command(argv=guard.bound_argv(argv), purpose=purpose, env=env)
        try:
            self.work.runner.follow(command, say)
        except CommandError as error:
            # All of it was shown as it came.
            told = CommandError(command, error.ending, last_error_of_bootc(error.stderr))
            raise HostError(
                told.problem(" ".join(argv[:3]), hint="see what bootc has said above")
            ) from error

    def during(self, images: Sequence[ResolvedImage], guard: Guard) -> None:
        """Let bootc come to its copying, and be there in its place."""
        names = tuple(dict.fromkeys(image.bound.bootc_name or "" for image in images))
        session = Session(
            folder=self.folder,
            owner=os.getpid(),
            expected=names,
            keep=self.asked.keep,
            hooks=self.asked.hooks,
            disk=self.asked.disk,
            record=guard.record,
            spare=guard.unproven.before.entries,
        )
        session.save()
        programs = self.folder / "bin"
        programs.mkdir()
        shim = programs / "podman"
        shim.write_text(shim_script(self.folder))
        shim.chmod(0o755)
        path = f"{programs}:{os.environ.get('PATH', os.defpath)}"
        try:
            with relayed(self.folder / EVENTS, self.work.events):
                self.bootc(self.asked.bootc.argv, guard, {"PATH": path})
        except HostError as error:
            outcome = Outcome.load(self.folder)
            if outcome and outcome.exit_code:
                raise _failure(outcome) from error
            raise
        outcome = Outcome.load(self.folder)
        if outcome and outcome.exit_code:
            raise _failure(outcome)  # a bootc that only warns of it
        if outcome is None:
            raise HostError.of(
                "bootc install",
                "ended well without having asked for the bound images",
                hint="use --when=after, and tell us about your version of bootc",
            )

    def after(self, spelling: SkipSpelling, guard: Guard) -> None:
        """Let bootc install without bound images, then do the rest on its target."""
        install, keep, spare = self.asked.bootc, self.asked.keep, guard.unproven.before.entries
        with guard.protected():
            self.bootc(install.argv_without_images(spelling), guard)
            with self._target() as (root, *boot):
                retarget(self.state, self.work.request, root)
                places, events = (root, *boot), self.work.events
                with held_back(places, events, keep=keep, spare=spare) as held:
                    if held:
                        guard.over()
                    self.phases.run(Phase.POST_INSTALL)
                    self.phases.run(Phase.VERIFY)
                if not install.skip_finalize:
                    self._finalize(root)

    def proven(self, found: Found) -> tuple[VerifiedImage, ...]:
        """Look at the finished target once more, whatever bootc has said.

        Content that this run has read from the disk is not read again, unless that is asked for.

        What was proven while bootc held the target stands where it cannot be opened by what we were
        given, such as a disk that another machine's TPM opens. What is wrong with the disk is an error.
        """
        target, before = self.asked.bootc.target, self._proven_before()
        known = frozenset(image.image_id for image in before if CONTENT in image.checks)
        options = VerifyOptions(
            workers=self.work.request.jobs,
            proven=frozenset() if self.asked.verify_again else known,
        )
        request = replace(
            self.work.request, source=TARGET_ITSELF, target=target, receipts=(), lock=None
        )
        also = expected_of_resolved(found.images)
        try:
            images = verify_target(self.work.asking(request), also, options)
        except (UnopenedError, TokenError) as error:
            proven = {each.image_id for each in before if CONTENT in each.checks}
            if found.mode.when is not When.DURING or not proven.issuperset(
                image.image_id for image in found.images
            ):
                raise
            said = f"proven while bootc held it, and could not be opened again: {error}"
            self.work.events.warn(STAGE, f"{target}: {said}")
            return before
        return tuple(_with_checks_of(before, image) for image in images)

    def _proven_before(self) -> tuple[VerifiedImage, ...]:
        """What stage verify has proven; nothing where a hook stands in for it."""
        if not self.state.has(Stage.VERIFY):
            return ()
        with damaged_is_an_error():
            return tuple(map(parse_verified, self.state.read(Stage.VERIFY).objects("images")))

    @contextmanager
    def _target(self) -> Iterator[tuple[Path, ...]]:
        """The target's root to be written, and boot file systems beside it.

        What fails there is told by the disk's name.
        """
        named, runner = self.asked.bootc.target, self.work.runner
        opening = replace(self.work.opening, with_boot=True)
        with open_target(named, opening, runner, self.work.events) as target, _told(target):
            make_writable(target, runner)
            with nullcontext() if target.device else writable(target.physical_root, runner):
                yield target.physical_root, *target.boot

    def _finalize(self, root: Path) -> None:
        try:
            finalize(root, self.work.runner)
        except CommandError as error:
            hint = "the images are there and proven; look at the file system"
            raise HostError(error.problem(str(root), hint=hint)) from error


def _require_labelling(policy: Policy) -> None:
    """Raise PreflightError where nothing here can label by *policy*."""
    problems = tuple(check_labelling(policy))
    if problems:
        raise PreflightError(*problems)


def without_any(install: BootcInstall, work: Work, spelling: SkipSpelling) -> tuple[str, ...]:
    """The call for an image that declares none; / may declare others, which are not its own."""
    if work.request.source == "/":
        return install.argv
    return install.argv_without_images(spelling, keep_open=False)


def _with_checks_of(before: Sequence[VerifiedImage], image: VerifiedImage) -> VerifiedImage:
    """*image* with the checks that the same image has passed in this run already."""
    same = (each for each in before if each.image_id == image.image_id)
    passed = {*image.checks, *(check for each in same for check in each.checks)}
    return replace(image, checks=tuple(each for each in (*CHECKS, LABELS) if each in passed))


@contextmanager
def _told(target: OpenedTarget) -> Iterator[None]:
    """Have what goes wrong with an open target told by the name that the caller knows."""
    try:
        yield
    except CommandError as error:
        raise HostError(error.problem(str(target.named), hint="see how it is mounted")) from error
    except BoundImagesError as error:
        raise error.retold(target.retold) from error
    except OSError as error:
        message = f"cannot be written: {error.strerror} ({error.filename})"
        hint = "see how it is mounted, and whether it is full"
        raise HostError.of(str(target.named), message, hint=hint) from error


def _failure(outcome: Outcome) -> BoundImagesError:
    """What the shim reported, as the error it was there."""
    kinds = (SourceImageError, PreflightError, CopyError, VerificationError, HostError, ConfigError)
    kind = next((kind for kind in kinds if kind.exit_code == outcome.exit_code), HostError)
    return kind(*outcome.problems)
