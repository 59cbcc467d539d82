"""The recipe of ``verify``, apart from the others so that it loads no more than it needs; and its proof,
with which theirs end too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from installer_plugin.declared import configured, nothing_bound
from installer_plugin.demands import demands_of
from installer_plugin.errors import DataError, VerificationError
from installer_plugin.expectations import deployments, open_deployment
from installer_plugin.model import Expected, VerifiedImage
from installer_plugin.opening import Opened, on_target, require_target
from installer_plugin.process.pool import Crew
from installer_plugin.request import TARGET_ITSELF, Work
from installer_plugin.stages.label import verify_labels
from installer_plugin.stages.report import undeclared_text
from installer_plugin.stages.verify import STAGE, VerifyOptions, verify
from installer_plugin.storage.selinux import Policy, find_policy
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.target_store import TargetStore


def verify_target(
    work: Work, also: Sequence[Expected] = (), options: VerifyOptions | None = None
) -> tuple[VerifiedImage, ...]:
    """Read a finished target again; empty when its deployments declare no bound images at all.

    What to expect comes from its deployments, its receipt, a lock file and ``--source``, whichever
    there are, and from *also*. What its receipt lists and no deployment declares any more is named, and
    not expected. Without any of them there is nothing to prove, which is an error of the
    caller. Nothing is written, not even by the journal of a disk's file system.
    """
    with on_target(work.read_only()) as (inner, disk), Opened(inner, disk) as opened:
        target = require_target(inner.request)
        source = None if inner.request.source == TARGET_ITSELF else opened
        with configured():
            demands = demands_of(target, inner.request, source, also)
            policy = policy_for(target, source)
        if demands.undeclared:
            inner.events.step(STAGE, undeclared_text(demands.undeclared))
        if not demands.expected:
            if inner.request.require_bound_images:
                raise nothing_bound(str(target.physical_root))
            return ()
        images = prove(inner, opened.crew, demands.expected, policy, options)
        shown = disk.shown if disk else str
        return tuple(replace(image, where=shown(image.where)) for image in images)


def prove(
    work: Work,
    crew: Crew,
    expected: Sequence[Expected],
    policy: Policy | None,
    options: VerifyOptions | None = None,
) -> tuple[VerifiedImage, ...]:
    """Read the target store again and compare it with *expected*; raises VerificationError."""
    target = require_target(work.request)
    options = options or VerifyOptions(workers=work.request.jobs)
    try:
        with GraphRoot.open(target.graph_root) as store:
            proofs = verify(store, expected, work.events, crew, options)
    except DataError as error:
        hint = "the images are not on the target: copy them"
        raise VerificationError(error.problem(hint=hint)) from error
    labels = verify_labels(target.graph_root, policy, work.events, work.runner)
    return tuple(replace(image, checks=(*image.checks, *labels)) for image in proofs)


def policy_for(target: TargetStore, opened: Opened | None) -> Policy | None:
    """The SELinux policy that will judge the store: the target's own, or the one being installed.

    *opened* is None without a source.
    """
    for path in deployments(target.physical_root):
        with open_deployment(target.physical_root, path) as deployment:
            policy = find_policy(deployment)
            if policy:
                return policy
    return find_policy(opened.root) if opened else None
