"""Texts of other programs that we read as if they were an interface, and where they were seen.

No program promises them. A new version that says something else is found here, and by the tests that run
the real programs.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

_PODMAN_LACKS = ("no such image", "image not known", "unable to find")
"""``podman image inspect``; podman 4.3, 5.4 and 5.8, of which the second is the usual one."""
_BOOTC_ERROR = "error: "
"""Before the last error, on stderr or among the output; bootc 1.1 to 1.16."""
_SETFILES_WRONG = re.compile(r"Would relabel (?P<path>.+) from (?P<seen>\S+) to (?P<expected>\S+)")
"""``setfiles -n -v``; policycoreutils 3.4 and 3.8."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Programs in Go and C say what the C library calls these, some in lower case."""


class Relabel(NamedTuple):
    """A file whose label is not what setfiles would give it."""

    path: str
    seen: str
    expected: str


def podman_lacks_image(stderr: str) -> bool:
    """Whether podman failed because it has no such image."""
    return any(words in stderr for words in _PODMAN_LACKS)


def last_error_of_bootc(output: str) -> str:
    """The last error in what bootc has said, all of it when there is none."""
    _, mark, last = output.rpartition(_BOOTC_ERROR)
    return mark + last


def wrong_labels_of_setfiles(output: str) -> Iterator[Relabel]:
    """What a dry run of setfiles would label again."""
    for found in _SETFILES_WRONG.finditer(output):
        yield Relabel(found["path"], found["seen"], found["expected"])


def says_full(stderr: str) -> bool:
    """Whether a program failed because a file system or a quota was full."""
    said = stderr.lower()
    return any(os.strerror(number).lower() in said for number in _FULL)


def is_quota(said: str) -> bool:
    """Whether it was the quota."""
    return os.strerror(errno.EDQUOT).lower() in said.lower()
