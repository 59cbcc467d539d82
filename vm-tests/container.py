"""The OS image as a container that installs itself, as `podman run --privileged --pid=host` starts it.

podman cannot start containers everywhere the cases run, such as in a container. What it does for this
one is little: a writable layer over the image, the host's devices, processes and stores, and a note
that says which image this is. The host is played, too: its processes and mounts are those of a PID and
a mount namespace, so that what bootc does in the mounts of the first process is seen nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from command import PARTITIONS, REPOSITORY, STANDIN, Command
from osroot import IMAGE, declare, import_image

from tests.support.stores import Store

# The shell stays the first process, which bootc refuses to be.
_PRELUDE = """\
image=$1 place=$2 name=$3 id=$4
shift 4
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
printf 'engine="podman"\\nimage="%s"\\nimageid="%s"\\n' "$name" "$id" >"$container/run/.containerenv"
status=0
"$@" || status=$?
exit $status
"""
_PRODUCT = Path("/run/product")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """An image of the OS, and the stores that it sees."""

    root: Path
    """The image's root directory; not written to."""
    name: str
    """The image's, in the store."""
    image_id: str
    store: Store
    """podman's default store inside; holds the image, too."""
    reads_gpt: bool = True
    """Whether the kernel finds the partitions of a disk that it is shown."""

    def command(self, place: Path, argv: Sequence[str]) -> Command:
        """A command in it, as in an installer's container; `place` is seen inside, too."""
        # The image's podman notes a network backend there that the host's podman may not have, and
        # bootc asks the host's about the image.
        (self.store.root / "defaultNetworkBackend").unlink(missing_ok=True)
        program = ("chroot", str(place / "container"), *argv)
        words = (str(self.root), str(place), self.name, self.image_id, *program)
        base = self.store.root.parent
        volumes = {
            base: base,
            place: place,
            self.root: self.root,
            REPOSITORY / "installer_plugin": _PRODUCT / "installer_plugin",
            STANDIN: _PRODUCT / "standin",
            PARTITIONS: _PRODUCT / "partitions",
        }
        path = ("/usr/sbin", "/usr/bin", str(_PRODUCT / "standin"))
        env = {
            **self.store.env,
            "VOLUMES": " ".join(f"{outside}:{inside}" for outside, inside in volumes.items()),
            "PYTHONPATH": str(_PRODUCT),
            # bootc itself, where the image has it, and else the stand-in.
            "PATH": ":".join(path if self.reads_gpt else (str(_PRODUCT / "partitions"), *path)),
        }
        host = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        return Command((*host, "sh", "-e", "-c", _PRELUDE, "sh", *words), env)


def container_of(
    root: Path, store: Store, *, name: str = IMAGE, reads_gpt: bool = True
) -> Container:
    """Import the OS in `root`, with its declarations, into a store."""
    nothing = store.root.parent / "nothing-more"
    if not nothing.exists():
        declare(nothing, {})
    image_id = import_image(store, root, nothing, name)
    return Container(root=root, name=name, image_id=image_id, store=store, reads_gpt=reads_gpt)
