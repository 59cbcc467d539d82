"""Stage label: SELinux labels for the target store, and verification step 9, which reads them back.

bootc labels its store once and leaves a stamp (``.bootc_labeled``); what comes later is nobody's but
ours to label. The build host needs no SELinux of its own.
"""

from __future__ import annotations

from pathlib import Path

from installer_plugin.errors import CopyError, DataError, Problem, VerificationError
from installer_plugin.events import Events
from installer_plugin.files.scratch import scratch_directory, usual_place
from installer_plugin.process.runner import CommandError, Runner, find_tool
from installer_plugin.storage.layer.page_cache import sync_file_system
from installer_plugin.storage.selinux import (
    SETFILES,
    SETFILES_HINT,
    Policy,
    label_store,
    wrong_labels,
)

STAGE = "label"
CHECK = "labels"
SHOWN_FILES = 20
"""Wrongly labelled files that an error lists."""


def label(graph_root: Path, policy: Policy | None, events: Events, runner: Runner) -> None:
    """Give the store the labels of *policy* and flush them; nothing to do without a policy.

    Raises CopyError.
    """
    if policy is None:
        events.step(STAGE, "the target has no SELinux policy, nothing to label")
        return
    events.step(STAGE, f"labelling by the policy {policy.name} of {policy.where}")
    try:
        with scratch_directory(usual_place()) as scratch:
            label_store(graph_root, policy, scratch, runner)
        sync_file_system(graph_root, runner)
    except CommandError as error:
        raise CopyError(error.problem(str(graph_root), hint=SETFILES_HINT)) from error
    except OSError as error:
        raise CopyError(
            DataError(str(graph_root), f"cannot be labelled: {error.strerror}").problem()
        ) from error


def verify_labels(
    graph_root: Path, policy: Policy | None, events: Events, runner: Runner
) -> tuple[str, ...]:
    """Step 9 of verification: every label is the one that *policy* gives; returns its name when done.

    Without setfiles the step is left out with a warning: nothing else knows what a policy says.
    Raises VerificationError with the files that are wrong.
    """
    if policy is None:
        return ()
    if not find_tool(SETFILES):
        events.warn("verify", f"labels not read back: {SETFILES} is missing ({SETFILES_HINT})")
        return ()
    events.step("verify", f"reading labels, expecting those of the policy {policy.name}")
    try:
        with scratch_directory(usual_place()) as scratch:
            wrong = wrong_labels(graph_root, policy, scratch, runner)
    except CommandError as error:
        raise VerificationError(error.problem(str(graph_root), hint=SETFILES_HINT)) from error
    if wrong:
        raise VerificationError(
            *(
                Problem(
                    subject=f"{graph_root}{file.path}",
                    message=f"has the label {file.seen}, expected {file.expected}",
                    hint="run 'bootc-bound-images copy' again, which labels the store",
                )
                for file in wrong[:SHOWN_FILES]
            ),
            *_more(len(wrong) - SHOWN_FILES, graph_root),
        )
    return (CHECK,)


def _more(count: int, graph_root: Path) -> tuple[Problem, ...]:
    if count <= 0:
        return ()
    return (Problem(subject=str(graph_root), message=f"{count} more files have wrong labels"),)
