"""Values that a shell offers when it completes a command line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from installer_plugin.errors import BoundImagesError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

IN_A_STORE = "containers-storage:"
_LAYOUTS = {
    "oci:": "an OCI layout",
    "oci-archive:": "an OCI layout in a tar file",
    "dir:": "a directory that skopeo has written",
    "docker-archive:": "a tar file that docker or podman has saved",
    "ssh://": "the podman of another host",
}


def sources(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer root directories and the images of the default stores."""
    if incomplete.startswith(IN_A_STORE):
        return _matching((f"{IN_A_STORE}{name}" for name in _image_names()), incomplete)
    return [*_matching([IN_A_STORE], incomplete, "an image in a store"), _directories()]


def stores(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the forms of a store, the default stores, and what a form's path may be."""
    for form in _LAYOUTS:
        if incomplete.startswith(form) and form != "ssh://":
            return _matching(_paths(form, incomplete.removeprefix(form)), incomplete)
    offered = [
        item for form, means in _LAYOUTS.items() for item in _matching([form], incomplete, means)
    ]
    # Once there is a path, the shell goes on with it alone.
    present = [] if incomplete else [str(path) for path in _default_stores() if path.is_dir()]
    return [*offered, *_matching(present, incomplete, "a default store"), _directories()]


def partitions(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer all partitions: click does not say which disk stands before the option."""
    from installer_plugin.block.partition_names import partition_names  # noqa: PLC0415

    return _matching(partition_names(), incomplete)


def _directories() -> CompletionItem:
    """What has the shell offer directories."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for shells alone

    return CompletionItem("", type="dir")


def _matching(
    values: Iterable[str], incomplete: str, means: str | None = None
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for shells alone

    return [CompletionItem(each, help=means) for each in values if each.startswith(incomplete)]


def _paths(form: str, path: str) -> list[str]:
    """Return the directories and, for an archive, files that continue a path, with its form."""
    parent = Path(path) if path.endswith("/") else Path(path).parent
    shown = "" if parent == Path() else f"{parent}/".replace("//", "/")
    return sorted(
        f"{form}{shown}{each.name}{'/' if each.is_dir() else ''}"
        for each in (parent.iterdir() if parent.is_dir() else ())
        if each.is_dir() or form.endswith("archive:")
    )


def _default_stores() -> tuple[Path, ...]:
    # Only completion of these values needs them: the program itself starts without.
    from installer_plugin.storage.source.containers_conf import load_storage_conf  # noqa: PLC0415

    try:
        return load_storage_conf(Path("/"), os.environ).stores
    except BoundImagesError:
        return ()  # a command that is run says what is wrong; here there is nowhere to say it


def _image_names() -> tuple[str, ...]:
    from installer_plugin.storage.source.stored_names import image_names  # noqa: PLC0415

    try:
        return image_names(_default_stores())
    except BoundImagesError:
        return ()  # as above
