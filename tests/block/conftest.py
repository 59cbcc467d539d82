"""Fixtures of the tests with disks."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from pytest_subprocess import FakeProcess
from pytest_subprocess.fake_popen import FakePopen

from installer_plugin.process import runner
from tests.block.scene import Opener


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Opens targets; nothing may be left of them."""
    opener = Opener(tmp_path / "state")
    yield opener
    assert opener.left() == []


@pytest.fixture
def fp(fp: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    """Scripted programs; they have buffers in the place of pipes, which only `communicate` reads."""
    read_pipes = runner._said

    def said(child: object, stdin: bytes, until: float) -> tuple[bytes, bytes]:
        if isinstance(child, FakePopen):
            out, err = child.communicate(stdin)
            return bytes(out or b""), bytes(err or b"")
        return read_pipes(cast("subprocess.Popen[bytes]", child), stdin, until)

    monkeypatch.setattr(runner, "_said", said)
    return fp
