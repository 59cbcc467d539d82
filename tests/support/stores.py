"""A containers-storage of its own for tests, driven by the real tools."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import run, unshared


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image as podman describes it."""

    name: str
    """The name it was looked up by."""
    id: str
    """Config digest in hex, without `sha256:`."""
    digest: str
    """Digest of the manifest or list by which it was stored, `sha256:...`."""
    repo_digests: tuple[str, ...]
    """`repository@sha256:...` for every manifest that the store knows, lists included."""
    diff_ids: tuple[str, ...]
    """Digests of the uncompressed layers, base first, `sha256:...`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A store with the settings that keep the machine's own store out of sight."""

    root: Path
    runroot: Path
    settings: Path
    """Directory with storage.conf, containers.conf and registries.conf for this store."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables that make podman, buildah, skopeo and the product use this store by default."""
        return {
            "CONTAINERS_STORAGE_CONF": str(self.settings / "storage.conf"),
            "CONTAINERS_CONF": str(self.settings / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.settings / "registries.conf"),
            "TMPDIR": str(self.settings),
        }

    def ref(self, name: str) -> str:
        """Name an image of this store for skopeo: `containers-storage:[overlay@...]NAME`."""
        return f"containers-storage:[overlay@{self.root}+{self.runroot}]{name}"

    def run(
        self, argv: Sequence[str], *, ok: Sequence[int] = (0,)
    ) -> subprocess.CompletedProcess[str]:
        """Run a command for which this store is the default, its mounts kept private."""
        return run(unshared(argv), env=self.env, ok=ok)

    def podman(self, *args: str) -> str:
        """Run podman on this store and return its output."""
        return self.run(("podman", *args)).stdout.strip()

    def skopeo(self, *args: str) -> str:
        """Run skopeo with this store as its default and return its output."""
        return self.run(("skopeo", *args)).stdout.strip()

    def exists(self, name: str) -> bool:
        """Ask podman whether a name or digest resolves to an image here."""
        return self.run(("podman", "image", "exists", name), ok=(0, 1)).returncode == 0

    def image(self, name: str) -> StoredImage:
        """Ask podman about an image."""
        (seen,) = json.loads(self.podman("image", "inspect", name))
        # A store that only reads others has no records of its own.
        file = self.root / "overlay-images/images.json"
        records = json.loads(file.read_text()) if file.exists() else []
        # Of an image that came by a list, podman 5 tells the digest of its own manifest.
        digest = next((r["digest"] for r in records if r["id"] == seen["Id"]), seen["Digest"])
        return StoredImage(
            name=name,
            id=seen["Id"],
            digest=digest,
            repo_digests=tuple(sorted(seen["RepoDigests"])),
            diff_ids=tuple(seen["RootFS"]["Layers"]),
        )


def make_store(base: Path, *, additional: Sequence[Path] = (), registry: str = "") -> Store:
    """Prepare an empty store below `base`; `registry` is reached by plain http."""
    store = Store(root=base / "root", runroot=base / "run", settings=base / "settings")
    for directory in (store.root, store.runroot, store.settings):
        directory.mkdir(parents=True)
    others = ", ".join(f'"{path}"' for path in additional)
    (store.settings / "storage.conf").write_text(
        "[storage]\n"
        'driver = "overlay"\n'
        f'graphroot = "{store.root}"\n'
        f'runroot = "{store.runroot}"\n'
        "[storage.options]\n"
        f"additionalimagestores = [{others}]\n"
    )
    # Podman keeps state of its own below /run unless told otherwise, no systemd serves here, and
    # podman 5 would raise limits for RUN, which not every root may do.
    (store.settings / "containers.conf").write_text(
        "[engine]\n"
        f'tmp_dir = "{store.runroot}/libpod"\n'
        'cgroup_manager = "cgroupfs"\n'
        'events_logger = "none"\n'
        "[containers]\n"
        'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
    )
    insecure = f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n' if registry else ""
    (store.settings / "registries.conf").write_text(
        f'unqualified-search-registries = []\nshort-name-mode = "enforcing"\n{insecure}'
    )
    return store


def copy_store(original: Path, base: Path) -> Store:
    """Make a store at `base` with everything that is in another one, for a test to change.

    podman's own state names the graph root that it was made for, and podman believes it more than
    storage.conf: with it, what a test does to the copy would be done to the original.
    """
    store = make_store(base)
    run(("cp", "--archive", f"{original}/.", store.root))
    run(("rm", "--recursive", "--force", store.root / "libpod", store.root / "db.sql"))
    return store
