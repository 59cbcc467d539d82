"""Text that goes out: whole, in either blocking mode, and not for ever where nobody reads."""

import errno
import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from installer_plugin.events import Events, JsonLinesSink
from installer_plugin.files.outlet import Outlet

TEXT = "".join(f"{number} ü\n" for number in range(40_000))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def fill(end: int) -> None:
    """Write until a pipe takes no more."""
    os.set_blocking(end, False)
    with suppress(BlockingIOError):
        while os.write(end, b"\n" * 4096):
            pass


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "not blocking"])
def test_text_is_written_whole_to_a_slow_reader(pipe: tuple[int, int], *, blocking: bool) -> None:
    os.set_blocking(pipe[1], blocking)
    heard = bytearray()

    def read() -> None:
        while len(heard) < len(TEXT.encode()):
            time.sleep(0.001)
            heard.extend(os.read(pipe[0], 5000))

    reader = threading.Thread(target=read)
    reader.start()
    Outlet(pipe[1], patience=60).write(TEXT)
    reader.join()
    assert heard.decode() == TEXT


def test_reader_that_does_not_read_is_given_up(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    with pytest.raises(OSError, match="nobody reads it") as caught:
        Outlet(pipe[1], patience=0.05).write("x")
    assert caught.value.errno == errno.ETIMEDOUT


def test_slow_reader_misses_progress_and_nothing_else(pipe: tuple[int, int]) -> None:
    outlet = Outlet(pipe[1], patience=60)
    events = Events([JsonLinesSink(outlet, outlet.has_room)])
    fill(pipe[1])
    for done in range(1000):
        events.progress("copy", "x", done, 1000)
    os.set_blocking(pipe[0], False)
    assert not os.read(pipe[0], 1 << 20).strip()
    events.progress("copy", "x", 999, 1000)
    events.step("copy", "y")
    assert [line.split(b'"')[7] for line in os.read(pipe[0], 1 << 20).splitlines()] == [
        b"progress", b"step",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("utf-8", "a\udcff", b"a\\udcff"),
        ("iso-8859-1", "ü…", b"\xfc\\u2026"),
        ("ascii", "ü", b"\\xfc"),
    ],
)
def test_characters_that_cannot_be_written_are_escaped(
    tmp_path: Path, encoding: str, text: str, written: bytes
) -> None:
    file = tmp_path / "file"
    with file.open("wb") as stream:
        Outlet(stream.fileno(), encoding=encoding).write(text)
    assert file.read_bytes() == written


def test_stream_without_a_descriptor_is_written_as_it_is() -> None:
    stream = io.StringIO()
    Outlet.of(stream).write("x")
    assert stream.getvalue() == "x"


def test_sink_that_fails_is_left_out_and_the_others_hear_of_it_once() -> None:
    class Broken:
        tries = 0

        def write(self, _text: str) -> None:
            self.tries += 1
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        def flush(self) -> None:
            pytest.fail("was written to")

    broken, heard = Broken(), io.StringIO()
    events = Events([JsonLinesSink(broken), JsonLinesSink(heard)])
    for word in ("a", "b"):
        events.step("copy", word)
    assert broken.tries == 1
    assert [line.split('"')[-2] for line in heard.getvalue().splitlines()] == [
        "progress cannot be written any more (Broken pipe), the work goes on", "a", "b",
    ]  # fmt: skip
