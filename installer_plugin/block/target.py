"""A target opened as a directory: a mounted one as it is, a disk or raw image by opening it first.

What opens disks is loaded when there is one: it takes as long to load as a small image takes to copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.block.base import OpenedTarget, OpenOptions
from installer_plugin.errors import ConfigError
from installer_plugin.events import Events
from installer_plugin.process.runner import Runner


@contextmanager
def open_target(
    path: Path, options: OpenOptions, runner: Runner, events: Events
) -> Iterator[OpenedTarget]:
    """*path* as a physical root: a directory is passed through, anything else opened and mounted.

    A disk is mounted read-only; :func:`make_writable` is for the moment when all checks have passed.
    Whatever was set up is taken back when the context is left, and on the disk by then. What a killed
    run left behind is taken back first.

    Raises ConfigError for what the caller has to correct or choose, HostError for the rest: a disk in
    use, without a root, that cannot be mounted, or that cannot be closed again.
    """
    if path.is_dir():
        _require_no_partition(path, options)
        yield OpenedTarget(named=path, physical_root=path)
        return
    from installer_plugin.block.disk_target import opened_root  # noqa: PLC0415 - see above

    with opened_root(path, options, runner, events) as opened:
        yield opened


@contextmanager
def open_boot_places(
    path: Path, options: OpenOptions, runner: Runner, events: Events
) -> Iterator[tuple[Path, ...]]:
    """Every file system of *path* that may have boot entries, to be written; a directory is one.

    What of a disk cannot be opened, such as an encrypted root without its key, is left out and told
    to *events*, as long as there is another. Raises as :func:`open_target` does.
    """
    if path.is_dir():
        yield (path,)
        return
    from installer_plugin.block.disk_target import opened_boot_places  # noqa: PLC0415 - see above

    with opened_boot_places(path, options, runner, events) as places:
        yield places


def make_writable(target: OpenedTarget, runner: Runner) -> None:
    """Have what is mounted at a disk's root written to from now on; raises HostError."""
    if target.device is not None:
        from installer_plugin.block import disk_target  # noqa: PLC0415 - see above

        disk_target.make_writable(target, target.device, runner)


def forget_memory(target: OpenedTarget) -> None:
    """Have what is read of an image of another format come from its own file, not from memory.

    Its loop device reads what FUSE shows, of which the kernel keeps pages: for a second after they
    were written, reading past the page cache of the file system on it still finds them. What was
    written has to be on the disk by now. Raises HostError.
    """
    if target.export is not None:
        from installer_plugin.block.disk_target import forget_pages  # noqa: PLC0415 - see above

        forget_pages(target, target.export)


def _require_no_partition(path: Path, options: OpenOptions) -> None:
    if options.root_partition:
        raise ConfigError.of(
            str(path),
            "is a directory, which has no partitions to choose from",
            hint="leave --root-partition out, or name the disk",
        )
