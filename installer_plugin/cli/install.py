"""The command ``install``: own options, then bootc's command line, untouched."""

from __future__ import annotations

from typing import Unpack, cast

import click

from installer_plugin.cli import options as opt
from installer_plugin.cli.options import Given, options, work_of
from installer_plugin.cli.output import open_output, run_to_exit
from installer_plugin.hooks.options import TIMEOUT_SECONDS, HookOptions
from installer_plugin.hosts.bootc import install as bootc_install
from installer_plugin.hosts.bootc.bootc_cli import parse_bootc_install
from installer_plugin.hosts.bootc.mode import When
from installer_plugin.hosts.bootc.run import InstallRequest
from installer_plugin.image_json import verified_json
from installer_plugin.stages import report


class InstallGiven(Given):
    """The options of ``install``, as click passes them."""

    source_root: str | None
    when: str
    on_failure: str
    unsafe_skip_verify: bool
    verify_again: bool
    hook_timeout: float


OWN = frozenset(InstallGiven.__annotations__) - frozenset(Given.__annotations__)
PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command(context_settings=PASS_ON)
@click.option(
    "--source-root", metavar="DIR",
    help="Read the bound images of this root.  [default: the image of --source-imgref, else /]",
)  # fmt: skip
@click.option(
    "--when", type=click.Choice([when.value for when in When]), default=When.AUTO.value,
    show_default=True, help="The mode: copy in place of bootc's own copying, or after bootc is done.",
)  # fmt: skip
@click.option(
    "--on-failure", type=click.Choice(["set-aside", "keep"]), default="set-aside", show_default=True,
    help="What becomes of the boot entries of a target without its images.",
)  # fmt: skip
@click.option(
    "--verify-again", is_flag=True,
    help="Read all content of the finished disk a second time.",
)  # fmt: skip
@click.option(
    "--unsafe-skip-verify",
    is_flag=True,
    help="Allow hooks to replace or mask 50-verify, the proof.",
)
@click.option(
    "--hook-timeout", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT_SECONDS,
    show_default=True, metavar="SECONDS", help="How long each hook may take.",
)  # fmt: skip
@options(
    opt.store,
    opt.lock,
    opt.engine,
    opt.other_architecture,
    opt.no_space_check,
    opt.scratch,
    opt.jobs,
    opt.receipt,
    opt.dry_run,
    *opt.disk,
)
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="to-disk|to-filesystem|... ARGS..."
)
def install(words: tuple[str, ...], **given: Unpack[InstallGiven]) -> None:
    """Run `bootc install` with the bound images guaranteed.

    Options of this program come first. Everything from the verb on goes to bootc unchanged:

    \b
        bootc-bound-images install --lock images.lock to-disk /dev/vda
    """  # noqa: D301  click knows the character, not the escape, as the sign of lines to keep
    output = open_output(given["format"], given["progress_fd"], quiet=given["quiet"])

    def body() -> None:
        line = parse_bootc_install(words)
        source = given["source_root"] or line.source_imgref or "/"
        own = cast("Given", {name: value for name, value in given.items() if name not in OWN})
        asked = InstallRequest(
            bootc=line,
            when=When(given["when"]),
            keep=given["on_failure"] == "keep",
            hooks=HookOptions(
                unsafe_skip_verify=given["unsafe_skip_verify"], timeout=given["hook_timeout"]
            ),
            verify_again=given["verify_again"],
        )
        work = work_of(source, output.context, **own)
        done = bootc_install.install(asked, work)
        document = report.document(
            "install",
            source,
            target=str(line.target),
            when=str(done.mode.when),
            reason=done.mode.reason,
            plan=list(done.plan),
            images=[verified_json(image) for image in done.images],
        )
        text = "\n".join(done.plan) or report.verified_text(done.images, str(line.target))
        output.done(text, document)

    run_to_exit(output, body)


COMMANDS = {"install": install}
