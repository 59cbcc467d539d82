"""What an installation and its shim know of each other, through files of the installation's directory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from installer_plugin.errors import Problem
from installer_plugin.files.atomic import replace_file
from installer_plugin.hooks.options import HookOptions
from installer_plugin.hosts.bootc.boot_entries import Entries

ALIAS = "/run/bootc/storage"
"""Where bootc bind-mounts the target store for podman."""
SESSION, OUTCOME, EVENTS = "shim.json", "outcome.json", "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the installation tells its shim."""

    folder: Path
    """Private directory of the installation."""
    owner: int
    """Process ID of the installation; the shim serves nobody else."""
    expected: tuple[str, ...]
    """Images that bootc will push, by the names it uses."""
    keep: bool
    """Whether a target that failed may boot all the same."""
    hooks: HookOptions
    disk: Path | None = None
    """The disk that bootc installs to."""
    record: Path | None = None
    """The record of the guard, which is closed once the boot entries are set aside."""
    spare: Entries = frozenset()
    """Boot entries that were there before bootc."""

    def save(self) -> None:
        """Write it where the shim finds it."""
        data = {
            "owner": self.owner,
            "expected": list(self.expected),
            "keep": self.keep,
            "hooks_root": str(self.hooks.root),
            "unsafe_skip_verify": self.hooks.unsafe_skip_verify,
            "hook_timeout": self.hooks.timeout,
            "disk": str(self.disk) if self.disk else None,
            "record": str(self.record) if self.record else None,
            "spare": sorted(self.spare),
        }
        replace_file(self.folder / SESSION, json.dumps(data).encode())

    @classmethod
    def load(cls, folder: Path) -> Session:
        """Read what :meth:`save` wrote."""
        data = json.loads((folder / SESSION).read_bytes())
        return cls(
            folder=folder,
            owner=data["owner"],
            expected=tuple(data["expected"]),
            keep=data["keep"],
            hooks=HookOptions(
                root=Path(data["hooks_root"]),
                unsafe_skip_verify=data["unsafe_skip_verify"],
                timeout=data["hook_timeout"],
            ),
            disk=Path(data["disk"]) if data["disk"] else None,
            record=Path(data["record"]) if data["record"] else None,
            spare=frozenset((path, size, time) for path, size, time in data["spare"]),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the images."""

    exit_code: int
    problems: tuple[Problem, ...]

    @classmethod
    def load(cls, folder: Path) -> Outcome | None:
        """What the shim left in *folder*; None when it did not come to an end."""
        file = folder / OUTCOME
        if not file.exists():
            return None
        data = json.loads(file.read_bytes())
        return cls(data["exit_code"], tuple(Problem(**each) for each in data["problems"]))

    def save(self, folder: Path) -> None:
        """Leave it for the installation."""
        data = {
            "exit_code": self.exit_code,
            "problems": [asdict(problem) for problem in self.problems],
        }
        replace_file(folder / OUTCOME, json.dumps(data).encode())
