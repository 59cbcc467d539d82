"""Progress and log events, as terminals, logs and programs get them."""

import io
import json
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Iterator
from fcntl import ioctl

import pytest

from installer_plugin import events
from installer_plugin.events import (
    SCHEMA,
    Events,
    JsonLinesSink,
    PlainSink,
    Progress,
    TerminalSink,
    iec,
    sink_for,
)

MIB = 1 << 20
ESCAPE = re.compile(r"\x1b\[[0-9;]*[mK]")


class Clock:
    """Time as a test sets it; the rate that is shown depends on it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(events, "time", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    """A terminal of 80 columns."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(slave, "w") as stream:
        yield stream
    os.close(master)


def _lines(text: str) -> list[str]:
    """What a terminal shows one after the other, escapes taken out."""
    return [ESCAPE.sub("", part) for part in text.split("\r") if part]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1024, "1.00 KiB"), (10240, "10.0 KiB"),
        (102400, "100 KiB"), (MIB, "1.00 MiB"), (1.5 * 1024 * MIB, "1.50 GiB"),
        (5000 * 1024 * MIB, "4.88 TiB"),
    ],
    ids=str,
)  # fmt: skip
def test_size_has_three_digits_and_a_unit(size: float, text: str) -> None:
    assert iec(size) == text


# --- terminal --------------------------------------------------------------------------------


def _terminal(clock: Clock, *, colour: bool = False) -> tuple[io.StringIO, Events]:
    stream = io.StringIO()
    return stream, Events([TerminalSink(stream, columns=80, colour=colour)])


def test_terminal_redraws_one_line_and_leaves_it_finished(clock: Clock) -> None:
    stream, speak = _terminal(clock)
    speak.progress("copy", "quay.io/x:1", 0, 100 * MIB)
    clock.now += 2
    speak.progress("copy", "quay.io/x:1", 50 * MIB, 100 * MIB)
    clock.now += 2
    speak.progress("copy", "quay.io/x:1", 100 * MIB, 100 * MIB)
    assert _lines(stream.getvalue()) == [
        "     copy  quay.io/x:1    0%  0 B/100 MiB",
        "     copy  quay.io/x:1   50%  50.0 MiB/100 MiB  25.0 MiB/s  2 s left",
        "     copy  quay.io/x:1  100 MiB\n",
    ]


def test_terminal_is_not_drawn_more_often_than_eyes_can_see(clock: Clock) -> None:
    stream, speak = _terminal(clock)
    for done in range(1, 100):
        speak.progress("copy", "x", done, 100)
        clock.now += 0.01
    assert 9 <= len(_lines(stream.getvalue())) <= 11
    speak.progress("copy", "x", 100, 100)
    assert stream.getvalue().endswith("x  100 B\n")


def test_terminal_shows_one_of_several_images_at_a_time(clock: Clock) -> None:
    stream, speak = _terminal(clock)
    for done in (1, 2, 3):
        for image in ("a", "b"):
            clock.now += 1
            speak.progress("copy", image, done * MIB, (3 if image == "a" else 4) * MIB)
    clock.now += 1
    speak.progress("copy", "b", 4 * MIB, 4 * MIB)
    assert [line.split()[1:4] for line in _lines(stream.getvalue())] == [
        ["a", "33%", "1.00"],
        ["a", "66%", "2.00"],
        ["a", "3.00", "MiB"],
        ["b", "75%", "3.00"],
        ["b", "4.00", "MiB"],
    ]


def test_terminal_shows_a_stage_whose_predecessor_did_not_finish(clock: Clock) -> None:
    stream, speak = _terminal(clock)
    speak.progress("copy", "a", 1, 2)
    clock.now += 1
    speak.progress("verify", "b", 1, 2)
    assert "verify  b   50%" in stream.getvalue()


@pytest.mark.parametrize("length", [5, 40, 60, 80, 300])
@pytest.mark.parametrize("done", [0, 511 * MIB, 1024 * MIB], ids=["begun", "half", "done"])
def test_terminal_line_fits_into_its_columns(length: int, done: int, clock: Clock) -> None:
    stream, speak = _terminal(clock)
    name = "x" * (length - 4) + ":end"
    speak.progress("preflight", name, 0, 1024 * MIB)
    clock.now += 60
    speak.progress("preflight", name, done, 1024 * MIB)
    for line in _lines(stream.getvalue()):
        assert len(line.rstrip("\n")) <= 80
        assert ":end" in line


def test_empty_image_is_finished_at_once(clock: Clock) -> None:
    stream, speak = _terminal(clock)
    speak.progress("copy", "x", 0, 0)
    assert _lines(stream.getvalue()) == ["     copy  x  0 B\n"]


@pytest.mark.parametrize(
    ("colour", "begin"), [(True, "\x1b[33m  resolve\x1b[0m"), (False, "  resolve")]
)
def test_terminal_shows_steps_and_warnings(begin: str, clock: Clock, *, colour: bool) -> None:
    stream, speak = _terminal(clock, colour=colour)
    speak.warn("resolve", "look at this")
    speak.step("copy", "begins")
    first, second, _ = stream.getvalue().split("\n")
    assert first == f"\r\x1b[K{begin}  warning: look at this"
    assert ESCAPE.sub("", second) == "\r     copy  begins"


# --- logs and programs -----------------------------------------------------------------------


def test_log_has_a_line_an_event_and_one_for_each_finished_image() -> None:
    stream = io.StringIO()
    speak = Events([PlainSink(stream)])
    speak.step("copy", "begins")
    speak.progress("copy", "x", 1, 2048)
    speak.progress("copy", "x", 4096, 2048)
    speak.warn("copy", "careful")
    assert stream.getvalue() == "copy: begins\ncopy: x: 2.00 KiB copied\ncopy: warning: careful\n"


def test_program_gets_json_lines() -> None:
    stream = io.StringIO()
    speak = Events([JsonLinesSink(stream)])
    speak.step("copy", "a\nb")
    speak.progress("copy", "x", 5, 3)
    speak.warn("copy", "ü")
    assert list(map(json.loads, stream.getvalue().splitlines())) == [
        {"schema": SCHEMA, "type": "step", "stage": "copy", "message": "a\nb"},
        {
            "schema": SCHEMA,
            "type": "progress",
            "stage": "copy",
            "reference": "x",
            "done": 3,
            "total": 3,
        },
        {"schema": SCHEMA, "type": "warning", "stage": "copy", "message": "ü"},
    ]


def test_events_reach_every_sink_one_at_a_time() -> None:
    class Slow:
        def __init__(self) -> None:
            self.inside, self.count = 0, 0

        def send(self, event: events.Event) -> None:
            self.inside += 1
            assert self.inside == 1
            threading.Event().wait(0.001)
            self.count += 1
            self.inside -= 1

    sinks = [Slow(), Slow()]
    speak = Events(sinks)
    threads = [
        threading.Thread(target=speak.progress, args=("copy", "x", number, 20))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sink.count for sink in sinks] == [20, 20]


# --- choice ----------------------------------------------------------------------------------


def test_stream_that_is_no_terminal_gets_plain_lines() -> None:
    assert isinstance(sink_for(io.StringIO()), PlainSink)


def test_dumb_terminal_gets_plain_lines(
    terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(sink_for(terminal), PlainSink)


@pytest.mark.parametrize(("no_color", "colour"), [(None, True), ("1", False), ("", True)])
def test_terminal_is_coloured_unless_no_color_is_set(
    terminal: io.TextIOWrapper,
    monkeypatch: pytest.MonkeyPatch,
    no_color: str | None,
    *,
    colour: bool,
) -> None:
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    sink = sink_for(terminal)
    assert isinstance(sink, TerminalSink)
    stream = io.StringIO()
    sink._stream = stream
    sink.send(events.Step(stage="copy", message="begins"))
    assert ("\x1b[1m" in stream.getvalue()) is colour


def test_terminal_tells_its_width(terminal: io.TextIOWrapper) -> None:
    sink = sink_for(terminal)
    assert isinstance(sink, TerminalSink)
    sink._stream = stream = io.StringIO()
    sink.send(Progress(stage="copy", reference="x" * 200, done=0, total=MIB))
    assert {len(line) for line in _lines(stream.getvalue())} == {79}
