"""Who reads what the command says may go away, or be a full disk: the work goes on, and its end counts."""

from pathlib import Path

import pytest

from tests.support.commands import run, unshared
from tests.support.images import ImageSources
from tests.support.product import COMMAND, Lab, records

GONE = "> >(exec true); sleep 0.3"
"""A pipe whose reader has gone before the first word (bash)."""
LOST = {
    "progress, reader gone": f"exec 3{GONE}",
    "progress, full disk": "exec 3>/dev/full",
    "messages, reader gone": f"exec 2{GONE}",
    "messages, full disk": "exec 2>/dev/full",
    "messages, closed": "exec 2>&-",
    "result, reader gone": f"exec 1{GONE}",
    "result, full disk": "exec 1>/dev/full",
    "result, closed": "exec 1>&-",
    "all, reader gone": f"exec {GONE}; exec 2>&1 3>&1",
}


def call(*words: str | Path, lost: str, lab: Lab, ok: int = 0) -> str:
    """Run the command with descriptors as `lost` makes them; what it said elsewhere."""
    progress = ("--progress-fd", "3") if "3" in lost.replace("0.3", "") else ()
    script = f'{lost}\nexec "$@"'
    argv = ("bash", "-c", script, "bash", *COMMAND, *words, *progress)
    done = run(unshared(argv), env=lab.source.env, ok=(ok,))
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    return said


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_images_are_copied_and_proven_whoever_listens(
    lost: str, lab: Lab, image_sources: ImageSources
) -> None:
    root = lab.root(image_sources.app_a.name)
    said = call("copy", root, lab.target, lost=lost, lab=lab)
    assert len(records(lab.store, "images")) == 1
    assert "1 image verified" in lab.run("verify", lab.target).stdout
    if lost == LOST["progress, full disk"]:
        assert "output: warning: progress cannot be written any more (No space left" in said
        assert said.count("any more") == 1
    if lost == LOST["result, full disk"]:
        assert "the result cannot be written: No space left on device; the work itself is" in said


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_failure_keeps_its_exit_code_whoever_listens(lost: str, form: str, lab: Lab) -> None:
    root = lab.root("registry.example/absent:1")
    call("check", root, "--format", form, lost=lost, lab=lab, ok=4)


def test_what_was_asked_for_and_cannot_be_written_is_an_error(
    lab: Lab, image_sources: ImageSources
) -> None:
    root = lab.root(image_sources.app_a.name)
    said = call("list", root, lost=LOST["result, full disk"], lab=lab, ok=7)
    assert "stdout: the result cannot be written: No space left on device" in said


def test_reader_that_has_read_enough_is_no_error(lab: Lab, image_sources: ImageSources) -> None:
    root = lab.root(image_sources.app_a.name)
    call("list", root, lost=LOST["result, reader gone"], lab=lab)


@pytest.mark.parametrize(
    ("descriptor", "why"),
    [("3</dev/null", "for reading only"), ("3>&-", "is not an open file descriptor")],
    ids=["read-only", "closed"],
)
def test_descriptor_that_takes_no_progress_is_refused_first(
    lab: Lab, descriptor: str, why: str
) -> None:
    assert why in call("list", "/", lost=f"exec {descriptor}", lab=lab, ok=2)
