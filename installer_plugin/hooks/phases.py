"""The phases of an installation, and the places of our own stages in them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Phase(StrEnum):
    """When hooks run; the value is argv[1] of a hook and names its directory."""

    PRE_INSTALL = "pre-install"
    """The target is untouched."""
    POST_INSTALL = "post-install"
    """The target is mounted and can be written."""
    VERIFY = "verify"
    """The target is mounted read-only."""
    CLEANUP = "cleanup"
    """Always, whatever has happened before."""


VERIFY_STAGE = "50-verify"
"""Without it nothing is proven."""
RECORD_STAGE = "60-record"
"""Without it no receipt is written."""
OUR_STAGES: Mapping[Phase, tuple[str, ...]] = MappingProxyType(
    {
        Phase.PRE_INSTALL: ("10-discover", "20-resolve", "30-preflight"),
        Phase.POST_INSTALL: ("20-copy", "30-label"),
        Phase.VERIFY: (VERIFY_STAGE, RECORD_STAGE),
        Phase.CLEANUP: (),
    }
)
