"""Events that come through a file: what is not an event is skipped, and nothing stops the rest."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.errors import DataError
from installer_plugin.events import SCHEMA, Event, Events, Progress, Step, Warned
from installer_plugin.state.event_relay import LINE_LIMIT, parse_event, relayed, written_to

STEP = {"schema": SCHEMA, "type": "step", "stage": "copy", "message": "x"}
PROGRESS = {
    "schema": SCHEMA,
    "type": "progress",
    "stage": "copy",
    "reference": "x",
    "done": 1,
    "total": 2,
}


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, event: Event) -> None:
        self.events.append(event)


def line(fields: object) -> bytes:
    return json.dumps(fields).encode()


BAD = {
    "no JSON": b"podman: a word from another program",
    "cut off": line(STEP)[:-5],
    "not UTF-8": b'{"type": "\xff"}',
    "another value": b"[]",
    "nested too deeply": b"[" * 100_000,
    "number that is too long": b"9" * 10_000,
    "unknown type": line({**STEP, "type": "party"}),
    "type that is a list": line({**STEP, "type": []}),
    "no schema": line({k: v for k, v in STEP.items() if k != "schema"}),
    "field too many": line({**STEP, "more": 1}),
    "field too few": line({**STEP, "message": None}),
    "word as a count": line({**PROGRESS, "done": "1"}),
    "truth as a count": line({**PROGRESS, "done": True}),
    "broken count": line({**PROGRESS, "done": 0.5}),
    "infinite count": line({**PROGRESS, "total": float("inf")}),
    "negative count": line({**PROGRESS, "done": -1}),
    "more than all": line({**PROGRESS, "done": 3}),
    "count without end": line({**PROGRESS, "total": 10**400}),
    "line without end": b"x" * (LINE_LIMIT * 2 + 5),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_line_that_is_no_event_is_skipped(tmp_path: Path, bad: bytes) -> None:
    file, heard = tmp_path / "events", Heard()
    with relayed(file, Events([heard])):
        with written_to(file) as events:
            events.step("copy", "before")
        with file.open("ab") as stream:
            stream.write(bad + b"\n" + bad + b"\n")
        with written_to(file) as events:
            events.step("copy", "after")
    before, warning, after = heard.events
    assert (before, after) == tuple(Step(stage="copy", message=m) for m in ("before", "after"))
    assert isinstance(warning, Warned)
    assert "the work goes on" in warning.message


def test_events_come_as_they_were_sent(tmp_path: Path) -> None:
    file, heard = tmp_path / "events", Heard()
    sent: list[Event] = [
        Step(stage="copy", message="ü\n"),
        Progress(stage="copy", reference="x", done=0, total=0),
        Warned(stage="copy", message="\udcff"),
    ]
    with relayed(file, Events([heard])), written_to(file) as events:
        for event in sent:
            events.send(event)
    assert heard.events == sent


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(line))
def test_anything_is_an_event_or_a_data_error(data: bytes) -> None:
    try:
        parse_event(data)
    except DataError:
        return
    pytest.fail("was taken for an event")
