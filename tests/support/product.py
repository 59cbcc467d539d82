"""Runs the command as a user does, and looks at what it left on the target."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.commands import run, unshared
from tests.support.debian import DebianRoot
from tests.support.fork_server import forked_command
from tests.support.sources import SourceRootBuilder
from tests.support.stores import Store, make_store

COMMAND = (sys.executable, "-m", "installer_plugin")
STORE = "ostree/bootc/storage"
"""Place of the target store below a physical root."""
LEFT_MOUNTS = 99
"""Exit code when the command has left a mount."""

# The machine's store is hidden. Another mount may go meanwhile, with its directory; none may come.
_WATCH_MOUNTS = (
    "mkdir -p /var/lib/containers\n"
    "mount -t tmpfs tmpfs /var/lib/containers\n"
    "mounts() { cut -d' ' -f4,5 /proc/self/mountinfo; }\n"
    "before=$(mounts)\n"
    "status=0\n"
    '"$@" || status=$?\n'
    'if mounts | grep --invert-match --line-regexp --fixed-strings "$before"; then\n'
    '    echo "was left mounted" >&2\n'
    f"    exit {LEFT_MOUNTS}\n"
    "fi\n"
    "exit $status\n"
)  # fmt: skip


def product(
    *args: str | os.PathLike[str],
    env: Mapping[str, str],
    ok: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    """Run the command; it fails the test when it leaves a mount or has a traceback to show."""
    done = run(unshared((*forked_command(), *args), prelude=_WATCH_MOUNTS), env=env, ok=ok)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON document that the command has printed."""
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


Listing = dict[bytes, tuple[object, ...]]


def listing(directory: Path, *, times: bool = True) -> Listing:
    """Everything that a directory holds, itself included: kinds, owners, modes, times, bytes."""
    found: Listing = {}
    top = os.fsencode(directory)
    found[b"."] = _entry(top, times=times)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - names are bytes
            found[os.path.relpath(path, top)] = _entry(path, times=times)
    return found


def _entry(path: bytes, *, times: bool) -> tuple[object, ...]:
    seen = os.lstat(path)
    content: object = None
    if stat.S_ISREG(seen.st_mode):
        with open(path, "rb") as file:  # noqa: PTH123 - the path is bytes
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif stat.S_ISLNK(seen.st_mode):
        content = os.readlink(path)  # noqa: PTH115 - the path is bytes
    attributes = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    # How large a directory is, and how often it is linked to, is the file system's business.
    own = () if stat.S_ISDIR(seen.st_mode) else (seen.st_size, seen.st_nlink)
    return (
        stat.filemode(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_rdev, *own,
        seen.st_mtime_ns if times else None, content, tuple(sorted(attributes.items())),
    )  # fmt: skip


def records(store: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Records of a store by ID; kind is `layers` or `images`."""
    content = json.loads((store / f"overlay-{kind}/{kind}.json").read_text())
    return {record["id"]: record for record in content}


_ASK = (
    'for name; do\n'
    '    code=0\n'
    '    podman --root "$READER/root" --runroot "$READER/run" '
    '--storage-opt additionalimagestore="$STORE" image exists "$name" || code=$?\n'
    '    [ "$code" = 0 ] || echo "$name"\n'
    '    [ "$code" -le 1 ] || exit "$code"\n'
    "done\n"
)  # fmt: skip


def unknown_to_podman(
    store: Path, names: Sequence[str], scratch: Path, debian: DebianRoot | None = None
) -> list[str]:
    """Names that podman, this machine's or Debian's, does not find in an additional store."""
    argv = ("sh", "-c", _ASK, "sh", *names)
    if debian is None:
        # A run root may have no more than 50 characters.
        prelude = 'mount -t tmpfs tmpfs /mnt\nexec "$@"\n'
        env = {
            "STORE": str(store),
            "READER": "/mnt",
            **make_store(Path(tempfile.mkdtemp(dir=scratch))).env,
        }
        return run(unshared(argv, prelude=prelude), env=env).stdout.splitlines()
    env = {"STORE": "/store", "READER": "/run/reader"}
    return debian.run(argv, ro={"/store": store}, env=env).stdout.splitlines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """Where one test works: a store to copy from, a target of its own, and the command."""

    source: Store
    """The command's default store; never to be changed."""
    bind: SourceRootBuilder
    target: Path
    """An empty physical root."""
    directory: Path
    """For whatever else the test needs."""

    @property
    def store(self) -> Path:
        """The target store, once there is one."""
        return self.target / STORE

    def root(self, *references: str) -> Path:
        """Return a source root that binds the references by `0.image`, `1.image`, ..."""
        names = (f"{number}.image" for number in range(len(references)))
        units = zip(names, references, strict=True)
        return self.bind({name: f"[Image]\nImage={reference}\n" for name, reference in units})

    def run(
        self,
        *args: str | os.PathLike[str],
        ok: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command; `ok` is the exit code that it must have."""
        return product(*args, env={**self.source.env, **(env or {})}, ok=(ok,))

    def unknown(
        self, *names: str, debian: DebianRoot | None = None, store: Path | None = None
    ) -> list[str]:
        """See `unknown_to_podman`; the target store unless told otherwise."""
        return unknown_to_podman(store or self.store, names, self.directory, debian)
