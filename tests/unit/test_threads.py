"""Threads beside the main one: what becomes of their errors."""

import threading

import pytest

from installer_plugin.process.threads import alongside

NAME = "watch"


def _waits(ended: threading.Event) -> None:
    ended.wait()


def _fails(ended: threading.Event) -> None:
    ended.wait()
    raise OSError(5, "Input/output error")


def test_error_of_a_thread_is_raised_when_the_body_is_over() -> None:
    with pytest.raises(OSError, match="Input/output"), alongside(_fails, NAME):
        pass


def test_error_of_the_body_is_the_one_that_is_raised() -> None:
    with pytest.raises(LookupError, match="the first"), alongside(_fails, NAME):
        raise LookupError("the first")


def test_thread_has_ended_when_the_body_is_over() -> None:
    with alongside(_waits, NAME):
        assert any(each.name == NAME for each in threading.enumerate())
    assert not any(each.name == NAME for each in threading.enumerate())
