"""What the cases run, and where it is."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import run

REPOSITORY = Path(__file__).parents[1]
STANDIN = Path(__file__).parent / "standin"
PARTITIONS = Path(__file__).parent / "partitions"


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, and the variables that it needs beyond ours."""

    argv: tuple[str, ...]
    env: Mapping[str, str]

    def run(self, *, ok: int = 0) -> subprocess.CompletedProcess[str]:
        """Run it, with the exit code that it must have."""
        return run(self.argv, env=self.env, ok=(ok,))
