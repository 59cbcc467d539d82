"""The command ``list``: what a source declares, with findings."""

from __future__ import annotations

import sys
from typing import Unpack

import click

from installer_plugin.cli import options as opt
from installer_plugin.cli.completion import sources
from installer_plugin.cli.options import Given, options, work_of
from installer_plugin.cli.output import Output, open_output, run_to_exit
from installer_plugin.errors import SourceImageError
from installer_plugin.image_json import bound_json
from installer_plugin.listing import list_bound
from installer_plugin.model import BoundImage
from installer_plugin.stages import report


@click.command("list", short_help="Show the bound images that SOURCE declares.")
@click.argument("source", default="/", shell_complete=sources)
@options(opt.store)
def list_command(source: str, **given: Unpack[Given]) -> None:
    """Show the bound images that SOURCE declares, with findings.

    SOURCE is a root directory (default /) or containers-storage:REFERENCE.
    """
    output = open_output(given["format"], given["progress_fd"], quiet=given["quiet"])

    def body() -> None:
        discovered = list_bound(work_of(source, output.context, **given))
        output.findings(
            [(i.reference, finding) for i in discovered.images for finding in i.findings]
        )
        document = report.document(
            "list",
            source,
            images=[
                {**bound_json(image), "findings": _findings(image)} for image in discovered.images
            ],
            problems=[report.problem_json(problem) for problem in discovered.problems],
        )
        if discovered.images or not discovered.problems or output.json:
            output.result(report.bound_text(discovered.images), document)
        if discovered.problems:
            # The JSON document has the problems already: they are told to people only.
            error = SourceImageError(*discovered.problems)
            Output(json=False, context=output.context).failure(error)
            sys.exit(error.exit_code)

    run_to_exit(output, body)


def _findings(image: BoundImage) -> list[report.Document]:
    return [report.finding_json(image.reference, finding) for finding in image.findings]


COMMANDS = {"list": list_command}
