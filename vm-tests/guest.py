"""What a guest is asked and how it answers: a script that goes in by a second disk."""

import base64
import re
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from machine import RESULT_END, RESULT_PORT, GuestError

MICRO = "micro=/dev/vdb"
"""Kernel argument: no init system, only the script of the archive on the second disk."""
FULL = "systemd.wants=bound-images-check.service"
"""Kernel argument: the script at the end of a whole systemd boot; needs CREDENTIAL."""
UNLOCK = "passphrase=/dev/vdb"
"""Kernel argument: an encrypted root is opened by the file `passphrase` of the archive."""
PLACE = {MICRO: "/run/micro", FULL: "/run/check"}
"""Where the archive is unpacked."""

_UNIT = """\
[Unit]
Description=What the test asks
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
StandardOutput=journal+console
ExecStartPre=mkdir /run/check
ExecStartPre=busybox tar -x -f /dev/vdb -C /run/check
ExecStart=/run/check/check
"""
CREDENTIAL = (
    "io.systemd.credential.binary:systemd.extra-unit.bound-images-check.service="
    + base64.b64encode(_UNIT.encode()).decode()
)

# Without udev the port has no name in /dev, so it is found in /sys.
_HEAD = f"""\
#!/bin/sh
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" != {RESULT_PORT} ] || exec 3>"/dev/${{port##*/}}"
done
cd "${{0%/*}}" || exit 1
ask() {{
    output=$(sh -c "$2" 2>&1 </dev/null)
    code=$?
    printf '%s\\n' "$output" | sed 's/^/|/' >&3
    printf '=%s %s\\n' "$1" "$code" >&3
}}
"""
_ANSWER = re.compile(r"=(\S+) (\d+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command in the guest ended, and what it printed on stdout and stderr."""

    code: int
    text: str

    @property
    def lines(self) -> list[str]:
        """Without empty ones."""
        return [line for line in self.text.splitlines() if line]


def script(questions: Mapping[str, str]) -> str:
    """A shell program that runs the commands and reports, each under its name."""
    asks = (f"ask {name} {shlex.quote(command)}\n" for name, command in questions.items())
    return f"{_HEAD}{''.join(asks)}echo {RESULT_END} >&3\n"


def pack(archive: Path, program: str, files: Mapping[str, Path]) -> Path:
    """Write the second disk: a tar archive with the program `check` and what else it needs."""
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo("check")
        member.mode = 0o755
        member.size = len(program.encode())
        tar.addfile(member, BytesIO(program.encode()))
        for name, path in files.items():
            tar.add(path, name, filter=_without_caches)
    return archive


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def answers(text: str) -> dict[str, Answer]:
    """Read what `script` reported."""
    found = {}
    lines: list[str] = []
    for line in text.replace("\r", "").splitlines():
        if line.startswith("|"):
            lines.append(line[1:])
        elif ended := _ANSWER.fullmatch(line):
            found[ended[1]] = Answer(int(ended[2]), "\n".join(lines))
            lines = []
        elif line != RESULT_END:
            raise GuestError(f"the guest said something strange: {line!r}")
    return found
