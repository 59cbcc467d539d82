"""The image that is installed, as an unpacked tree."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from standin.process import InstallError, run

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_CONTAINERENV = re.compile(r'^(image|imageid)="(.*)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the OS comes from."""

    imgref: str | None
    """As skopeo names it; None when the tree is copied from the directory that plays `/`."""
    root: Path
    """The directory that plays `/`."""

    @property
    def name(self) -> str:
        """What the deployment's origin and the log call it."""
        return self.imgref or f"dir:{self.root}"

    def unpack(self, tree: Path) -> None:
        """Unpack into the empty directory `tree`; raises InstallError."""
        if self.imgref is None:
            _copy_tree(self.root, tree)
            return
        blobs = tree.with_name(f"{tree.name}-blobs")
        # The proxy that bootc reads blobs through is the same code as this copy.
        run(("skopeo", "copy", "--quiet", self.imgref, f"dir:{blobs}"))
        manifest = json.loads((blobs / "manifest.json").read_text())
        for layer in manifest["layers"]:
            apply_layer(blobs / layer["digest"].partition(":")[2], tree)
        shutil.rmtree(blobs)


def find_source(container_root: Path, source_imgref: str | None) -> Source:
    """The image of the command line, else the one that the container runs; raises InstallError."""
    if source_imgref is not None:
        return Source(imgref=source_imgref, root=container_root)
    environment = container_root / "run/.containerenv"
    if environment.is_file():
        found = dict(_CONTAINERENV.findall(environment.read_text()))
        image = found.get("imageid") or found.get("image")
        if not image:
            raise InstallError("No image in /run/.containerenv")
        return Source(imgref=f"containers-storage:{image}", root=container_root)
    if container_root == Path("/"):
        raise InstallError(
            "This command must be executed inside a container (missing containerenv)"
        )
    return Source(imgref=None, root=container_root)


def apply_layer(layer: Path, tree: Path) -> None:
    """Unpack one layer over those before it."""
    names = run(("tar", "--list", "--quoting-style=literal", "-f", layer)).splitlines()
    marks = [Path(name) for name in names if Path(name).name.startswith(WHITEOUT)]
    for mark in marks:
        if mark.name == OPAQUE:
            for below in (tree / mark.parent).glob("*"):
                _remove(below)
        else:
            _remove(tree / mark.parent / mark.name.removeprefix(WHITEOUT))
    run((
        "tar", "--extract", "--numeric-owner", "--preserve-permissions", "--keep-directory-symlink",
        f"--exclude={WHITEOUT}*", "-f", layer, "-C", tree,
    ))  # fmt: skip


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy_tree(root: Path, tree: Path) -> None:
    script = 'tar --one-file-system -C "$1" -c . | tar --numeric-owner -C "$2" -xp'
    run(("sh", "-e", "-c", script, "sh", root, tree))
