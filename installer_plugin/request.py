"""What a user asks for, and the one value that is handed down to everything that works on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from installer_plugin.block.base import OpenOptions
from installer_plugin.events import Events
from installer_plugin.process.runner import Runner
from installer_plugin.storage.base import Backend, EngineChoice

IMAGE_PREFIX = "containers-storage:"
TARGET_ITSELF = ""
"""Source of a verification that has no other than the target's own deployments."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the recipes need of the world around them."""

    runner: Runner
    events: Events
    env: Mapping[str, str]
    system: Path = Path("/")
    """Whose ``/etc/containers`` is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for."""

    source: str = "/"
    """A root directory, or ``containers-storage:REFERENCE``."""
    stores: tuple[str, ...] = ()
    target: Path | None = None
    backend: Backend | None = None
    engine: EngineChoice = EngineChoice.AUTO
    allow_other_architecture: bool = False
    no_space_check: bool = False
    """Whether room is not looked at: neither what a disk will have nor what a target has."""
    lock: Path | None = None
    scratch: Path | None = None
    receipts: tuple[Path, ...] = ()
    receipt_source: str = ""
    """What receipts name as the source, and then no place of this machine at all: two builds of one
    image write one receipt. "" for *source* and the stores in which the images were found."""
    require_bound_images: bool = False
    dry_run: bool = False
    jobs: int | None = None
    """Layers verified at once; None for as many as there are processors, up to a bound."""
    fetched: Path | None = None
    """A directory that keeps a source image from elsewhere for later stages; None to fetch it again."""


@dataclass(frozen=True, slots=True)
class Work:
    """A request with what it is worked on with; handed down from the command to every stage."""

    request: Request
    context: Context
    opening: OpenOptions = field(default_factory=OpenOptions)
    """How a target that is a disk is opened."""

    @property
    def runner(self) -> Runner:
        """What starts programs."""
        return self.context.runner

    @property
    def events(self) -> Events:
        """Who is told how it goes."""
        return self.context.events

    def asking(self, request: Request) -> Work:
        """The same work on another request."""
        return replace(self, request=request)

    def telling(self, events: Events) -> Work:
        """The same work, reported to *events*; ``Events()`` is nobody."""
        return replace(self, context=replace(self.context, events=events))

    def read_only(self) -> Work:
        """The same work on a target that is opened without writing anything."""
        return replace(self, opening=replace(self.opening, read_only=True))
