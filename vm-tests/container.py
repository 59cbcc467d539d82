"""The OS image as a container that installs itself, as `podman run --privileged` would start it.

podman cannot start containers everywhere the cases run, such as in a container. What it does for this
one is little: a writable layer over the image, the host's devices, processes and stores, and a note
that says which image this is.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osroot import declare, import_image
from scene import REPOSITORY, STANDIN

from tests.support.commands import run, unshared
from tests.support.stores import Store

_PRELUDE = """\
image=$1 place=$2 id=$3
shift 3
container=$place/container
mkdir -p "$container"
mount -t tmpfs tmpfs "$container"
mkdir "$container/upper" "$container/work"
layers="lowerdir=$image,upperdir=$container/upper,workdir=$container/work"
mount -t overlay overlay -o "$layers" "$container"
for shared in dev proc sys; do mount --rbind "/$shared" "$container/$shared"; done
for empty in run tmp var; do mount -t tmpfs tmpfs "$container/$empty"; done
mkdir "$container/var/tmp"
for link in home media mnt opt root srv; do mkdir "$container/$(readlink "$container/$link")"; done
for shared in $VOLUMES; do
    mkdir -p "$container/${shared#*:}"
    mount --bind "${shared%%:*}" "$container/${shared#*:}"
done
printf 'engine="podman"\\nimageid="%s"\\n' "$id" >"$container/run/.containerenv"
exec "$@"
"""
_PRODUCT = Path("/run/product")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """An image of the OS, and the stores that it sees."""

    root: Path
    """The image's root directory; not written to."""
    image_id: str
    store: Store
    """podman's default store inside; holds the image, too."""
    base: Path
    """The directory that the store is in."""

    def run(self, place: Path, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as in an installer's container; `place` is seen inside, too."""
        program = ("chroot", str(place / "container"), *argv)
        words = (str(self.root), str(place), self.image_id, *program)
        volumes = {
            self.base: self.base,
            place: place,
            REPOSITORY / "installer_plugin": _PRODUCT / "installer_plugin",
            STANDIN: _PRODUCT / "standin",
        }
        env = {
            **self.store.env,
            "VOLUMES": " ".join(f"{outside}:{inside}" for outside, inside in volumes.items()),
            "PYTHONPATH": str(_PRODUCT),
            # bootc itself, where the image has it, and else the stand-in.
            "PATH": f"/usr/sbin:/usr/bin:{_PRODUCT / 'standin'}",
        }
        return run(unshared(words, prelude=_PRELUDE), env=env)


def container_of(root: Path, store: Store, base: Path) -> Container:
    """Import the OS in `root`, with its declarations, into a store in `base`."""
    image_id = import_image(store, root, declare(base / "nothing-more", {}))
    return Container(root=root, image_id=image_id, store=store, base=base)
