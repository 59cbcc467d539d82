"""Proves from the target's disk that it holds what was asked for, or says everything that is wrong.

Nothing that copying returned is trusted; everything is read again. The steps, by their numbers:

1. The store opens: records can be read, names are unique, both lock files exist, and no libpod
   database pins the store to a path other than bootc's.
2. Each reference resolves to exactly one image, by all its literal names and, when it is known, by ID.
3. The config's bytes hash to the image ID.
4. Every stored manifest hashes to its recorded digest and to the digest in its name; the manifests
   that were asked for are there; all other big data is as recorded.
5. Manifests, config, layer records and layer IDs name the same layers, in number and in order.
6. Each layer's tar stream, rebuilt from tar-split and the files on disk, hashes to its diff ID.
7. What the stream does not cover equals its tar headers: modes, owners, times of regular files,
   links, devices, extended attributes, whiteouts, opaque marks; nothing is missing, nothing too many.
8. ``link``, ``l/`` and ``lower`` chain each layer to its parents.

The caller owes two things: ``syncfs(2)`` before, or pages that were never written would be read from
memory; and step 9, labels, which need the target's policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from installer_plugin.errors import DataError, Problem, VerificationError
from installer_plugin.events import Events, counted
from installer_plugin.model import Expected, ImageId, VerifiedImage
from installer_plugin.process.pool import Crew
from installer_plugin.process.pool_worker import Ended
from installer_plugin.storage.layer.jobs import ProveLayer, layer_work, path_for_others
from installer_plugin.storage.layer.page_cache import forget_files
from installer_plugin.storage.layer.proof import LayerClaim, LayerProof, Reading
from installer_plugin.storage.layer.read_back import ReadBack, layer_files
from installer_plugin.storage.store.consistency import layer_problems, opening_problems, short
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.image_identity import ImageIdentity, Mismatch
from installer_plugin.storage.store.records import ImageRecord, Records

STAGE = "verify"
CONTENT = "content"
CHECKS = ("store", "names", "config", "manifests", "chain", CONTENT, "metadata", "links")
"""Names of the steps, in their order; receipts list them."""
HINT = "copy the image again; if that does not help, the target's disk or the source is damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """How to verify; what is verified is not to be chosen."""

    workers: int | None = None
    """Layers read at the same time; None for as many as the machine is good for."""
    drop_cache: bool = True
    """Ask the kernel to forget cached pages, so that the disk is what is read."""
    proven: frozenset[ImageId] = frozenset()
    """Images whose content was read from this disk a moment ago, or will be: all but that is compared."""
    read_back: tuple[ReadBack, ...] = ()
    """Layers that this process has proven a moment ago, when it had copied them."""


@dataclass(slots=True)
class _Case:
    """One expected image: what is known of it so far, and what is wrong with it."""

    expected: Expected
    problems: list[Problem] = field(default_factory=list)
    image: ImageRecord | None = None
    identity: ImageIdentity | None = None
    claims: tuple[LayerClaim, ...] = ()

    def is_known(self, options: VerifyOptions) -> bool:
        """Whether the content of its layers was read before."""
        return self.image is not None and ImageId(self.image.id) in options.proven

    def add(self, message: str, where: str = "") -> None:
        self.problems.append(
            Problem(subject=self.expected.reference, message=message, where=where, hint=HINT)
        )

    def add_all(self, mismatches: Iterator[Mismatch]) -> None:
        for mismatch in mismatches:
            self.add(mismatch.message, mismatch.where)


def verify(
    store: GraphRoot,
    expected: Sequence[Expected],
    events: Events,
    crew: Crew,
    options: VerifyOptions = VerifyOptions(),
) -> tuple[VerifiedImage, ...]:
    """Prove that *store* holds all of *expected*.

    Raises VerificationError with every problem of every image, and RuntimeError when nothing is
    expected: an empty set of checks proves nothing.
    """
    if not expected:
        raise RuntimeError("nothing is expected of the store, so nothing can be proven")
    if options.drop_cache:
        forget_files(store.root, "overlay-layers", "overlay-images")
    problems = list(opening_problems(store))  # 1
    try:
        records = store.load()  # 1
    except DataError as error:
        raise VerificationError(*problems, error.problem(hint=HINT)) from error
    cases = [_Case(one) for one in expected]
    for case in cases:
        _resolve(case, records)  # 2
        if case.image is not None:
            case.identity = ImageIdentity(store, records, case.image)
            _identify(case, case.identity, store, options)  # 3, 4, 5, 8
    events.step(
        STAGE,
        f"{counted(len(cases), 'image')}, {counted(len(_claims(cases)), 'layer')} of {store.path}",
    )
    proofs = _prove(store, cases, events, crew, options)  # 6, 7
    for case in cases:
        _judge(case, proofs)
        problems += case.problems
    if problems:
        raise VerificationError(*problems)
    return tuple(_verified(case, proofs, options) for case in cases)


def _resolve(case: _Case, records: Records) -> None:
    """Step 2; an image without its names is still examined, to report everything at once."""
    wanted = case.expected
    by_name = {name: image for image in records.images for name in image.names}
    by_id = {image.id: image for image in records.images}
    found = {name: by_name.get(name) for name in wanted.names or (wanted.reference,)}
    for name, image in found.items():
        if image is None:
            case.add(f"no image has the name {name!r}, expected one", wanted.where)
        elif wanted.image_id not in {None, image.id}:
            case.add(f"{name!r} is image {image.id}, expected {wanted.image_id}", wanted.where)
    owners = {image.id: image for image in found.values() if image is not None}
    if len(owners) > 1:
        case.add(f"its names belong to the images {', '.join(owners)}, expected one", wanted.where)
    case.image = by_id.get(wanted.image_id or "") or next(iter(owners.values()), None)


def _identify(
    case: _Case, identity: ImageIdentity, store: GraphRoot, options: VerifyOptions
) -> None:
    """Steps 3, 4, 5 and 8 of an image that is there; what its layers have to be."""
    if options.drop_cache:
        forget_files(store.root, f"overlay-images/{identity.image.id}")
    case.add_all(identity.check_config())  # 3
    case.add_all(identity.check_manifests(case.expected.manifest_digests))  # 4
    case.add_all(identity.check_chain())  # 5
    known = identity.diff_ids or ()
    diff_ids = known if len(known) == len(identity.layers) else [x.diff_id for x in identity.layers]
    claims = []
    for layer, diff_id in zip(identity.layers, diff_ids, strict=True):
        if options.drop_cache:
            forget_files(store.root, f"overlay/{layer.id}")
        for message in layer_problems(store, identity.records, layer):  # 8
            case.add(message, f"layer {short(layer.id)}")
        if diff_id is not None:
            claims.append(
                LayerClaim(id=layer.id, parent=layer.parent, diff_id=diff_id, size=layer.diff_size)
            )
    case.claims = tuple(claims)


def _claims(cases: Sequence[_Case]) -> tuple[LayerClaim, ...]:
    """Every layer once, the largest first, so that the last one to end is a small one."""
    claims = dict.fromkeys(claim for case in cases for claim in case.claims)
    return tuple(sorted(claims, key=lambda claim: claim.size or 0, reverse=True))


def _prove(
    store: GraphRoot,
    cases: Sequence[_Case],
    events: Events,
    crew: Crew,
    options: VerifyOptions,
) -> Mapping[LayerClaim, LayerProof]:
    """Steps 6 and 7 of all layers, several at a time."""
    proofs = _read_back(store, options)
    known = {claim for case in cases if case.is_known(options) for claim in case.claims}
    claims = [claim for claim in _claims(cases) if claim not in proofs]
    read = {claim: proof.size for claim, proof in proofs.items()}
    read |= dict.fromkeys((claim for claim in claims if claim not in known), 0)
    meter = _Meter(cases, read, events)
    place = path_for_others(store.root)
    jobs = [
        ProveLayer(
            place,
            claim,
            Reading(content=claim not in known, drop_cache=options.drop_cache),
            layer_work(store.root, claim.id, claim.size if claim not in known else 0),
        )
        for claim in claims
    ]
    if proofs:
        meter.report()
    with closing(crew.do(jobs, workers=options.workers)) as said:
        for message in said:
            claim = claims[message.index]
            if isinstance(message, Ended):
                if not isinstance(message.result, LayerProof):
                    raise TypeError(f"layer {claim.id}: {message.result!r:.100} proves nothing")
                proofs[claim] = message.result
                done = claim.size or 0
            else:
                done = read.get(claim, 0) + message.count
            if claim in read:
                read[claim] = done
                meter.report()
    return proofs


def _read_back(store: GraphRoot, options: VerifyOptions) -> dict[LayerClaim, LayerProof]:
    """The proofs of layers of which the store has the files that were read."""
    found = {}
    for each in options.read_back:
        with suppress(OSError, DataError):  # whoever reads the layer says what is wrong
            if layer_files(store.root, each.claim) == each.files:
                found[each.claim] = each.proof
    return found


class _Meter:
    """Reports how many bytes of each image were read."""

    def __init__(
        self, cases: Sequence[_Case], read: Mapping[LayerClaim, int], events: Events
    ) -> None:
        self._read = read
        self._events = events
        self._reported = {
            index: (case, sum(claim.size or 0 for claim in case.claims if claim in read), -1)
            for index, case in enumerate(cases)
        }

    def report(self) -> None:
        """Send an event for each image that has moved on."""
        for index, (case, total, before) in self._reported.items():
            done = min(sum(self._read.get(claim, 0) for claim in case.claims), total)
            if done > before:
                self._events.progress(STAGE, case.expected.reference, done, total)
                self._reported[index] = case, total, done


def _judge(case: _Case, proofs: Mapping[LayerClaim, LayerProof]) -> None:
    for claim in case.claims:
        for defect in proofs[claim].defects:
            case.add(defect.message, f"layer {short(claim.id)} {defect.path}".rstrip())


def _verified(
    case: _Case, proofs: Mapping[LayerClaim, LayerProof], options: VerifyOptions = VerifyOptions()
) -> VerifiedImage:
    """The proven image; called only when no step has found anything."""
    if case.image is None or case.identity is None or case.identity.diff_ids is None:
        raise RuntimeError(f"{case.expected.reference}: passed without having been examined")
    digests = case.identity.manifest_digests
    return VerifiedImage(
        reference=case.expected.reference,
        names=case.expected.names,
        where=case.expected.where,
        image_id=ImageId(case.image.id),
        digest=case.image.digest or digests[0],
        manifest_digests=digests,
        diff_ids=case.identity.diff_ids,
        size=sum(proofs[claim].size for claim in case.claims),
        checks=tuple(check for check in CHECKS if check != CONTENT or not case.is_known(options)),
    )
