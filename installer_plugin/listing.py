"""The recipe of ``list``, which loads no more of the program than its source needs."""

from __future__ import annotations

from pathlib import Path

from installer_plugin.declared import configured, declarations, source_directory
from installer_plugin.request import IMAGE_PREFIX, Work
from installer_plugin.stages.discover import Discovered
from installer_plugin.storage.base import TRANSPORTS


def list_bound(work: Work) -> Discovered:
    """Read the declarations of the source; problems are in the result, next to what is usable."""
    source = work.request.source
    if not source.startswith((IMAGE_PREFIX, *TRANSPORTS)):
        with configured(), source_directory(Path(source)) as root:
            return declarations(work, root)
    # Only the root of an image has to be looked for in stores.
    from installer_plugin.opening import Opened  # noqa: PLC0415

    with Opened(work) as opened:
        return declarations(work, opened.root)
