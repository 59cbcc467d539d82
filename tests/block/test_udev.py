"""The same disks with an udevd running: a private one, which only these tests see."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.block.scene import ROOT, SYSTEM, Part, boot, make_disk
from tests.block.udevd import udevd_argv
from tests.support.commands import Argv, CommandError, run

# Each udevd looks at every disk of the machine: two are more than a test speaks of.
pytestmark = pytest.mark.xdist_group("udevd")

_OPEN = """
import sys
from pathlib import Path
from installer_plugin.block.base import BackendChoice, OpenOptions
from installer_plugin.block.target import make_writable, open_target
from installer_plugin.errors import BoundImagesError
from installer_plugin.events import Events, PlainSink
from installer_plugin.process.runner import Runner
path, state, choice, access = sys.argv[1:]
options = OpenOptions(
    state=Path(state), backend=BackendChoice(choice), read_only=access == "read-only"
)
try:
    with open_target(Path(path), options, Runner(), Events([PlainSink(sys.stdout)])) as target:
        if access == "writable":
            make_writable(target, Runner())
            (target.physical_root / "written").touch()
        print("HOLDS", *sorted(entry.name for entry in target.physical_root.iterdir()))
except BoundImagesError as error:
    print("REFUSED", error)
"""


def with_udevd(argv: Argv) -> str:
    """Run a command while an udevd runs; return what it printed."""
    return run(udevd_argv(argv)).stdout


def opened(image: Path, tmp_path: Path, choice: str = "auto", access: str = "writable") -> str:
    return with_udevd((sys.executable, "-c", _OPEN, image, tmp_path / "state", choice, access))


DISKS: dict[str, Sequence[Part]] = {
    "type": (Part(kind="ext4", label="x"), Part(kind="ext4", type=ROOT, holds=SYSTEM)),
    "name": (Part(kind="ext4", label="x"), Part(kind="ext4", name="root", holds=SYSTEM)),
    "label": (Part(kind="ext4", label="x"), Part(kind="ext4", label="root", holds=SYSTEM)),
    "content": (Part(kind="ext4", label="x"), Part(kind="btrfs", size=160, holds=SYSTEM)),
}


@pytest.mark.parametrize("access", ["writable", "read-only"])
@pytest.mark.parametrize("parts", DISKS.values(), ids=DISKS)
def test_root_is_found_by_what_udevd_knows(
    parts: Sequence[Part], access: str, tmp_path: Path
) -> None:
    image = make_disk(tmp_path / "disk.img", boot(), *parts)
    told = opened(image, tmp_path, access=access)
    assert "disk: looking with udev: udevd is running" in told
    assert "looking with util-linux" not in told
    assert "ostree" in told.split("HOLDS")[1]


def test_util_linux_serves_with_udevd_too(tmp_path: Path) -> None:
    image = make_disk(tmp_path / "disk.img", boot(), Part(kind="xfs", size=320, type=ROOT))
    told = opened(image, tmp_path, "util-linux")
    assert "disk: looking with util-linux, as asked for" in told
    assert "HOLDS written" in told


def test_two_candidates_are_refused_the_same(tmp_path: Path) -> None:
    image = make_disk(tmp_path / "disk.img", *(Part(kind="ext4", type=ROOT) for _ in range(2)))
    told = opened(image, tmp_path)
    assert "REFUSED" in told
    assert "2 candidates for the root" in told


def test_without_udevd_udev_cannot_be_asked_for(tmp_path: Path) -> None:
    if Path("/run/udev/control").exists():
        argv: tuple[str, ...] = (
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount -t tmpfs x /run; exec "$@"',
            "sh",
        )
    else:
        argv = ()
    image = make_disk(tmp_path / "disk.img", Part(kind="ext4", type=ROOT))
    script = (sys.executable, "-c", _OPEN, image, tmp_path / "state", "udev", "read-only")
    assert "REFUSED udev: udevd is not running" in run((*argv, *script)).stdout


def test_udevd_of_the_test_really_runs() -> None:
    assert with_udevd(("udevadm", "control", "--ping")) == ""
    with pytest.raises(CommandError):
        with_udevd(("false",))
