"""The command ``verify``: whether a finished target holds what it must."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from installer_plugin.cli import options as opt
from installer_plugin.cli.completion import sources
from installer_plugin.cli.options import PLACE, Given, options, work_of
from installer_plugin.cli.output import open_output, run_to_exit
from installer_plugin.hosts.bootc.abandoned import close_abandoned
from installer_plugin.image_json import verified_json
from installer_plugin.model import VerifiedImage
from installer_plugin.proving import verify_target
from installer_plugin.request import TARGET_ITSELF, Work
from installer_plugin.stages import report


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
    output = open_output(given["format"], given["progress_fd"], quiet=given["quiet"])

    def body() -> None:
        work = work_of(source, output.context, **given)
        close_abandoned(work.opening.state, output.context)
        verified = _verified_once(work, once) if once else verify_target(work)
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


COMMANDS = {"verify": verify}
