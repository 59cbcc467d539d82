"""The commands ``image-builder``, ``bootc-image-builder`` and ``osbuild-manifest``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import click

from installer_plugin import image_json
from installer_plugin.cli import options as opt
from installer_plugin.cli.options import Given, options, work_of
from installer_plugin.cli.output import Output, open_output, run_to_exit
from installer_plugin.errors import ConfigError, Problem
from installer_plugin.files.atomic import replace_file
from installer_plugin.hosts.image_builder import run
from installer_plugin.hosts.image_builder.builder_cli import Builder, parse_builder
from installer_plugin.hosts.image_builder.exports import Export
from installer_plugin.hosts.image_builder.library import DEFAULT
from installer_plugin.hosts.image_builder.manifest import SIZE_LIMIT
from installer_plugin.hosts.image_builder.mode import When
from installer_plugin.hosts.image_builder.prepare import Prepared, Wish, prepare
from installer_plugin.hosts.image_builder.rewrite import Mode, difference
from installer_plugin.hosts.image_builder.single_file import single_file
from installer_plugin.model import Finding, Severity
from installer_plugin.stages import report


class BuildGiven(Given):
    """The options of the commands here, as click passes them."""

    when: str
    osbuild_libdir: Path
    export: tuple[str, ...]
    inline_program: bool
    verify_again: bool


OWN = frozenset(BuildGiven.__annotations__) - frozenset(Given.__annotations__)
PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
STDIN = "-"

_when = click.option(
    "--when", type=click.Choice([when.value for when in When]), default=When.AUTO.value,
    show_default=True,
    help="Copy by a stage of ours in the build, by osbuild's own stage, or into the finished disk.",
)  # fmt: skip
_library = click.option(
    "--osbuild-libdir", type=click.Path(file_okay=False, path_type=Path), default=DEFAULT,
    show_default=True, metavar="DIR", help="osbuild's own stages; they are copied, with ours added.",
)  # fmt: skip
_verify_again = click.option(
    "--verify-again", is_flag=True,
    help="Read all content in the build as well, not only once, from the finished disk.",
)  # fmt: skip


def _own(given: BuildGiven) -> Given:
    return cast("Given", {name: value for name, value in given.items() if name not in OWN})


def _command(builder: Builder, text: str) -> click.Command:
    """The command that stands before the line of a builder."""

    def body_of(words: tuple[str, ...], **given: Unpack[BuildGiven]) -> None:
        output = open_output(given["format"], given["progress_fd"], quiet=given["quiet"])
        run_to_exit(output, lambda: _build(builder, words, given, output))

    decorators: tuple[Callable[..., Any], ...] = (
        click.command(
            str(builder),
            context_settings=PASS_ON,
            help=text,
            short_help="Build disks that have their bound images.",
        ),
        _when,
        _library,
        _verify_again,
        options(opt.lock, opt.no_space_check, opt.scratch, opt.jobs, opt.dry_run),
        click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="ARGS..."),
    )
    command: Any = body_of
    for decorate in reversed(decorators):
        command = decorate(command)
    return cast("click.Command", command)


def _build(builder: Builder, words: tuple[str, ...], given: BuildGiven, output: Output) -> None:
    line = parse_builder(builder, words)
    if not line.makes_disks:
        run.pass_through(line)
    asked = run.BuildRequest(
        line=line,
        when=When(given["when"]),
        library=given["osbuild_libdir"],
        verify_again=given["verify_again"],
    )
    built = run.build(asked, work_of("/", output.context, **_own(given)))
    _warn(output, built.content.findings)
    document = report.document(
        str(builder),
        line.image,
        mode=built.mode,
        reason=built.reason,
        planned=[image_json.resolved_json(image) for image in built.content.images],
        exports=[_export_json(export) for export in built.exports],
    )
    output.result(_built_text(built), document)


def _warn(output: Output, findings: Sequence[tuple[str, Finding]]) -> None:
    """Show warnings: notes are for authors, who use list and check."""
    output.findings([each for each in findings if each[1].severity is Severity.WARNING])


def _export_json(export: Export) -> report.Document:
    return {
        "path": str(export.path),
        "receipt": str(export.receipt) if export.receipt else None,
        "not_opened": export.not_opened,
        "images": [image_json.verified_json(image) for image in export.images],
    }


def _built_text(built: run.Built) -> str:
    if built.planned:
        plan = report.resolved_text(built.content.images)
        return f"{plan}\nwould be on the disk; nothing was built"
    if not built.exports:
        return report.NOTHING
    return "\n".join(map(_export_text, built.exports))


def _export_text(export: Export) -> str:
    if export.not_opened:
        return f"{export.path}: not opened ({export.not_opened}); proven while it was built"
    return f"{report.verified_text(export.images, str(export.path))}\nreceipt: {export.receipt}"


image_builder = _command(
    Builder.IMAGE_BUILDER,
    """The same `image-builder` command line, with the bound images in every disk it makes.

    Options of ours come first; from the first word of image-builder's on, everything goes to it as it
    is, and calls that install no bootc image (list, describe, manifest, builds without --bootc-ref) are
    passed through:

        bootc-bound-images image-builder build qcow2 --bootc-ref localhost/os:1

    The OS image and its bound images come from this machine's store (podman pull). What is missing is
    reported before anything is built. Each disk is opened and proven when it is finished, and has its
    receipt next to it: DISK.bound-images.json.
    """,
)
bootc_image_builder = _command(
    Builder.BOOTC_IMAGE_BUILDER,
    """The same `bootc-image-builder` command line, with the bound images in every disk it makes.

        bootc-bound-images bootc-image-builder build --type qcow2 localhost/os:1

    See `image-builder --help` of this program for the rest.
    """,
)


@click.command("osbuild-manifest", short_help="Have a manifest's disks carry the images.")
@click.argument("manifest", type=click.Path(dir_okay=False, allow_dash=True), metavar="MANIFEST")
@click.option(
    "--output", "-o", type=opt.FILE, metavar="FILE",
    help="Write the new manifest here.  [default: stdout]",
)  # fmt: skip
@_when
@click.option(
    "--export", multiple=True, metavar="NAME",
    help="A pipeline whose result is wanted: what cannot be opened afterwards needs --when=stage.",
)  # fmt: skip
@click.option(
    "--inline-program", is_flag=True,
    help="Have the manifest carry bootc-bound-images.pyz.  [default: osbuild's library directory has it]",
)  # fmt: skip
@options(opt.lock, opt.no_space_check, opt.scratch, opt.dry_run)
def osbuild_manifest(manifest: str, **given: Unpack[BuildGiven]) -> None:
    """Rewrite an image-builder manifest so that its disks carry the bound images.

    MANIFEST is a file, or - for stdin. --dry-run prints what would change, as a diff. The stage
    org.bootc-bound-images.install has to be in osbuild's library directory.
    """
    output = open_output(given["format"], given["progress_fd"], quiet=given["quiet"])

    def body() -> None:
        wish = Wish(
            when=When(given["when"]),
            exports=given["export"],
            program=single_file() if given["inline_program"] else b"",
        )
        name = "<stdin>" if manifest == STDIN else manifest
        work = work_of("/", output.context, **_own(given))
        prepared = prepare(_content(manifest), name, wish, work)
        _show(prepared, given, output)

    run_to_exit(output, body)


def _content(manifest: str) -> bytes:
    try:
        with click.open_file(manifest, "rb") as file:
            content: bytes = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        hint = "name the file that 'image-builder manifest' has written, or - for stdin"
        message = f"cannot be read: {error.strerror}"
        raise ConfigError(Problem(subject=manifest, message=message, hint=hint)) from error
    return content


def _show(prepared: Prepared, given: BuildGiven, output: Output) -> None:
    _warn(output, [each for content in prepared.contents.values() for each in content.findings])
    file, changed = given["output"], difference(prepared.before, prepared.text)
    if file is not None and not given["dry_run"]:
        _write(file, prepared.text)
    document = report.document(
        "osbuild-manifest",
        prepared.before.subject,
        mode=str(prepared.choice.mode) if prepared.images else "",
        reason=prepared.choice.reason if prepared.images else "",
        images=[image_json.resolved_json(image) for image in prepared.images],
        changes=changed,
        file=str(file) if file else None,
        manifest=None if file or given["dry_run"] else prepared.text,
    )
    if output.json:
        output.result("", document)
    elif given["dry_run"]:
        sys.stdout.write(changed or f"{report.NOTHING}: nothing would change\n")
    elif file is None:
        sys.stdout.write(prepared.text)
    else:
        output.result(_written_text(prepared, file), document)


def _written_text(prepared: Prepared, file: Path) -> str:
    if not prepared.images:
        return f"{report.NOTHING}; the manifest is in {file}"
    text = f"{report.resolved_text(prepared.images)}\nwill be on the disks of {file}"
    if prepared.choice.mode is Mode.STAGE:
        return text
    return f"{text} (mode {prepared.choice.mode}: run 'bootc-bound-images copy' on them afterwards)"


def _write(file: Path, text: str) -> None:
    try:
        replace_file(file, text.encode(), mode=0o644)
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        problem = Problem(subject=str(file), message=message, hint="choose another file with -o")
        raise ConfigError(problem) from error


COMMANDS = {
    command.name: command for command in (image_builder, bootc_image_builder, osbuild_manifest)
}
