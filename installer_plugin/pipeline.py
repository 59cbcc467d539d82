"""The recipe: which stages run in which order, for each thing a user can ask for.

Nothing is written while a problem is known: all of them are raised together first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin import __version__
from installer_plugin.block.base import OpenedTarget, OpenOptions
from installer_plugin.block.target import make_writable
from installer_plugin.errors import (
    BoundImagesError,
    ConfigError,
    DataError,
    PreflightError,
    Problem,
    SourceImageError,
    VerificationError,
    joined,
)
from installer_plugin.expectations import (
    deployment_paths,
    expected_of_bound,
    expected_of_lock,
    expected_of_resolved,
    merged,
    open_deployment,
)
from installer_plugin.files.atomic import replace_file
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.lockfile import LockedImage, dump_lock, lock_images, parse_lock
from installer_plugin.model import (
    CopiedImage,
    Expected,
    Finding,
    ResolvedImage,
    VerifiedImage,
)
from installer_plugin.receipt import Receipt, parse_receipt
from installer_plugin.request import (
    TARGET_ITSELF,
    Context,
    Request,
    configured,
    on_target,
    open_root,
    opened,
    read_named,
    retelling,
)
from installer_plugin.stages.copy import CopyOptions, copy
from installer_plugin.stages.discover import LINKS, Discovered, discover, require_sound
from installer_plugin.stages.label import label, verify_labels
from installer_plugin.stages.preflight import (
    MINIMUM_VERSIONS,
    Plan,
    bootc_findings,
    preflight,
    tool_version,
)
from installer_plugin.stages.record import creation_time, pair, record
from installer_plugin.stages.resolve import resolve
from installer_plugin.stages.retract import retracted_if_refuted
from installer_plugin.stages.verify import VerifyOptions, verify
from installer_plugin.storage.engine.select import (
    EngineChoice,
    Selected,
    Surroundings,
    required_tools,
    select_engines,
)
from installer_plugin.storage.selinux import Policy, find_policy
from installer_plugin.storage.source.signature_policy import load_policy
from installer_plugin.storage.source.specs import Sources
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.target_store import TargetStore, find_target_store

AS_IT_IS = OpenOptions()
"""How a target is opened that needs no key and no choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A source that passed every check; empty when it declares no bound images."""

    images: tuple[ResolvedImage, ...] = ()
    selected: tuple[Selected, ...] = ()
    """The images with their engines."""
    policy: Policy | None = None
    """The SELinux policy that the target store is to be labelled by."""
    findings: tuple[tuple[str, Finding], ...] = ()
    """Each with the reference it is about."""


@dataclass(frozen=True, slots=True)
class Locked:
    """A lock file."""

    text: str
    count: int
    """Bound images in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A target that holds every bound image, proven."""

    target: str
    """The physical root: a directory, or a disk as the user named it."""
    store: str
    """Where in it the images are."""
    images: Sequence[tuple[CopiedImage, VerifiedImage]] = ()
    planned: tuple[ResolvedImage, ...] = ()
    """What a dry run would have copied."""
    findings: tuple[tuple[str, Finding], ...] = ()
    """Each with the reference it is about."""


def list_bound(request: Request, context: Context) -> Discovered:
    """Read the declarations of the source; problems are in the result, beside what is usable."""
    with configured(), open_root(request, context) as root:
        discovered = discover(root)
    _require_declared(request, discovered)
    return discovered


def check(request: Request, context: Context, opening: OpenOptions = AS_IT_IS) -> Checked:
    """Find out everything that can be known before a target is touched."""
    closed = replace(opening, read_only=True)
    with (
        on_target(request, context, closed) as (inner, disk),
        opened(inner, context) as (root, sources),
    ):
        return check_opened(inner, retelling(context, disk), root, sources, disk)


def write_lock(request: Request, context: Context, file: Path | None) -> Locked:
    """Pin the bound images to the digests they have now; *file* None writes nothing."""
    images = lock_images(check(request, context).images)
    text = dump_lock(images)
    if file is not None:
        try:
            replace_file(file, text.encode(), mode=0o644)
        except OSError as error:
            message = f"cannot be written: {error.strerror}"
            raise ConfigError.of(str(file), message, hint="choose another file with -o") from error
    return Locked(text, len(images))


def copy_images(request: Request, context: Context, opening: OpenOptions = AS_IT_IS) -> Outcome:
    """Check, copy, verify and record: the whole line, into a directory, a disk or a disk image.

    A disk is closed again, and everything on it, when this returns.
    """
    closed = replace(opening, read_only=request.dry_run)
    with on_target(request, context, closed) as (inner, disk):
        outcome = _copy_images(inner, retelling(context, disk), disk)
    shown = disk.shown if disk else str
    return replace(outcome, target=shown(outcome.target), store=shown(outcome.store))


def _copy_images(request: Request, context: Context, disk: OpenedTarget | None) -> Outcome:
    target = require_target(request)
    outcome = Outcome(target=str(target.physical_root), store=str(target.graph_root))
    with opened(request, context) as (root, sources):
        checked = check_opened(request, context, root, sources, disk)
        if request.dry_run or not checked.images:
            return replace(outcome, planned=checked.images, findings=checked.findings)
        if disk:
            make_writable(disk, context.runner)
        copied = copy_checked(checked, target, (request, context))
        policy = checked.policy
        label(target.graph_root, policy, context.events, context.runner)
    with retracted_if_refuted(checked.images, target, context.events):
        verified = prove(target, expected_of_resolved(checked.images), policy, (request, context))
    pairs = pair(copied, verified)
    receipt = Receipt(
        source=request.source,
        created=creation_time(context.env),
        tools=tool_versions(checked.selected, context),
        images=pairs,
    )
    record(receipt, (target.receipt, *request.receipts))
    return replace(outcome, images=pairs, findings=checked.findings)


def verify_target(
    request: Request, context: Context, opening: OpenOptions = AS_IT_IS
) -> tuple[VerifiedImage, ...]:
    """Read a finished target afresh; empty when its deployments declare no bound images at all.

    What to expect comes from its deployments, its receipt, a lock file and ``--source``, whichever
    there are. Without any of them there is nothing to prove, which is an error of the caller. Nothing
    is written, not even by the journal of a disk's file system.
    """
    with on_target(request, context, replace(opening, read_only=True)) as (inner, disk):
        verified = _verify_target(inner, retelling(context, disk))
    shown = disk.shown if disk else str
    return tuple(replace(image, where=shown(image.where)) for image in verified)


def _verify_target(request: Request, context: Context) -> tuple[VerifiedImage, ...]:
    target = require_target(request)
    with configured():
        expected = merged(tuple(_demands(target, request, context)))
        policy = policy_for(target, request, context)
    if not expected:
        if request.require_bound_images:
            raise _nothing_bound(str(target.physical_root))
        return ()
    return prove(target, expected, policy, (request, context))


def copy_checked(
    checked: Checked, target: TargetStore, asked: tuple[Request, Context]
) -> tuple[CopiedImage, ...]:
    """Copy what passed the checks, while its sources are open; raises CopyError."""
    request, context = asked
    options = CopyOptions(
        selected=checked.selected, scratch=_scratch_places(request, context, target)
    )
    return copy(target, options, context.events, context.runner)


def check_opened(
    request: Request,
    context: Context,
    root: Rootfs,
    sources: Sources,
    disk: OpenedTarget | None = None,
) -> Checked:
    """Discover, resolve and preflight; raises every problem of all three at once.

    *disk* is how the target was opened, when it was.
    """
    context.events.step("discover", f"reading {LINKS} of {root.label}")
    discovered = discover(root)
    _require_declared(request, discovered)
    context.events.step("resolve", f"looking for {len(discovered.images)} images")
    resolution = resolve(discovered.images, sources.all)
    target = require_target(request) if request.target else None
    signatures = load_policy(context.system)
    surroundings = Surroundings(sources.graph_roots, signatures, context.runner)
    selected = select_engines(request.engine, resolution.images, surroundings)
    policy = _policy(target, root) if target else None
    plan = Plan(
        images=resolution.images,
        policy=policy,
        selected=selected,
        direct_only=request.engine is EngineChoice.DIRECT,
        target=target,
        closed_for_now=disk is not None and disk.read_only,
        scratch=_scratch_places(request, context, target) if target else (),
        lock=_lock(request),
    )
    context.events.step("preflight", "checking tools, space and target")
    problems = (*resolution.problems, *preflight(plan, context.runner))
    _require_clear(discovered, problems)
    declared = ((i.reference, finding) for i in discovered.images for finding in i.findings)
    return Checked(
        images=resolution.images,
        selected=selected,
        policy=policy,
        findings=(*declared, *bootc_findings(resolution.images)),
    )


def _require_clear(discovered: Discovered, problems: Sequence[Problem]) -> None:
    errors: list[BoundImagesError] = []
    if discovered.problems:
        errors.append(SourceImageError(*discovered.problems))
    if problems:
        errors.append(PreflightError(*problems))
    if errors:
        raise joined(errors)


def _require_declared(request: Request, discovered: Discovered) -> None:
    if request.require_bound_images and not discovered.declared:
        raise _nothing_bound(request.source)


def _nothing_bound(subject: str) -> SourceImageError:
    return SourceImageError.of(
        subject,
        "no bound images declared, and --require-bound-images asks for some",
        where=LINKS,
        hint="link a Quadlet file there, or leave the option out",
    )


def prove(
    target: TargetStore,
    expected: Sequence[Expected],
    policy: Policy | None,
    asked: tuple[Request, Context],
) -> tuple[VerifiedImage, ...]:
    """Read the target store afresh and hold it against *expected*; raises VerificationError."""
    request, context = asked
    try:
        with GraphRoot.open(target.graph_root) as store:
            options = VerifyOptions(workers=request.jobs)
            verified = verify(store, expected, context.events, context.runner, options)
    except DataError as error:
        hint = "the images are not on the target: copy them"
        raise VerificationError(error.problem(hint=hint)) from error
    labels = verify_labels(target.graph_root, policy, context.events, context.runner)
    return tuple(replace(image, checks=(*image.checks, *labels)) for image in verified)


def policy_for(target: TargetStore, request: Request, context: Context) -> Policy | None:
    """The policy for the target of *request*, whose source may be the target itself."""
    if request.source == TARGET_ITSELF:
        return _policy(target, None)
    with open_root(request, context) as source:
        return _policy(target, source)


def _policy(target: TargetStore, source: Rootfs | None) -> Policy | None:
    """The SELinux policy that will judge the store: the target's own, or the one being installed."""
    for path in _deployments(target):
        with open_deployment(target.physical_root, path) as deployment:
            policy = find_policy(deployment)
            if policy:
                return policy
    return find_policy(source) if source else None


def _deployments(target: TargetStore) -> tuple[str, ...]:
    with Rootfs.open(target.physical_root) as physical:
        return tuple(deployment_paths(physical))


def _demands(target: TargetStore, request: Request, context: Context) -> Iterator[Expected]:
    """All that anything on or beside the target says must be there."""
    asked = False
    if request.source != TARGET_ITSELF:
        asked = True
        with open_root(request, context) as root:
            yield from expected_of_bound(require_sound(discover(root)), "")
    paths = _deployments(target)
    for path in paths:
        with open_deployment(target.physical_root, path) as deployment:
            yield from expected_of_bound(require_sound(discover(deployment)), f"{path}/")
    receipts = request.receipts or ((target.receipt,) if target.receipt.exists() else ())
    for receipt in receipts:
        yield from parse_receipt(read_named(receipt), str(receipt))
    if request.lock:
        yield from expected_of_lock(_lock(request) or {}, str(request.lock))
    if not (asked or paths or receipts or request.lock):
        raise DataError(
            str(target.physical_root),
            "has no deployment and no receipt: nothing says which images are expected",
            hint="give --receipt FILE, --lock FILE or --source ROOT",
        )


def require_target(request: Request) -> TargetStore:
    """The target store of *request*; raises ConfigError when its place is no target."""
    if request.target is None:
        raise RuntimeError("this recipe needs a target")
    with configured():
        return find_target_store(request.target, request.backend)


def _scratch_places(request: Request, context: Context, target: TargetStore) -> tuple[Path, ...]:
    """Where temporary files may go; the target itself is the last resort, it is cleaned up too."""
    if request.scratch:
        return (request.scratch,)
    usual = Path(context.env.get("TMPDIR") or "/var/tmp")  # noqa: S108 - a mkdtemp parent
    return (usual, target.physical_root)


def tool_versions(selected: Sequence[Selected], context: Context) -> Mapping[str, str]:
    """Our own version and those of the programs that copy *selected*."""
    tools = required_tools(selected)
    versions = {
        tool: tool_version(tool, context.runner) for tool in tools if tool in MINIMUM_VERSIONS
    }
    return {"bootc-bound-images": __version__, **versions}


def _lock(request: Request) -> Mapping[str, LockedImage] | None:
    return parse_lock(read_named(request.lock), str(request.lock)) if request.lock else None
