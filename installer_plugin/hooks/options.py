"""How hooks are found and run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HookOptions:
    """How hooks are found and run."""

    root: Path = Path("/")
    """Where the hook directories are looked for."""
    unsafe_skip_verify: bool = False
    timeout: float = TIMEOUT_SECONDS
