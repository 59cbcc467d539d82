"""The stages one by one: each runs its step of the recipe, and says what it has found out.

They stand in the order of :class:`~installer_plugin.pipeline.Stage`; a stage that runs again forgets
what came after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from installer_plugin.declared import configured
from installer_plugin.errors import DataError, VerificationError
from installer_plugin.image_json import bound_json, copied_json, resolved_json, verified_json
from installer_plugin.opening import Opened
from installer_plugin.pipeline import DOING, RECIPE, Stage
from installer_plugin.receipt import dump_receipt, parse_receipt
from installer_plugin.stages import report
from installer_plugin.stages.record import write_receipt
from installer_plugin.state.job import Job, Staged
from installer_plugin.steps import Known, receipt_of
from installer_plugin.storage.store.graph_root import (
    IMAGES_JSON,
    LAYERS_JSON,
    RECORDS_LIMIT,
    GraphRoot,
)
from installer_plugin.storage.store.target_store import TargetStore


def _taken(job: Job, *stages: Stage, known: Known | None = None) -> Known:
    """What is known when the steps of *stages* have been taken; raises every problem that is known."""
    known = known or job.known()
    with Opened(job.work) as opened:
        for stage in stages:
            known = RECIPE[stage](job.work, opened, known)
            known.require_clear()
    return known


# --- the target is untouched -------------------------------------------------------------------


def _discover(job: Job) -> Staged:
    bound = _taken(job, Stage.DISCOVER).bound
    images = [bound_json(image) for image in bound]
    return Staged(report.bound_text(bound), job.document(Stage.DISCOVER, images))


def _resolve(job: Job) -> Staged:
    return _looked(job, Stage.RESOLVE, _taken(job, Stage.RESOLVE))


def _preflight(job: Job) -> Staged:
    known = _taken(job, Stage.PREFLIGHT)
    job.require_unchanged(Stage.RESOLVE, known.images)
    job.state.write_whole(known.whole)
    return _looked(job, Stage.PREFLIGHT, known)


def _looked(job: Job, stage: Stage, known: Known) -> Staged:
    images = [resolved_json(image) for image in known.images]
    return Staged(report.resolved_text(known.images), job.document(stage, images))


# --- the target is written ---------------------------------------------------------------------


def _copy(job: Job) -> Staged:
    target = job.target(Stage.COPY)
    known = job.known()
    with Opened(job.work) as opened:
        # The target is known by now: what was checked without it is checked with it.
        known = RECIPE[Stage.PREFLIGHT](job.work, opened, known)
        known.require_clear()
        if not job.own:
            job.require_unchanged(Stage.PREFLIGHT, known.images)
        text = report.resolved_text(known.images)
        if job.work.request.dry_run:
            text += f"\nwould be copied to {target.graph_root}; nothing was changed"
            return Staged(text, job.document(Stage.COPY, []))
        known = DOING[Stage.COPY](job.work, opened, known)
    images = [copied_json(image) for image in known.copied or ()]
    text += f"\ncopied to {target.graph_root}, not verified yet" if images else ""
    return Staged(text, job.document(Stage.COPY, images, tools=known.tools))


def _label(job: Job) -> Staged:
    target = job.target(Stage.LABEL)
    document = job.document(Stage.LABEL, [])
    if not _with_copied(job).copied:
        return Staged(report.NOTHING, document)
    _taken(job, Stage.LABEL)
    return Staged(f"{target.graph_root}: labelled, where it has a policy", document)


# --- the target is read ------------------------------------------------------------------------


def _verify(job: Job) -> Staged:
    """What is expected comes from the declarations and from what was to be copied."""
    target = job.target(Stage.VERIFY)
    known = _with_copied(job)
    missing = (Stage.DISCOVER,) if known.discovered is None else ()
    known = _taken(job, *missing, Stage.VERIFY, known=known)
    if not known.verified:
        return Staged(report.NOTHING, job.document(Stage.VERIFY, []))
    job.state.write_receipt(dump_receipt(receipt_of(job.work, known)))
    images = [verified_json(image) for image in known.verified]
    document = job.document(Stage.VERIFY, images, records=_fingerprint(target))
    return Staged(report.verified_text(known.verified, str(target.graph_root)), document)


def _with_copied(job: Job) -> Known:
    """What is known, and what is on the target by now, whoever has copied it."""
    known = job.known()
    return known if known.copied is not None else replace(known, copied=job.copied_by_hook())


def _record(job: Job) -> Staged:
    target = job.target(Stage.RECORD)
    document = job.document(Stage.RECORD, [])
    if not job.state.has(Stage.VERIFY):
        job.work.events.warn("record", "nothing was verified, so no receipt is written")
        return Staged("no receipt: nothing was verified", document)
    proof = job.state.read(Stage.VERIFY).data
    if not proof.get("images"):
        return Staged(report.NOTHING, document)
    if proof.get("records") != _fingerprint(target):
        raise VerificationError.of(
            str(target.graph_root),
            "has other records than when it was verified",
            hint="run stage verify again, which reads what is there now",
        )
    text = job.state.read_receipt()
    with configured():
        parse_receipt(text, "receipt")
    places = (target.receipt, *job.work.request.receipts)
    write_receipt(text.decode(), places)
    document = job.document(Stage.RECORD, [], receipts=[str(place) for place in places])
    return Staged(f"recorded in {', '.join(map(str, places))}", document)


def _fingerprint(target: TargetStore) -> str:
    """What the store's records hash to: they change with every change of its images."""
    hashed = hashlib.sha256()
    try:
        with GraphRoot.open(target.graph_root) as root:
            for name in (IMAGES_JSON, LAYERS_JSON):
                hashed.update(root.read(name, RECORDS_LIMIT))
    except DataError as error:
        raise VerificationError(error.problem(hint="copy the images again")) from error
    return hashed.hexdigest()


STAGES: Mapping[Stage, Callable[[Job], Staged]] = {
    Stage.DISCOVER: _discover,
    Stage.RESOLVE: _resolve,
    Stage.PREFLIGHT: _preflight,
    Stage.COPY: _copy,
    Stage.LABEL: _label,
    Stage.VERIFY: _verify,
    Stage.RECORD: _record,
}
