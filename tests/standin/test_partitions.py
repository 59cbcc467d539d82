"""What takes sfdisk's place for bootc where the kernel reads no GPT."""

import os
from pathlib import Path

import pytest

from tests.support.commands import run

pytestmark = pytest.mark.real

SFDISK = Path(__file__).parents[2] / "vm-tests/partitions/sfdisk"


@pytest.mark.parametrize("before", ["", "/nowhere:"], ids=["first in PATH", "behind another"])
def test_partitions_are_there_once_they_are_written(before: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    device = run(("losetup", "--find", "--show", disk)).stdout.strip()
    try:
        # By its name, as bootc calls it: it has to find the real one behind itself.
        script = "printf 'label: gpt\\nsize=1MiB\\n' | sfdisk --quiet --no-reread \"$1\""
        env = {"PATH": f"{before}{SFDISK.parent}:{os.environ['PATH']}"}
        run(("timeout", "60", "sh", "-e", "-c", script, "sh", device), env=env)
        name = Path(device).name
        assert Path(f"/sys/class/block/{name}/{name}p1").exists()
        run(("partx", "--delete", device))
    finally:
        run(("losetup", "--detach", device))
