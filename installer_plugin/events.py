"""Progress and log events: what the stages say while they work, and how it is shown."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

from installer_plugin.errors import BoundImagesError

SCHEMA = "bootc-bound-images/progress/2"
FINISHED = {"copy": "copied", "verify": "read"}
"""What has been done with an image's bytes when a stage's progress ends."""
OUTPUT = "output"
"""Stage of what is said about the output itself."""
REDRAW_SECONDS = 0.1
"""Shortest time between two drawings of a progress line on a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A stage has begun, or says what it decided."""

    stage: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a stage is with one image."""

    stage: str
    reference: str
    """The image."""
    done: int
    """Bytes."""
    total: int
    """Bytes; the image is finished when *done* equals it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something that does not stop the work but should be read."""

    stage: str
    message: str


Event = Step | Progress | Warned


class Sink(Protocol):
    """Takes events; called from several threads, one call at a time."""

    def send(self, event: Event) -> None:
        """Show or pass on *event*."""


class Stream(Protocol):
    """Where a sink writes."""

    def write(self, text: str, /) -> object:
        """Write *text*; raises OSError."""

    def flush(self) -> None:
        """Write what is kept; raises OSError."""


class Events:
    """What a stage is handed to speak to the world.

    Nobody has to listen: a sink that raises OSError gets no further events, and the others a warning.
    """

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = tuple(sinks)
        self._lock = threading.Lock()

    def send(self, event: Event) -> None:
        """Pass *event* to every sink."""
        with self._lock:
            self._send(event)

    def _send(self, event: Event) -> None:
        for sink in self._sinks:
            try:
                sink.send(event)
            except OSError as error:
                self._sinks = tuple(each for each in self._sinks if each is not sink)
                why = f"cannot be written any more ({error.strerror}), the work goes on"
                self._send(Warned(stage=OUTPUT, message=f"progress {why}"))

    def step(self, stage: str, message: str) -> None:
        """Say what *stage* begins or decided."""
        self.send(Step(stage=stage, message=message))

    def progress(self, stage: str, image: str, done: int, total: int) -> None:
        """Say how far *stage* is with *image*, in bytes."""
        self.send(Progress(stage=stage, reference=image, done=min(done, total), total=total))

    def warn(self, stage: str, message: str) -> None:
        """Say what should be read although the work goes on."""
        self.send(Warned(stage=stage, message=message))


@contextmanager
def after_failure(events: Events, stage: str, doing: str) -> Iterator[None]:
    """What is still done when something has failed: that this fails too is a warning, no more.

    The first error is the one that people must see; *doing* says what was tried after it.
    """
    try:
        yield
    except (BoundImagesError, OSError) as error:
        events.warn(stage, f"{doing}: {error}")


def counted(number: int, noun: str) -> str:
    """*number* things, in the singular when it is one: ``1 image``, ``2 images``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def iec(size: float) -> str:
    """*size* bytes in IEC units, three significant digits: ``1.23 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            break
        size /= 1024
    if unit == "B":
        return f"{int(size)} B"
    return f"{size:#.3g}".rstrip(".") + f" {unit}"


@dataclass(slots=True)
class _Rate:
    """Speed of one image's work since its first event."""

    began: float
    first: int

    def text(self, event: Progress) -> str:
        elapsed = time.monotonic() - self.began
        moved = event.done - self.first
        if elapsed <= 0 or moved <= 0:
            return ""
        rate = moved / elapsed
        left = (event.total - event.done) / rate
        return f"  {iec(rate)}/s  {left:.0f} s left"


class PlainSink:
    """One line an event, no cursor movement: for logs. An image's progress is a line when it ends."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def send(self, event: Event) -> None:
        """Write *event* as a line."""
        if isinstance(event, Progress):
            if event.done < event.total:
                return
            verb = FINISHED.get(event.stage, "done")
            self._stream.write(f"{event.stage}: {event.reference}: {iec(event.total)} {verb}\n")
        else:
            word = "warning: " if isinstance(event, Warned) else ""
            self._stream.write(f"{event.stage}: {word}{event.message}\n")
        self._stream.flush()


class TerminalSink:
    """For people: progress is one line that is drawn again and again, then left as finished.

    Of images that are worked on at the same time it is about the first one: a line that jumps to and
    fro between them can't be read.
    """

    def __init__(self, stream: Stream, *, columns: int, colour: bool) -> None:
        self._stream = stream
        self._columns = columns
        self._bold, self._yellow, self._reset = (
            ("\x1b[1m", "\x1b[33m", "\x1b[0m") if colour else ("", "", "")
        )
        self._rates: dict[tuple[str, str], _Rate] = {}
        """Of images that are not finished, those begun first in front."""
        self._drawn = 0.0

    def send(self, event: Event) -> None:
        """Draw *event*."""
        if isinstance(event, Progress):
            self._progress(event)
            return
        colour = self._yellow if isinstance(event, Warned) else self._bold
        word = "warning: " if isinstance(event, Warned) else ""
        self._line(f"{colour}{event.stage:>9}{self._reset}  {word}{event.message}\n")

    def _progress(self, event: Progress) -> None:
        now, key = time.monotonic(), (event.stage, event.reference)
        rate = self._rates.setdefault(key, _Rate(now, event.done))
        finished = event.done >= event.total
        if finished:
            del self._rates[key]
        elif now - self._drawn < REDRAW_SECONDS or key != self._first(event.stage):
            return
        self._drawn = now
        tail = f"  {iec(event.total)}" if finished else self._counted(event) + rate.text(event)
        room = max(self._columns - 12 - len(tail), 8)
        image = (
            event.reference if len(event.reference) <= room else "…" + event.reference[1 - room :]
        )
        self._line(f"{event.stage:>9}  {image}{tail}" + ("\n" if finished else ""))

    def _first(self, stage: str) -> tuple[str, str]:
        """The unfinished image that is shown; there is one."""
        return next(key for key in self._rates if key[0] == stage)

    @staticmethod
    def _counted(event: Progress) -> str:
        share = 100 * event.done // event.total if event.total else 100
        return f"  {share:3d}%  {iec(event.done)}/{iec(event.total)}"

    def _line(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()


class JsonLinesSink:
    """One JSON object a line, for programs (``--progress-fd``).

    Those that are slow miss some of the progress of images that are not finished.
    """

    def __init__(self, stream: Stream, has_room: Callable[[], bool] = lambda: True) -> None:
        """*has_room* is whether a line can be written without waiting for the reader."""
        self._stream = stream
        self._has_room = has_room

    def send(self, event: Event) -> None:
        """Write *event* as a JSON line."""
        if isinstance(event, Progress) and event.done < event.total and not self._has_room():
            return
        kind = {Step: "step", Progress: "progress", Warned: "warning"}[type(event)]
        fields = {name: getattr(event, name) for name in event.__slots__}
        self._stream.write(json.dumps({"schema": SCHEMA, "type": kind, **fields}) + "\n")
        self._stream.flush()


def sink_for(stream: TextIO, outlet: Stream | None = None) -> Sink:
    """The sink that suits *stream*: drawn on a terminal, plain lines elsewhere (``NO_COLOR`` holds).

    It writes to *outlet*, which leads to the same place, where one is given.
    """
    outlet = outlet or stream
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return PlainSink(outlet)
    columns = os.get_terminal_size(stream.fileno()).columns
    return TerminalSink(outlet, columns=columns, colour=not os.environ.get("NO_COLOR"))
