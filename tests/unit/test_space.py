"""What is said about a full disk, and about what the kernel calls so and is something else."""

import errno
import os
from pathlib import Path

import pytest

from installer_plugin.storage.engine.space import room_hint

NO_SPACE = os.strerror(errno.ENOSPC).lower()


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (OSError(errno.EDQUOT, "x"), "raise the quota"),
        ("write /x: disk quota exceeded", "raise the quota"),
        (f"inotify_add_watch: {NO_SPACE}", "fs.inotify.max_user_watches"),
        (f'lsetxattr "user.big": {NO_SPACE}', "cannot hold that extended attribute"),
        (OSError(errno.ENOSPC, "x"), "the disks have room"),
        (f"mkdir /sys/fs/cgroup/x: {NO_SPACE}", "the disks have room"),
    ],
)
def test_other_limits_are_not_called_a_full_disk(
    said: OSError | str, hint: str, tmp_path: Path
) -> None:
    told = room_hint(said, [tmp_path], need=1)
    assert hint in told
    assert "make room" not in told


def test_full_disk_is_named_with_what_it_has(tmp_path: Path) -> None:
    told = room_hint(OSError(errno.ENOSPC, "x"), [tmp_path], need=1 << 60)
    assert told.startswith("make room and run the copy again: ")
    assert f"are free on {tmp_path}" in told
