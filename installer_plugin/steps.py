"""The steps of the recipe: each gives a stage what the work and the knowledge so far hold, and adds to it.

A step that finds something missing in its knowledge takes the steps that come before it itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from installer_plugin import __version__
from installer_plugin.declarations.os_platform import platform_of
from installer_plugin.declared import configured, declarations
from installer_plugin.errors import (
    BoundImagesError,
    PreflightError,
    Problem,
    SourceImageError,
    joined,
)
from installer_plugin.events import counted
from installer_plugin.expectations import (
    expected_of_bound,
    expected_of_resolved,
    merged,
)
from installer_plugin.model import (
    BoundImage,
    CopiedImage,
    Finding,
    ImageId,
    ResolvedImage,
    SourceKind,
    VerifiedImage,
)
from installer_plugin.opening import Opened, read_lock, require_target, scratch_places
from installer_plugin.proving import policy_for, prove
from installer_plugin.receipt import Receipt
from installer_plugin.request import Work
from installer_plugin.stages.copy import CopyOptions, copy, rolled_back_on_failure
from installer_plugin.stages.discover import LINKS, Discovered
from installer_plugin.stages.label import label
from installer_plugin.stages.preflight import (
    MINIMUM_VERSIONS,
    Plan,
    bootc_findings,
    preflight,
    tool_version,
)
from installer_plugin.stages.record import creation_time, pair, receipt_problems, record
from installer_plugin.stages.resolve import Resolution, resolve
from installer_plugin.stages.retract import retracted_if_refuted
from installer_plugin.stages.verify import VerifyOptions
from installer_plugin.storage.base import EngineChoice
from installer_plugin.storage.engine.select import (
    Selected,
    Surroundings,
    required_tools,
    select_engines,
)
from installer_plugin.storage.engine.source_layers import Whole
from installer_plugin.storage.layer.read_back import ReadBack
from installer_plugin.storage.source.signature_policy import load_policy


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the bound images; None or empty is what no step has found out yet."""

    discovered: Discovered | None = None
    resolution: Resolution | None = None
    problems: tuple[Problem, ...] = ()
    """What preflight found; those of discovery and resolution are in there."""
    selected: tuple[Selected, ...] | None = None
    """The images with their engines."""
    findings: tuple[tuple[str, Finding], ...] = ()
    """Each with the reference it is about."""
    whole: Whole = field(default_factory=dict)
    """Stored layers that preflight has looked at; a second look skips them."""
    copied: tuple[CopiedImage, ...] | None = None
    read_back: tuple[ReadBack, ...] = ()
    """Layers that were proven while others were copied."""
    tools: Mapping[str, str] | None = None
    """Versions of the programs that took part."""
    verified: tuple[VerifiedImage, ...] | None = None

    @property
    def bound(self) -> tuple[BoundImage, ...]:
        """The declared images; none when the declarations were not read."""
        return self.discovered.images if self.discovered else ()

    @property
    def images(self) -> tuple[ResolvedImage, ...]:
        """The images that were found; none when nobody has looked for them."""
        return self.resolution.images if self.resolution else ()

    def require_clear(self) -> None:
        """Raise every problem at once, with the exit code of the first to act on."""
        errors: list[BoundImagesError] = []
        if self.discovered and self.discovered.problems:
            errors.append(SourceImageError(*self.discovered.problems))
        unresolved = self.resolution.problems if self.resolution else ()
        if unresolved or self.problems:
            errors.append(PreflightError(*unresolved, *self.problems))
        if errors:
            raise joined(errors)


# --- the target is untouched -------------------------------------------------------------------


def discovered(work: Work, opened: Opened, known: Known) -> Known:
    """Read the declarations of the source."""
    work.events.step("discover", f"reading {LINKS} of {opened.root.label}")
    return replace(known, discovered=declarations(work, opened.root))


def resolved(work: Work, opened: Opened, known: Known) -> Known:
    """Look for every declared image in the stores."""
    if known.discovered is None:
        known = discovered(work, opened, known)
    work.events.step("resolve", f"looking for {counted(len(known.bound), 'image')}")
    with configured():
        return replace(known, resolution=resolve(known.bound, opened.sources.all))


def checked(work: Work, opened: Opened, known: Known) -> Known:
    """Check tools, engines, space, lock file and target."""
    if known.resolution is None:
        known = resolved(work, opened, known)
    if known.bound:
        creation_time(work.context.env)
    stored = [x for x in known.images if x.source.kind is SourceKind.CONTAINERS_STORAGE]
    opened.crew.expect(sum(image.size for image in stored))
    known = _with_engines(work, opened, known)
    target = require_target(work.request) if work.request.target else None
    with configured():
        plan = Plan(
            images=known.images,
            policy=policy_for(target, opened) if target else None,
            selected=known.selected or (),
            stores=opened.sources.graph_roots,
            direct_only=work.request.engine is EngineChoice.DIRECT,
            target=target,
            closed_for_now=opened.disk is not None and opened.disk.read_only,
            scratch=scratch_places(work, target) if target else (),
            any_room=work.request.no_space_check,
            lock=read_lock(work.request),
            machine=None if work.request.allow_other_architecture else platform_of(opened.root),
            whole=known.whole,
        )
        work.events.step("preflight", "checking tools, space and target")
        found = preflight(plan, opened.crew, work.runner)
        problems = (*found.problems, *receipt_problems(work.request.receipts))
    declared = ((image.reference, finding) for image in known.bound for finding in image.findings)
    findings = (*declared, *bootc_findings(known.images))
    return replace(known, problems=problems, findings=findings, whole=found.whole)


def _with_engines(work: Work, opened: Opened, known: Known) -> Known:
    with configured():
        signatures = load_policy(work.context.system)
        surroundings = Surroundings(
            opened.sources.graph_roots, signatures, opened.crew, work.runner
        )
        selected = select_engines(work.request.engine, known.images, surroundings)
    return replace(known, selected=selected)


# --- the target is written ---------------------------------------------------------------------


def copied(work: Work, opened: Opened, known: Known) -> Known:
    """Copy what was approved; raises CopyError."""
    return _copied(work, opened, known, read_back=False)


def copied_and_read_back(work: Work, opened: Opened, known: Known) -> Known:
    """The same, and prove layers as soon as they are on the disk, while others are copied."""
    return _copied(work, opened, known, read_back=True)


def _copied(work: Work, opened: Opened, known: Known, *, read_back: bool) -> Known:
    if known.selected is None:
        known = _with_engines(work, opened, known)
    selected = known.selected or ()
    if not selected:
        return replace(known, copied=(), tools=tool_versions((), work))
    target = require_target(work.request)
    scratch = scratch_places(work, target)
    options = CopyOptions(selected=selected, scratch=scratch, read_back=read_back)
    there = copy(target, options, work.events, work.runner)
    tools = tool_versions(selected, work)
    return replace(known, copied=there.images, read_back=there.read_back, tools=tools)


def labelled(work: Work, opened: Opened, known: Known) -> Known:
    """Label the target store by the policy that will judge it; raises CopyError."""
    target = require_target(work.request)
    with configured():
        policy = policy_for(target, opened)
    with rolled_back_on_failure(target, work.events):
        label(target.graph_root, policy, work.events, work.runner)
    return known


# --- the target is read ------------------------------------------------------------------------


def verified(work: Work, opened: Opened, known: Known) -> Known:
    """Prove what was copied, and what is declared; what is refuted is taken away again."""
    return _verified(work, opened, known, frozenset())


def compared(work: Work, opened: Opened, known: Known) -> Known:
    """The same but for the content of files, which somebody reads from the finished disk."""
    images = frozenset(each.resolved.image_id for each in known.copied or ())
    return _verified(work, opened, known, images)


def _verified(
    work: Work, opened: Opened, known: Known, without_content: frozenset[ImageId]
) -> Known:
    options = VerifyOptions(
        workers=work.request.jobs, proven=without_content, read_back=known.read_back
    )
    target = require_target(work.request)
    images = [each.resolved for each in known.copied or ()]
    demands = merged((*expected_of_bound(known.bound, ""), *expected_of_resolved(images)))
    if not demands:
        return replace(known, verified=())
    with configured():
        policy = policy_for(target, opened)
    with retracted_if_refuted(known.copied or (), target, work.events):
        return replace(known, verified=prove(work, opened.crew, demands, policy, options))


def receipt_of(work: Work, known: Known) -> Receipt:
    """The receipt of what was copied and proven."""
    return Receipt(
        source=work.request.receipt_source or work.request.source,
        with_places=not work.request.receipt_source,
        created=creation_time(work.context.env),
        tools=known.tools or tool_versions((), work),
        images=pair(known.copied or (), known.verified or ()),
    )


def recorded(work: Work, _opened: Opened, known: Known) -> Known:
    """Write the receipt on the target and where the user wants it; raises CopyError."""
    target = require_target(work.request)
    record(receipt_of(work, known), (target.receipt, *work.request.receipts))
    return known


# --- what several of them need -----------------------------------------------------------------


def tool_versions(selected: Sequence[Selected], work: Work) -> Mapping[str, str]:
    """Our own version and those of the programs that copy *selected*."""
    tools = required_tools(selected)
    versions = {tool: tool_version(tool, work.runner) for tool in tools if tool in MINIMUM_VERSIONS}
    return {"bootc-bound-images": __version__, **versions}
