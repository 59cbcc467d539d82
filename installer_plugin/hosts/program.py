"""Modules of ours that run as programs of their own, in whatever directory and environment."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE_PLACE = Path(__file__).resolve().parents[2]
CODE = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from installer_plugin.hosts.{module} import main; main(sys.argv[1:])"
)


def program_argv(module: str, *words: str) -> tuple[str, ...]:
    """The call of ``main`` of *module* in this package, with *words*.

    Whatever the working directory is: nothing is imported from there (-P).
    """
    code = CODE.format(module=module)
    return (sys.executable, "-P", "-c", code, str(PACKAGE_PLACE), *words)
