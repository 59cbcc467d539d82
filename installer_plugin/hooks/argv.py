"""How a hook is called (pure)."""

from __future__ import annotations

from pathlib import Path

from installer_plugin.hooks.phases import Phase
from installer_plugin.hooks.plan import Planned
from installer_plugin.process.runner import our_program_argv

READ_ONLY = "installer_plugin.hooks.read_only"


def hook_argv(hook: Planned, file: Path, target: Path | None) -> tuple[str, ...]:
    """The call of *file*, which sees a *target* that it cannot write to in the ``verify`` phase.

    Our own stages there write, the receipt for one; so may what stands in the place of one.
    """
    argv = (str(file), hook.phase)
    if hook.phase is not Phase.VERIFY or hook.is_ours or target is None:
        return argv
    return (
        "unshare", "--mount", "--propagation", "private",
        "--", *our_program_argv(READ_ONLY, str(target), *argv),
    )  # fmt: skip
