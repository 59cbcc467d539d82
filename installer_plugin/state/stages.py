"""The stages one by one: each reads what it needs afresh, and is held to what was approved before.

They stand in the order of :class:`Stage`; a stage that runs again forgets what came after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from installer_plugin.errors import DataError, PreflightError, Problem, VerificationError
from installer_plugin.expectations import expected_of_bound, expected_of_resolved, merged
from installer_plugin.pipeline import (
    check_opened,
    copy_checked,
    list_bound,
    policy_for,
    prove,
    tool_versions,
)
from installer_plugin.receipt import Receipt, dump_receipt, parse_receipt
from installer_plugin.request import configured, open_root, opened
from installer_plugin.stages import report
from installer_plugin.stages.discover import discover, require_sound
from installer_plugin.stages.label import label
from installer_plugin.stages.record import creation_time, pair, write_receipt
from installer_plugin.stages.resolve import resolve
from installer_plugin.stages.retract import retracted_if_refuted
from installer_plugin.state import codec
from installer_plugin.state.job import (
    Job,
    Staged,
    copied_images,
    document_of,
    require_unchanged,
    target_of,
)
from installer_plugin.state.state_directory import Stage
from installer_plugin.storage.store.graph_root import (
    IMAGES_JSON,
    LAYERS_JSON,
    RECORDS_LIMIT,
    GraphRoot,
)
from installer_plugin.storage.store.target_store import TargetStore

# --- the target is untouched -------------------------------------------------------------------


def _discover(job: Job) -> Staged:
    job.context.events.step("discover", f"reading the declarations of {job.request.source}")
    bound = require_sound(list_bound(*job.asked))
    images = [codec.bound_json(image) for image in bound]
    return Staged(report.bound_text(bound), document_of(job, Stage.DISCOVER, images))


def _resolve(job: Job) -> Staged:
    with opened(*job.asked) as (root, sources):
        bound = require_sound(discover(root))
        job.context.events.step("resolve", f"looking for {len(bound)} images")
        resolution = resolve(bound, sources.all)
    if resolution.problems:
        raise PreflightError(*resolution.problems)
    images = [codec.resolved_json(image) for image in resolution.images]
    text = report.resolved_text(resolution.images)
    return Staged(text, document_of(job, Stage.RESOLVE, images))


def _preflight(job: Job) -> Staged:
    with opened(*job.asked) as (root, sources):
        checked = check_opened(*job.asked, root, sources)
    require_unchanged(job, Stage.RESOLVE, checked.images)
    images = [codec.resolved_json(image) for image in checked.images]
    text = report.resolved_text(checked.images)
    return Staged(text, document_of(job, Stage.PREFLIGHT, images))


# --- the target is written ---------------------------------------------------------------------


def _copy(job: Job) -> Staged:
    target = target_of(job, Stage.COPY)
    with opened(*job.asked) as (root, sources):
        checked = check_opened(*job.asked, root, sources)
        require_unchanged(job, Stage.PREFLIGHT, checked.images)
        text = report.resolved_text(checked.images)
        if job.request.dry_run:
            text += f"\nwould be copied to {target.graph_root}; nothing was changed"
            return Staged(text, document_of(job, Stage.COPY, []))
        copied = copy_checked(checked, target, job.asked) if checked.images else ()
        tools = tool_versions(checked.selected, job.context)
    images = [codec.copied_json(image) for image in copied]
    text += f"\ncopied to {target.graph_root}, not verified yet" if copied else ""
    return Staged(text, document_of(job, Stage.COPY, images, tools=tools))


def _label(job: Job) -> Staged:
    target = target_of(job, Stage.LABEL)
    document = document_of(job, Stage.LABEL, [])
    if not copied_images(job):
        return Staged(report.NOTHING, document)
    with configured():
        policy = policy_for(target, *job.asked)
    label(target.graph_root, policy, job.context.events, job.context.runner)
    name = f"labelled by the policy {policy.name}" if policy else "nothing to label"
    return Staged(f"{target.graph_root}: {name}", document)


# --- the target is read ------------------------------------------------------------------------


def _verify(job: Job) -> Staged:
    """What is expected comes from the declarations, read again, and from what was to be copied."""
    target = target_of(job, Stage.VERIFY)
    copied = copied_images(job)
    with configured(), open_root(*job.asked) as root:
        bound = require_sound(discover(root))
        policy = policy_for(target, *job.asked)
    demands = (*expected_of_bound(bound, ""), *expected_of_resolved([i.resolved for i in copied]))
    if not demands:
        return Staged(report.NOTHING, document_of(job, Stage.VERIFY, []))
    with retracted_if_refuted([each.resolved for each in copied], target, job.context.events):
        verified = prove(target, merged(demands), policy, job.asked)
    receipt = Receipt(
        source=job.request.source,
        created=creation_time(job.context.env),
        tools=_tools(job),
        images=pair(copied, verified),
    )
    job.state.write_receipt(dump_receipt(receipt))
    images = [report.verified_json(image) for image in verified]
    document = document_of(job, Stage.VERIFY, images, records=_fingerprint(target))
    return Staged(report.verified_text(verified, str(target.graph_root)), document)


def _record(job: Job) -> Staged:
    target = target_of(job, Stage.RECORD)
    document = document_of(job, Stage.RECORD, [])
    if not job.state.has(Stage.VERIFY):
        job.context.events.warn("record", "nothing was verified, so no receipt is written")
        return Staged("no receipt: nothing was verified", document)
    proof = job.state.read(Stage.VERIFY)
    if not proof.get("images"):
        return Staged(report.NOTHING, document)
    if proof.get("records") != _fingerprint(target):
        raise VerificationError(_changed(target))
    text = job.state.read_receipt()
    with configured():
        parse_receipt(text, "receipt")
    places = (target.receipt, *job.request.receipts)
    write_receipt(text.decode(), places)
    document = document_of(job, Stage.RECORD, [], receipts=[str(place) for place in places])
    return Staged(f"recorded in {', '.join(map(str, places))}", document)


def _tools(job: Job) -> Mapping[str, str]:
    tools = job.state.read(Stage.COPY).get("tools") if job.state.has(Stage.COPY) else None
    versions = tools if isinstance(tools, dict) else tool_versions((), job.context)
    return {str(name): str(version) for name, version in versions.items()}


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


def _changed(target: TargetStore) -> Problem:
    return Problem(
        subject=str(target.graph_root),
        message="has other records than when it was verified",
        hint="run stage verify again, which reads what is there now",
    )


STAGES: Mapping[Stage, Callable[[Job], Staged]] = {
    Stage.DISCOVER: _discover,
    Stage.RESOLVE: _resolve,
    Stage.PREFLIGHT: _preflight,
    Stage.COPY: _copy,
    Stage.LABEL: _label,
    Stage.VERIFY: _verify,
    Stage.RECORD: _record,
}
WRITING = (Stage.COPY, Stage.LABEL, Stage.VERIFY, Stage.RECORD)
"""Stages that a dry run leaves undone."""
