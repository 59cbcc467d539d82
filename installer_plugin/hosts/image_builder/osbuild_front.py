"""The ``osbuild`` that image-builder finds during a build of ours: rewrites the manifest, then goes away.

image-builder looks ``osbuild`` up through PATH and hands it the manifest on stdin
(``pkg/osbuild/osbuild-exec.go``). This program stands first in PATH for that one run. In its place
continues the real one, with the words, descriptors and environment that this one was given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from installer_plugin.errors import (
    BoundImagesError,
    HostError,
    InterruptedBySignal,
    Problem,
    caught,
)
from installer_plugin.hosts.image_builder.library import library_with_stage
from installer_plugin.hosts.image_builder.manifest import SIZE_LIMIT
from installer_plugin.hosts.image_builder.prepare import Prepared, Wish, prepare
from installer_plugin.hosts.image_builder.rewrite import Mode
from installer_plugin.hosts.image_builder.session import (
    EVENTS,
    PROGRAMS,
    BuildOutcome,
    BuildSession,
    listing,
)
from installer_plugin.process.runner import Runner
from installer_plugin.process.signals import interruptible
from installer_plugin.request import Context, Work
from installer_plugin.state.event_relay import written_to

PROGRAM = "installer_plugin.hosts.image_builder.osbuild_front"
REAL = "osbuild"
STDIN = "-"
_VALUED = frozenset((
    "--cache", "--store", "-l", "--libdir", "--cache-max-size", "--checkpoint", "--export", "--in-vm",
    "--output-directory", "--monitor", "--monitor-fd", "--stage-timeout", "--rundir",
))  # fmt: skip
"""osbuild's options with a value (``osbuild/main_cli.py``)."""
_ASKING = frozenset(("--version", "--help", "-h", "--inspect"))
"""Options with which nothing is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OsbuildLine:
    """osbuild's command line, as far as it concerns us."""

    words: tuple[str, ...]
    manifest: str
    """A path, ``-`` for stdin, "" where nothing is built."""
    exports: tuple[str, ...]
    output: str
    library: str

    @property
    def words_from_stdin(self) -> tuple[str, ...]:
        """The same with the manifest from stdin."""
        at = len(self.words) - 1 - self.words[::-1].index(self.manifest)
        return (*self.words[:at], STDIN, *self.words[at + 1 :])


def parse_osbuild(words: Sequence[str]) -> OsbuildLine:
    """Take osbuild's words apart (pure)."""
    values: dict[str, list[str]] = {}
    places: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in _VALUED:
            values.setdefault(name, []).append(value if equals else next(rest, ""))
        elif word == STDIN or not word.startswith("-"):
            places.append(word)
    asks = not _ASKING.isdisjoint(words) or len(places) != 1
    library = [*values.get("-l", ()), *values.get("--libdir", ())]
    return OsbuildLine(
        words=tuple(words),
        manifest="" if asks else places[0],
        exports=tuple(values.get("--export", ())),
        output=values.get("--output-directory", [""])[-1],
        library=library[-1] if library else "",
    )


def main(argv: Sequence[str]) -> NoReturn:
    """Serve one call: ``FOLDER WORDS...``."""
    folder, line = Path(argv[0]), parse_osbuild(argv[1:])
    if not line.manifest:
        _real_osbuild(folder, line.words)
    outcome, prepared, library = _prepared(BuildSession.load(folder), line)
    outcome.save(folder)
    if prepared is None:
        # Who started the build reports them, with their hints, when the builder has given up.
        sys.stderr.write("osbuild is not started: the errors at the end say why\n")
        sys.exit(1)
    extra = ("--libdir", str(library)) if library else ()
    _hand_over(prepared.text.encode())
    _real_osbuild(folder, (*extra, *line.words_from_stdin))


def _prepared(
    session: BuildSession, line: OsbuildLine
) -> tuple[BuildOutcome, Prepared | None, Path | None]:
    """What came out, the new manifest and the library directory for it; every failure is an outcome."""
    try:
        with written_to(session.folder / EVENTS) as events, interruptible():
            work = Work(session.request, Context(Runner(), events, os.environ))
            before = listing(Path(line.output)) if line.output else None
            wish = _wish(session, line)
            name = "<stdin>" if line.manifest == STDIN else line.manifest
            prepared = prepare(_content(line.manifest), name, wish, work)
            library = None
            if prepared.images and prepared.choice.mode is Mode.STAGE:
                base = Path(line.library) if line.library else session.library
                library = library_with_stage(base, session.folder / "lib")
    except Exception as error:  # noqa: BLE001 - the door of this program: image-builder sees only 0 or 1
        return _failed(caught(error)), None, None
    except InterruptedBySignal as error:
        problem = Problem(subject=REAL, message=f"interrupted by {error.signal_name}")
        return _failed(HostError(problem)), None, None
    outcome = BuildOutcome(
        mode=prepared.choice.mode,
        reason=prepared.choice.reason,
        exports=line.exports,
        output=line.output,
        before=before,
        images=len(prepared.images),
        content_later=prepared.content_later,
    )
    return outcome, prepared, library


def _wish(session: BuildSession, line: OsbuildLine) -> Wish:
    known = session.known
    return Wish(
        when=session.when,
        larger=session.larger,
        exports=line.exports,
        reads_exports=not session.verify_again,
        known={known.id: known} if known and known.id else {},
    )


def _failed(error: BoundImagesError) -> BuildOutcome:
    return BuildOutcome(exit_code=error.exit_code, problems=error.problems)


def _content(manifest: str) -> bytes:
    if manifest != STDIN:
        with Path(manifest).open("rb") as file:
            return file.read(SIZE_LIMIT + 1)
    return sys.stdin.buffer.read(SIZE_LIMIT + 1)


def _hand_over(content: bytes) -> None:
    """Make *content* our stdin, in a file without a name that ends with its reader."""
    fd = os.memfd_create("osbuild-manifest")
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)


def _real_osbuild(folder: Path, words: Sequence[str]) -> NoReturn:
    own = str(folder / PROGRAMS)
    places = [place for place in os.environ.get("PATH", os.defpath).split(":") if place != own]
    os.environ["PATH"] = ":".join(places)
    try:
        os.execvp(REAL, [REAL, *words])  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"{REAL}: {error.strerror}")
