"""Events from a process that has no way to our terminal: written to a file, passed on as they come."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer_plugin.events import Event, Events, JsonLinesSink, Progress, Step, Warned

POLL_SECONDS = 0.1
_KINDS = {"step": Step, "progress": Progress, "warning": Warned}


@contextmanager
def written_to(file: Path) -> Iterator[Events]:
    """Events whose readers are elsewhere; see :func:`relayed`."""
    with file.open("a") as stream:
        yield Events([JsonLinesSink(stream)])


@contextmanager
def relayed(file: Path, events: Events) -> Iterator[None]:
    """Pass on to *events* what another process writes to *file*, until the context is left."""
    file.touch(mode=0o600)
    ended = threading.Event()
    with file.open() as stream:

        def pass_on() -> None:
            rest = ""
            while True:
                last = ended.is_set()  # asked first: what is written before the end is still read
                *lines, rest = (rest + stream.read()).split("\n")
                for line in lines:
                    events.send(parse_event(line))
                if last:
                    return
                ended.wait(POLL_SECONDS)

        reader = threading.Thread(target=pass_on, name="event-relay", daemon=True)
        reader.start()
        try:
            yield
        finally:
            ended.set()
            reader.join()


def parse_event(line: str) -> Event:
    """An event as JsonLinesSink writes it."""
    fields = json.loads(line)
    kind = _KINDS[fields.pop("type")]
    del fields["schema"]
    event: Event = kind(**fields)
    return event
