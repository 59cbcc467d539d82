"""The commands: options -> request -> recipe -> report and exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from installer_plugin import pipeline
from installer_plugin.cli import options as opt
from installer_plugin.cli.completion import sources
from installer_plugin.cli.options import PLACE, Given, options, work_of
from installer_plugin.cli.output import Output, open_output, run_to_exit
from installer_plugin.hosts.bootc.abandoned import close_abandoned
from installer_plugin.image_json import proven_json, resolved_json, verified_json
from installer_plugin.model import Severity, VerifiedImage
from installer_plugin.request import TARGET_ITSELF, Work
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


@click.command()
@click.argument("target", type=PLACE)
@click.option(
    "--source", metavar="ROOT", default=TARGET_ITSELF, shell_complete=sources,
    help="Also expect what this source declares, next to what the target's deployments declare.",
)  # fmt: skip
@click.option(
    "--receipt", type=opt.FILE, multiple=True, metavar="FILE",
    help="Expect all that this receipt lists, in place of the target's own.",
)  # fmt: skip
@click.option(
    "--once", type=opt.FILE, metavar="FILE",
    help="Do nothing when FILE says that this has proven the same deployments and receipt; else note it.",
)  # fmt: skip
@options(opt.store, opt.lock, opt.backend, opt.jobs, *opt.disk)
def verify(source: str, once: Path | None, **given: Unpack[Given]) -> None:
    """Read a finished TARGET again and prove or refute it.

    TARGET is a directory, a disk or a raw image of one. Which images it must hold is read from its
    deployments and the options; its receipt adds the digests of what is still declared. Without a
    deployment, all that the receipt lists is expected. podman is not needed.
    """
    output = _output(given)

    def body() -> None:
        work = work_of(source, output.context, **given)
        close_abandoned(work.opening.state, output.context)
        verified = _verified_once(work, once) if once else pipeline.verify_target(work)
        target = str(given["target"])
        images = [verified_json(image) for image in verified or ()]
        document = report.document("verify", target, images=images, proven_before=verified is None)
        text = f"{once}: all of {target} was proven before, nothing was read"
        if verified is not None:
            text = report.verified_text(verified, target)
        output.result(text, document)

    run_to_exit(output, body)


def _verified_once(work: Work, stamp: Path) -> tuple[VerifiedImage, ...] | None:
    # For running systems alone.
    from installer_plugin.hosts.booted.proven_once import verify_once  # noqa: PLC0415

    return verify_once(work, stamp)


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


COMMANDS = {"check": check, "copy": copy, "lock": lock, "verify": verify}
