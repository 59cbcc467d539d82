"""Options, each defined once, and how they become a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import click

from installer_plugin.block.base import BackendChoice, Key, OpenOptions
from installer_plugin.cli import completion
from installer_plugin.request import Context, Request, Work
from installer_plugin.storage.base import STORE_FORMS, Backend, EngineChoice

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
"""click's decorators keep no types of the options they add; ``Given`` restores them."""


class Given(TypedDict, total=False):
    """The options of all commands, as click passes them: their names are the options' own, since
    the environment names are made of them.
    """

    format: str
    progress_fd: int | None
    quiet: bool
    require_bound_images: bool
    store: tuple[str, ...]
    lock: Path | None
    engine: str
    allow_other_architecture: bool
    no_space_check: bool
    backend: str | None
    scratch: Path | None
    jobs: int | None
    target: Path | None
    receipt: tuple[Path, ...]
    receipt_source: str
    output: Path | None
    dry_run: bool
    key_file: Path | None
    passphrase_file: Path | None
    root_partition: str
    open_with: str


FILE = click.Path(dir_okay=False, path_type=Path)
PLACE = click.Path(path_type=Path)
DIRECTORY = click.Path(file_okay=False, exists=True, path_type=Path)

store = click.option(
    "--store", multiple=True, metavar="S", shell_complete=completion.stores,
    help=f"Where to look for the images: {STORE_FORMS}. May be given several times.  "
    "[default: the stores of storage.conf]",
)  # fmt: skip
lock = click.option(
    "--lock", type=FILE, metavar="FILE", help="Require the digests in this lock file."
)
engine = click.option(
    "--engine", type=click.Choice([choice.value for choice in EngineChoice]),
    default=EngineChoice.AUTO.value, show_default=True, help="What copies between local stores.",
)  # fmt: skip
other_architecture = click.option(
    "--allow-other-architecture", is_flag=True,
    help="Take images for another architecture than that of the OS image.",
)  # fmt: skip
no_space_check = click.option(
    "--no-space-check", is_flag=True,
    help="Go on where the disk or target seems too small.",
)  # fmt: skip
backend = click.option(
    "--backend", type=click.Choice([backend.value for backend in Backend]),
    help="Layout of the target.  [default: as found on it]",
)  # fmt: skip
scratch = click.option(
    "--scratch", type=DIRECTORY, metavar="DIR",
    help="Directory for temporary files.  [default: $TMPDIR or /var/tmp, else the target]",
)  # fmt: skip
jobs = click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many layers to verify at once.",
)
receipt = click.option(
    "--receipt", type=FILE, multiple=True, metavar="FILE",
    help="Also write the receipt to this file.",
)  # fmt: skip
receipt_source = click.option(
    "--receipt-source", default="", metavar="TEXT",
    help="What the receipt names as the source, and no place of this machine: for builds.  "
    "[default: SOURCE]",
)  # fmt: skip
key_file = click.option(
    "--key-file", type=FILE, metavar="FILE", help="The key of an encrypted disk, byte for byte."
)
passphrase_file = click.option(
    "--passphrase-file", type=FILE, metavar="FILE",
    help="A file that holds the passphrase of an encrypted disk.  [default: the machine's TPM]",
)  # fmt: skip
root_partition = click.option(
    "--root-partition", default="", metavar="P", shell_complete=completion.partitions,
    help="The root of a disk: number, name, label or device of a partition, or GROUP/VOLUME.  "
    "[default: found by type, name, label, content]",
)  # fmt: skip
open_with = click.option(
    "--open-with", type=click.Choice([choice.value for choice in BackendChoice]),
    default=BackendChoice.AUTO.value, show_default=True,
    help="What looks at a disk and opens its layers.",
)  # fmt: skip
disk = (key_file, passphrase_file, root_partition, open_with)
"""Options of what may be a disk."""
dry_run = click.option("--dry-run", is_flag=True, help="Check everything, change nothing.")

_require = click.option(
    "--require-bound-images", is_flag=True,
    help="Fail (exit 3) when no bound images are declared.",
)  # fmt: skip
_format = click.option(
    "--format", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="What to print on stdout: tables for people or one JSON document.",
)  # fmt: skip
_progress_fd = click.option(
    "--progress-fd", type=click.IntRange(min=0), metavar="N",
    help="Write progress as JSON lines to file descriptor N.",
)  # fmt: skip
_quiet = click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
common = (_require, _format, _progress_fd, _quiet)


def options(*decorators: Decorator) -> Decorator:
    """Several options at once, shown by ``--help`` in this order, the common ones last."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed((*decorators, *common)):
            command = decorator(command)
        return command

    return decorate


def speech(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that has nothing to do with images: how it speaks."""
    for decorator in reversed((_format, _progress_fd, _quiet)):
        command = decorator(command)
    return command


_OURS = (
    "format", "progress_fd", "quiet", "output", "engine", "backend", "store", "receipt",
    "key_file", "passphrase_file", "root_partition", "open_with",
)  # fmt: skip
"""Options that are not taken over into the request as they are."""


def opening_of(**given: Unpack[Given]) -> OpenOptions:
    """How the target is to be opened when it is a disk."""
    key = Key(passphrase_file=given.get("passphrase_file"), key_file=given.get("key_file"))
    return OpenOptions(
        key=key,
        root_partition=given.get("root_partition", ""),
        backend=BackendChoice(given.get("open_with", BackendChoice.AUTO)),
    )


def request_of(source: str, **given: Unpack[Given]) -> Request:
    """The request that the options make."""
    engine_name = given.get("engine")
    backend_name = given.get("backend")
    plain = {
        name: value for name, value in cast("Mapping[str, Any]", given).items() if name not in _OURS
    }
    return Request(
        source=source,
        stores=given.get("store", ()),
        receipts=given.get("receipt", ()),
        engine=EngineChoice(engine_name) if engine_name else EngineChoice.AUTO,
        backend=Backend(backend_name) if backend_name else None,
        **plain,
    )


def work_of(source: str, context: Context, /, **given: Unpack[Given]) -> Work:
    """The work that a command line asks for."""
    return Work(request_of(source, **given), context, opening_of(**given))
