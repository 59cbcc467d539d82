"""The commands: options -> request -> recipe -> report and exit code."""

from __future__ import annotations

from typing import Unpack

import click

from installer_plugin import pipeline
from installer_plugin.cli import options as opt
from installer_plugin.cli.completion import sources
from installer_plugin.cli.options import PLACE, Given, options, work_of
from installer_plugin.cli.output import Output, open_output, run_to_exit
from installer_plugin.hosts.bootc.abandoned import close_abandoned
from installer_plugin.image_json import proven_json, resolved_json
from installer_plugin.model import Severity
from installer_plugin.stages import report


def _output(given: Given) -> Output:
    return open_output(given["format"], given["progress_fd"], quiet=given["quiet"])


@click.command()
@click.argument("source", default="/", shell_complete=sources)
@click.option(
    "--target", type=PLACE, metavar="T", help="Also check this target: a directory, disk or image."
)
@options(
    opt.store,
    opt.lock,
    opt.engine,
    opt.other_architecture,
    opt.no_space_check,
    opt.backend,
    opt.scratch,
    *opt.disk,
)
def check(source: str, **given: Unpack[Given]) -> None:
    """Report every problem before a disk is touched.

    All of them at once: declarations, missing images, digests, tools, space and the target.

    SOURCE is a root directory (default /) or containers-storage:REFERENCE.
    """
    output = _output(given)

    def body() -> None:
        checked = pipeline.check(work_of(source, output.context, **given))
        output.findings(checked.findings)
        document = report.document(
            "check",
            source,
            images=[resolved_json(image) for image in checked.images],
            findings=[report.finding_json(*finding) for finding in checked.findings],
        )
        output.result(report.resolved_text(checked.images), document)

    run_to_exit(output, body)


@click.command()
@click.argument("source", shell_complete=sources)
@click.argument("target", type=PLACE)
@options(
    opt.store, opt.lock, opt.engine, opt.other_architecture, opt.no_space_check, opt.backend, opt.scratch,
    opt.jobs,
    opt.receipt, opt.receipt_source, opt.dry_run, *opt.disk,
)  # fmt: skip
def copy(source: str, **given: Unpack[Given]) -> None:
    """Put the bound images of SOURCE into TARGET, proven.

    That is: check, copy, label, verify and record.

    TARGET is the directory on which the root file system being installed is mounted: its ostree/ or
    composefs/ directory is at its top. It may also be the disk, or a raw image of one.
    """
    output = _output(given)

    def body() -> None:
        work = work_of(source, output.context, **given)
        if not work.request.dry_run:
            close_abandoned(work.opening.state, output.context)
        outcome = pipeline.copy_images(work)
        # Notes are for authors, who use list and check; an installation log has the warnings.
        output.findings([each for each in outcome.findings if each[1].severity is Severity.WARNING])
        document = report.document(
            "copy",
            source,
            target=outcome.target,
            store=outcome.store,
            images=[proven_json(*pair) for pair in outcome.images],
            planned=[resolved_json(image) for image in outcome.planned],
            findings=[report.finding_json(*finding) for finding in outcome.findings],
        )
        output.done(_copy_text(outcome), document)

    run_to_exit(output, body)


def _copy_text(outcome: pipeline.Finished) -> str:
    if outcome.planned:
        plan = report.resolved_text(outcome.planned)
        return f"{plan}\nwould be copied to {outcome.store}; nothing was changed"
    verified = [proof for _, proof in outcome.images]
    return report.verified_text(verified, outcome.store)


@click.command(short_help="Pin every bound image of SOURCE to its digests.")
@click.argument("source", default="/", shell_complete=sources)
@click.option(
    "--output", "-o", type=opt.FILE, metavar="FILE",
    help="Write the lock file here.  [default: stdout]",
)  # fmt: skip
@options(opt.store, opt.other_architecture)
def lock(source: str, **given: Unpack[Given]) -> None:
    """Pin every bound image of SOURCE to its present digests.

    The lock file is for --lock of the other commands, which then accept no other images.
    """
    output = _output(given)

    def body() -> None:
        file = given["output"]
        locked = pipeline.write_lock(work_of(source, output.context, **given), file)
        if file is None:
            output.print(locked.text)
        else:
            document = report.document("lock", source, file=str(file), count=locked.count)
            output.done(report.locked_text(locked.count, str(file)), document)

    run_to_exit(output, body)


COMMANDS = {"check": check, "copy": copy, "lock": lock}
