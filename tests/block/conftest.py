"""Fixtures of the tests with disks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.block.scene import Opener


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Opens targets; nothing may be left of them."""
    opener = Opener(tmp_path / "state")
    yield opener
    assert opener.left() == []
