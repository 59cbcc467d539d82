"""bootc's own image store on the target, and the calls of podman that fill it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from standin.process import InstallError, run
from standin.setup import Setup

ALIAS = Path("/run/bootc/storage")
BOOTC_ROOT = "ostree/bootc"
STAMP = ".bootc_labeled"
DESTINATION = f"containers-storage:[overlay@{ALIAS}+/proc/self/fd/3]"

# podman needs one absolute path for the store, whatever the target is mounted on: its database
# remembers it. The run root is a descriptor, so that its own path is remembered nowhere.
_IN_ALIAS = f"""\
set -e
mount --bind . {ALIAS}
cd "$2"
exec 3<"$1"
shift 2
exec "$@"
"""


class BootcStore:
    """`ostree/bootc/storage` below a physical root."""

    def __init__(self, physical_root: Path, setup: Setup) -> None:
        self._bootc = physical_root / BOOTC_ROOT
        self.path = self._bootc / "storage"
        self._tool = setup.podman
        self._gives_credentials = setup.gives_credentials

    def create(self) -> None:
        """Make the empty store, complete or not at all; one that exists is used as it is."""
        ALIAS.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            return
        partial = self._bootc / "storage.tmp"
        if partial.exists():
            shutil.rmtree(partial)
        self._bootc.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        self._podman(partial, ("images",))
        partial.rename(self.path)

    def push(self, image: str) -> None:
        """Copy an image from podman's default store, by name; nothing is compared afterwards."""
        argv = (self._tool, "image", "push", "--remove-signatures", image, f"{DESTINATION}{image}")
        self._in_alias(self.path, argv)

    def pull(self, image: str) -> None:
        """Pull an image unless its name is there already, always without credentials."""
        try:
            self._podman(self.path, ("image", "exists", image))
        except InstallError:
            self._podman(self.path, ("image", "pull", image))

    def label(self, container_root: Path) -> None:
        """Label as below /var/lib/containers/storage, once, by the policy of the running system."""
        if (self.path / STAMP).exists():
            return
        contexts = sorted(container_root.glob("etc/selinux/*/contexts/files/file_contexts"))
        if contexts:
            _set_labels(self.path, contexts[0])
        (self.path / STAMP).touch()

    def _podman(self, store: Path, words: Sequence[str]) -> None:
        argv = (self._tool, "--root", str(ALIAS), "--runroot", "/proc/self/fd/3", *words)
        if not self._gives_credentials:
            self._in_alias(store, argv)
            return
        with tempfile.NamedTemporaryFile(prefix="standin-auth-") as auth:
            auth.write(b"{}")
            auth.flush()
            self._in_alias(store, argv, env={"REGISTRY_AUTH_FILE": auth.name})

    def _in_alias(
        self, store: Path, argv: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> None:
        here = str(Path.cwd())
        with tempfile.TemporaryDirectory(prefix="standin-run-") as run_root:
            child = subprocess.Popen(
                ("unshare", "--mount", "sh", "-c", _IN_ALIAS, "sh", run_root, here, *argv),
                cwd=store,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            try:
                _, said = child.communicate()
            except BaseException:
                # As bootc's children, which the kernel ends with it: they may clean up.
                child.terminate()
                child.communicate()
                raise
        if child.returncode:
            raise InstallError(
                f"Subprocess failed: {' '.join(argv)}: exit status {child.returncode}\n{said}"
            )


def _set_labels(store: Path, contexts: Path) -> None:
    """Let the policy see the store where it has rules for it."""
    with tempfile.TemporaryDirectory(prefix="standin-label-") as folder:
        place = Path(folder, "var/lib/containers/storage")
        place.mkdir(parents=True)
        script = 'mount --bind "$1" "$2"; exec setfiles -F -r "$3" "$4" "$2"'
        run(("unshare", "--mount", "sh", "-e", "-c", script, "sh", store, place, folder, contexts))
