"""Events from a process that has no way to our terminal: written to a file, passed on as they come."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from installer_plugin.errors import DataError
from installer_plugin.events import OUTPUT, Event, Events, JsonLinesSink, Progress, Step, Warned
from installer_plugin.files.outlet import Outlet
from installer_plugin.process.threads import alongside

POLL_SECONDS = 0.1
READ_BYTES = 1 << 16
LINE_LIMIT = 1 << 20
"""Bytes of an event; ours are far shorter."""
MAX_BYTES = 1 << 63
_KINDS: Mapping[str, type[Event]] = {"step": Step, "progress": Progress, "warning": Warned}


@contextmanager
def written_to(file: Path) -> Iterator[Events]:
    """Events whose readers are elsewhere; see :func:`relayed`."""
    with file.open("ab", buffering=0) as stream:
        yield Events([JsonLinesSink(Outlet(stream.fileno()))])


@contextmanager
def relayed(file: Path, events: Events) -> Iterator[None]:
    """Pass on to *events* what another process writes to *file*, until the context is left.

    What cannot be read as an event is skipped, and reported once.
    """
    file.touch(mode=0o600)
    with file.open("rb") as stream:
        relay = _Relay(stream, events)

        def pass_on(ended: threading.Event) -> None:
            while True:
                last = ended.is_set()  # asked first: what is written before the end is still read
                relay.pass_on()
                if last:
                    return
                ended.wait(POLL_SECONDS)

        with alongside(pass_on, "event-relay"):
            yield


class _Relay:
    """Cuts what is read from a file into events."""

    def __init__(self, stream: BinaryIO, events: Events) -> None:
        self._stream = stream
        self._events = events
        self._rest = b""
        self._has_warned = False

    def pass_on(self) -> None:
        """Pass on all events that have been written by now."""
        try:
            while data := self._stream.read(READ_BYTES):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._pass_on(line)
                if len(self._rest) > LINE_LIMIT:
                    self._rest = self._rest[:LINE_LIMIT]
        except OSError as error:
            self._warn(f"cannot be read: {error.strerror}")

    def _pass_on(self, line: bytes) -> None:
        try:
            event = parse_event(line)
        except DataError as error:
            self._warn(error.message)
        else:
            self._events.send(event)

    def _warn(self, why: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            said = f"an event of the copying inside bootc {why}; the work goes on"
            self._events.warn(OUTPUT, said)


def parse_event(line: bytes) -> Event:
    """An event as JsonLinesSink writes it; raises DataError."""
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("type")]
        del fields["schema"]
        event = kind(**fields)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataError("event", "is not one, expected a line of JSON as we write it") from error
    if not _is_sound(event):
        raise DataError("event", "has values of another kind than events have")
    return event


def _is_sound(event: Event) -> bool:
    """Whether all values are of the kinds that sinks count on: a line can have any."""
    values = {name: getattr(event, name) for name in event.__slots__}
    done, total = values.pop("done", 0), values.pop("total", 0)
    return (
        all(isinstance(each, str) for each in values.values())
        and type(done) is type(total) is int
        and 0 <= done <= total <= MAX_BYTES
    )
