"""A target that bootc has written, or may have, and whose bound images are not proven to be there."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from installer_plugin.block.base import Key, OpenOptions
from installer_plugin.block.probe import list_loops
from installer_plugin.block.target import open_boot_places
from installer_plugin.errors import DataError, HostError
from installer_plugin.events import Events
from installer_plugin.hosts.bootc.boot_entries import set_aside
from installer_plugin.hosts.bootc.entries_before import Before
from installer_plugin.hosts.bootc.finalize import writable
from installer_plugin.process.runner import Command, Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproven:
    """All that is needed to keep the target from booting, by whoever has to do it."""

    before: Before
    opening: OpenOptions

    def dump(self) -> bytes:
        """As JSON; it names files with keys, not what is in them."""
        key = self.opening.key
        data = {
            "before": self.before.json(),
            "passphrase_file": _text(key.passphrase_file),
            "key_file": _text(key.key_file),
            "root_partition": self.opening.root_partition,
        }
        return json.dumps(data).encode()

    @classmethod
    def parse(cls, content: bytes, subject: str, state: Path) -> Unproven:
        """Read what :meth:`dump` makes; raises DataError about *subject*."""
        try:
            data = json.loads(content)
            key = Key(
                passphrase_file=_path(data["passphrase_file"]), key_file=_path(data["key_file"])
            )
            opening = OpenOptions(key=key, root_partition=str(data["root_partition"]), state=state)
            before = Before.parse(data["before"])
            return cls(before=before, opening=opening)
        except (ValueError, KeyError, TypeError) as error:
            message = "cannot be read, expected what an installation has written down"
            raise DataError(subject, message) from error

    def keep_from_booting(self, reason: str, runner: Runner, events: Events) -> None:
        """Set aside the boot entries that bootc has written, if it has, and if the target still exists.

        Raises HostError and ConfigError when the target cannot be opened, CommandError, DataError and
        OSError.
        """
        target = self.before.target
        if not target.exists() or not self.before.has_changed():
            return
        if not self.before.is_there():
            message = "is something else than it was when bootc began, expected the same target"
            raise HostError.of(str(target), message, hint="see whether it is mounted")
        if target.is_file():
            _detach(target, runner)
        opening = replace(self.opening, read_only=False)
        with (
            open_boot_places(target, opening, runner, events) as places,
            writable(target, runner) if target.is_dir() else nullcontext(),
        ):
            set_aside(places, reason, self.before.entries, events)


def _detach(image: Path, runner: Runner) -> None:
    """Detach loop devices of *image*: it had none before bootc, which was killed on its way."""
    seen = image.stat()
    for loop in list_loops(runner):
        if (loop.disk, loop.inode) == (seen.st_dev, seen.st_ino):
            argv = ("losetup", "--detach", str(loop.device))
            runner.run(Command(argv=argv, purpose=f"detach {loop.device}, which bootc has left"))


def _text(path: Path | None) -> str | None:
    return str(path.absolute()) if path else None


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
