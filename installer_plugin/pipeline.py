"""The recipe: which stages run in which order, for each thing a user can ask for.

Nothing below ``prepare`` is reached while a problem is known: all of them are raised together first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin import __version__
from installer_plugin.deployments import (
    deployment_paths,
    expected_of_bound,
    expected_of_lock,
    expected_of_resolved,
    merged,
    open_deployment,
)
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
from installer_plugin.events import Events
from installer_plugin.lockfile import LockedImage, dump_lock, lock_images, parse_lock
from installer_plugin.model import (
    CopiedImage,
    Expected,
    Finding,
    ResolvedImage,
    VerifiedImage,
)
from installer_plugin.process import Runner
from installer_plugin.receipt import Receipt, parse_receipt
from installer_plugin.rootfs import Rootfs
from installer_plugin.stages.copy import CopyOptions, copy
from installer_plugin.stages.discover import LINKS, Discovered, discover, require_sound
from installer_plugin.stages.preflight import (
    MINIMUM_VERSIONS,
    Plan,
    bootc_findings,
    preflight,
    tool_version,
)
from installer_plugin.stages.record import creation_time, pair, record
from installer_plugin.stages.resolve import resolve
from installer_plugin.stages.verify import VerifyOptions, verify
from installer_plugin.storage.conf import load_registries_conf, load_storage_conf
from installer_plugin.storage.engines import EngineChoice, required_tools, select_engines
from installer_plugin.storage.graphroot import GraphRoot
from installer_plugin.storage.local import LocalStores
from installer_plugin.storage.mounted import mounted_layers
from installer_plugin.storage.naming import replace_file
from installer_plugin.storage.scratch import scratch_directory
from installer_plugin.storage.sources import Sources, open_sources, parse_source_spec
from installer_plugin.storage.target import Backend, TargetStore, find_target_store

IMAGE_PREFIX = "containers-storage:"
TARGET_ITSELF = ""
"""Source of a verification that has no other than the target's own deployments."""
FILE_LIMIT = 16 << 20
"""Bytes of a lock file or receipt."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the recipes need of the world around them."""

    runner: Runner
    events: Events
    env: Mapping[str, str]
    system: Path = Path("/")
    """Whose ``/etc/containers`` is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for."""

    source: str = "/"
    """A root directory, or ``containers-storage:REFERENCE``."""
    stores: tuple[str, ...] = ()
    target: Path | None = None
    backend: Backend | None = None
    engine: EngineChoice = EngineChoice.AUTO
    lock: Path | None = None
    scratch: Path | None = None
    receipts: tuple[Path, ...] = ()
    require_bound_images: bool = False
    dry_run: bool = False
    jobs: int | None = None
    """Layers verified at once; None for as many as there are processors, up to a bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A source that passed every check; empty when it declares no bound images."""

    images: tuple[ResolvedImage, ...] = ()
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

    target: TargetStore
    images: Sequence[tuple[CopiedImage, VerifiedImage]] = ()
    planned: tuple[ResolvedImage, ...] = ()
    """What a dry run would have copied."""
    findings: tuple[tuple[str, Finding], ...] = ()
    """Each with the reference it is about."""


def list_bound(request: Request, context: Context) -> Discovered:
    """Read the declarations of the source; problems are in the result, beside what is usable."""
    with _configured(), open_root(request, context) as root:
        discovered = discover(root)
    _require_declared(request, discovered)
    return discovered


def check(request: Request, context: Context) -> Checked:
    """Find out everything that can be known before a target is touched."""
    with _opened(request, context) as (root, sources):
        return _checked(request, context, root, sources)


def write_lock(request: Request, context: Context, file: Path | None) -> Locked:
    """Pin the bound images to the digests they have now; *file* None writes nothing."""
    images = lock_images(check(request, context).images)
    text = dump_lock(images)
    if file is not None:
        try:
            replace_file(file, text.encode(), mode=0o644)
        except OSError as error:
            message = f"cannot be written: {error.strerror}"
            raise ConfigError(
                Problem(subject=str(file), message=message, hint="choose another file with -o")
            ) from error
    return Locked(text, len(images))


def copy_images(request: Request, context: Context) -> Outcome:
    """Check, copy, verify and record: the whole line, into a target that is mounted."""
    target = _require_target(request)
    with _opened(request, context) as (root, sources):
        checked = _checked(request, context, root, sources)
        if request.dry_run or not checked.images:
            return Outcome(target=target, planned=checked.images, findings=checked.findings)
        options = CopyOptions(
            engines=select_engines(request.engine, sources.graph_roots, context.runner),
            scratch=_scratch_places(request, context, target),
        )
        copied = copy(checked.images, target, options, context.events, context.runner)
        verified = _verify(target, expected_of_resolved(checked.images), request, context)
    pairs = pair(copied, verified)
    receipt = Receipt(
        source=request.source,
        created=creation_time(context.env),
        tools=_tool_versions(checked.images, request, context),
        images=pairs,
    )
    record(receipt, (target.receipt, *request.receipts))
    return Outcome(target=target, images=pairs, findings=checked.findings)


def verify_target(request: Request, context: Context) -> tuple[VerifiedImage, ...]:
    """Read a finished target afresh; empty when its deployments declare no bound images at all.

    What to expect comes from its deployments, its receipt, a lock file and ``--source``, whichever
    there are. Without any of them there is nothing to prove, which is an error of the caller.
    """
    target = _require_target(request)
    with _configured():
        expected = merged(tuple(_demands(target, request, context)))
    if not expected:
        if request.require_bound_images:
            raise _nothing_bound(str(target.physical_root))
        return ()
    return _verify(target, expected, request, context)


def _checked(request: Request, context: Context, root: Rootfs, sources: Sources) -> Checked:
    """Discover, resolve and preflight; raises every problem of all three at once."""
    context.events.step("discover", f"reading {LINKS} of {root.label}")
    discovered = discover(root)
    _require_declared(request, discovered)
    context.events.step("resolve", f"looking for {len(discovered.images)} images")
    resolution = resolve(discovered.images, sources.all)
    target = _require_target(request) if request.target else None
    plan = Plan(
        images=resolution.images,
        tools=required_tools(request.engine, resolution.images),
        target=target,
        scratch=_scratch_places(request, context, target) if target else (),
        lock=_lock(request),
    )
    context.events.step("preflight", "checking tools, space and target")
    problems = (*resolution.problems, *preflight(plan, context.runner))
    _require_clear(discovered, problems)
    declared = ((i.reference, finding) for i in discovered.images for finding in i.findings)
    return Checked(
        images=resolution.images,
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
    return SourceImageError(
        Problem(
            subject=subject,
            message="no bound images declared, and --require-bound-images asks for some",
            where=LINKS,
            hint="link a Quadlet file there, or leave the option out",
        )
    )


def _verify(
    target: TargetStore, expected: Sequence[Expected], request: Request, context: Context
) -> tuple[VerifiedImage, ...]:
    try:
        with GraphRoot.open(target.graph_root) as store:
            return verify(store, expected, context.events, VerifyOptions(workers=request.jobs))
    except DataError as error:
        hint = "the images are not on the target: copy them"
        raise VerificationError(error.problem(hint=hint)) from error


def _demands(target: TargetStore, request: Request, context: Context) -> Iterator[Expected]:
    """All that anything on or beside the target says must be there."""
    asked = False
    if request.source != TARGET_ITSELF:
        asked = True
        with open_root(request, context) as root:
            yield from expected_of_bound(require_sound(discover(root)), "")
    with Rootfs.open(target.physical_root) as physical:
        paths = tuple(deployment_paths(physical))
    for path in paths:
        with open_deployment(target.physical_root, path) as deployment:
            yield from expected_of_bound(require_sound(discover(deployment)), f"{path}/")
    receipts = request.receipts or ((target.receipt,) if target.receipt.exists() else ())
    for receipt in receipts:
        yield from parse_receipt(_read(receipt), str(receipt))
    if request.lock:
        yield from expected_of_lock(_lock(request) or {}, str(request.lock))
    if not (asked or paths or receipts or request.lock):
        raise DataError(
            str(target.physical_root),
            "has no deployment and no receipt: nothing says which images are expected",
            hint="give --receipt FILE, --lock FILE or --source ROOT",
        )


@contextmanager
def _opened(request: Request, context: Context) -> Iterator[tuple[Rootfs, Sources]]:
    with (
        _configured(),
        open_root(request, context) as root,
        open_stores(request, context) as stores,
    ):
        yield root, stores


@contextmanager
def open_stores(request: Request, context: Context) -> Iterator[Sources]:
    """The stores of the request, or those that podman would use on this system."""
    registries = load_registries_conf(context.system, context.env)
    specs = tuple(parse_source_spec(text) for text in request.stores)
    default = () if specs else load_storage_conf(context.system, context.env).stores
    with open_sources(specs, default, registries, context.runner) as sources:
        yield sources


@contextmanager
def open_root(request: Request, context: Context) -> Iterator[Rootfs]:
    """The source as a root: a directory, or a stored image that is mounted for the time being."""
    if not request.source.startswith(IMAGE_PREFIX):
        with _directory(Path(request.source)) as root:
            yield root
        return
    reference = request.source.removeprefix(IMAGE_PREFIX)
    with ExitStack() as stack:
        stores = stack.enter_context(open_stores(request, context))
        layers = next(
            (
                layers
                for source in stores.all
                if isinstance(source, LocalStores) and (layers := source.image_layers(reference))
            ),
            None,
        )
        if layers is None:
            raise DataError(
                reference,
                f"is in none of {', '.join(map(str, stores.graph_roots)) or 'no store'}",
                hint=f"podman pull {reference}",
            )
        scratch = stack.enter_context(scratch_directory(Path(tempfile.gettempdir())))
        yield stack.enter_context(mounted_layers(layers, request.source, scratch, context.runner))


@contextmanager
def _directory(path: Path) -> Iterator[Rootfs]:
    try:
        root = Rootfs.open(path)
    except OSError as error:
        raise DataError(
            str(path),
            f"cannot be opened as a source root: {error.strerror}",
            hint="give a directory or containers-storage:REFERENCE",
        ) from error
    with root:
        yield root


@contextmanager
def _configured() -> Iterator[None]:
    """Turn complaints about what the caller named or configured into errors of the caller."""
    try:
        yield
    except DataError as error:
        hint = "correct the file or option that is named"
        raise ConfigError(error.problem(hint=hint)) from error


def _require_target(request: Request) -> TargetStore:
    if request.target is None:
        raise RuntimeError("this recipe needs a target")
    with _configured():
        return find_target_store(request.target, request.backend)


def _scratch_places(request: Request, context: Context, target: TargetStore) -> tuple[Path, ...]:
    """Where temporary files may go; the target itself is the last resort, it is cleaned up too."""
    if request.scratch:
        return (request.scratch,)
    usual = Path(context.env.get("TMPDIR") or "/var/tmp")  # noqa: S108 - a mkdtemp parent
    return (usual, target.physical_root)


def _tool_versions(
    images: Sequence[ResolvedImage], request: Request, context: Context
) -> Mapping[str, str]:
    tools = required_tools(request.engine, images)
    versions = {
        tool: tool_version(tool, context.runner) for tool in tools if tool in MINIMUM_VERSIONS
    }
    return {"bootc-bound-images": __version__, **versions}


def _lock(request: Request) -> Mapping[str, LockedImage] | None:
    return parse_lock(_read(request.lock), str(request.lock)) if request.lock else None


def _read(path: Path) -> bytes:
    try:
        with Rootfs.open(path.absolute().parent) as folder:
            return folder.read_bytes(path.name, limit=FILE_LIMIT)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from error
