"""Does what the guard of a killed installation has not done, where there has been one.

Every call of ours looks, and hardly one finds a record: what acts on it is loaded for that one.
"""

from __future__ import annotations

import os
from pathlib import Path

from installer_plugin.block.owner_lock import claimed, opening
from installer_plugin.errors import BoundImagesError
from installer_plugin.events import Events
from installer_plugin.process.runner import Runner
from installer_plugin.request import Context

PREFIX = "unproven-"
"""How the names of records begin, see ``watchdog``."""
STAGE = "install"
UNPROVEN = "the installation has ended before its images were proven"
PATIENCE_SECONDS = 60.0
"""How long the kernel may take to let go of a disk whose users were killed."""
FAILURES = (BoundImagesError, OSError)


def close_abandoned(state: Path, context: Context) -> None:
    """Do what a guard that was killed has not done; what cannot be done is told."""
    if os.geteuid() != 0 or not state.is_dir():
        return
    with opening(state):
        records = sorted(state.glob(f"{PREFIX}*"))
    for record in records:
        try:
            # A guard is waited for, which may be about to do it.
            with claimed(record, PREFIX, PATIENCE_SECONDS) as ours:
                if ours and record.exists():
                    settle(record, state, context.runner, context.events)
        except FAILURES as error:
            if not record.exists():
                continue  # somebody else has done it
            said = f"an installation has failed, and its target may boot: {error}"
            context.events.warn(STAGE, f"{said}; keep it from booting, then remove {record}")


def settle(record: Path, state: Path, runner: Runner, events: Events) -> None:
    """Keep the target that *record* names from booting; raises FAILURES."""
    from installer_plugin.hosts.bootc.boot_block import Unproven  # noqa: PLC0415 - see above

    content = record.read_bytes()
    if content:  # else it was killed before it had begun
        unproven = Unproven.parse(content, str(record), state)
        unproven.keep_from_booting(UNPROVEN, runner, events)
        events.step(STAGE, f"{unproven.before.target}: {UNPROVEN}: its boot entries are set aside")
    over(record)


def over(record: Path) -> None:
    """Nothing more is to be done about *record*, whatever happens from now on."""
    record.unlink(missing_ok=True)
