"""What the kernel says of processes."""

import os

import pytest

from installer_plugin.process.procfs import Process, find_process, living_in_group, parse_stat


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 (sh) S 3 7 7 0 -1 4194304", Process("S", 3, 7)),
        ("8 (a (b) Z 9) R 1 2 2 0", Process("R", 1, 2)),
        ("9 () Z 0 9 9", Process("Z", 0, 9)),
    ],
    ids=["plain", "name-with-parentheses", "zombie"],
)
def test_stat_is_read_whatever_the_name_is(text: str, expected: Process) -> None:
    assert parse_stat(text) == expected
    assert expected.has_ended == (expected.state == "Z")


def test_we_are_there() -> None:
    us = find_process(os.getpid())
    assert us is not None
    assert (us.parent, us.group, us.has_ended) == (os.getppid(), os.getpgrp(), False)
    assert living_in_group(os.getpgrp())


def test_what_is_not_there_is_nothing() -> None:
    assert find_process(1 << 22) is None
    assert not living_in_group(1 << 22)
