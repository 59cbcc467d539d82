"""Podman itself is asked which ways lead it to bootc's store, and whether it pulls what is there."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from installer_plugin.declarations.podman_version import installed_podman
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.stages.discover import LINKS, discover
from tests.contract.test_quadlet_judge import PACKAGES
from tests.contract.test_quadlet_judge import debian_root as debian_root  # noqa: PLC0414 - a fixture
from tests.support.debian import DebianRoot
from tests.support.declared import build_image
from tests.support.stores import make_store

pytestmark = pytest.mark.real

STORE = "/usr/lib/bootc/storage"
NAME = "registry.example/bound:1"
MAIN = (
    '[storage]\ndriver = "overlay"\ngraphroot = "/var/lib/containers/storage"\n'
    'runroot = "/run/containers/storage"\n'
)
NAMED = f'[storage.options]\nadditionalimagestores = ["{STORE}"]\n'
ETC, USR = "etc/containers", "usr/share/containers"
# A way is a directory with files of the root and two scripts: one prepares, one asks.
_ASK = """
export HOME=/root
for way in /ways/*; do
    umount /var/lib/containers/storage/overlay 2>/dev/null || true
    rm -rf /var/lib/containers/storage /run/containers /run/libpod /etc/containers/storage* \
        /usr/share/containers/storage* /etc/containers/containers.conf*
    cp -a "$way/root/." /
    if sh "$way/ask" >/tmp/log 2>&1; then echo "${way##*/} yes"; else echo "${way##*/} no"; fi
done
"""


@dataclass(frozen=True)
class Way:
    """What a unit and its root say of stores."""

    arguments: str = ""
    """GlobalArgs=."""
    more: str = ""
    """PodmanArgs=."""
    environment: str = ""
    """Environment= in [Service]."""
    files: Mapping[str, str] = field(default_factory=dict)

    def unit(self) -> str:
        lines = ["[Container]", f"Image={NAME}"]
        lines += [f"GlobalArgs={self.arguments}"] if self.arguments else []
        lines += [f"PodmanArgs={self.more}"] if self.more else []
        lines += ["[Service]", f"Environment={self.environment}"] if self.environment else []
        return "\n".join([*lines, ""])

    def ask(self) -> str:
        """Make a container of the image, which needs it there and starts nothing."""
        return (
            f"exec env {self.environment} podman {self.arguments} create --pull=never "
            f"--network=none {self.more} {NAME} true\n"
        )


def option(text: str) -> Way:
    return Way(f"--storage-opt={text}")


def conf(files: Mapping[str, str], **more: str) -> Way:
    return Way(files=files, **more)


WAYS: dict[str, Way] = {
    "nothing": Way(),
    "additionalimagestore": option(f"additionalimagestore={STORE}"),
    "two words": Way(f"--storage-opt additionalimagestore={STORE}"),
    "overlay.additionalimagestore": option(f"overlay.additionalimagestore={STORE}"),
    "overlay2.additionalimagestore": option(f"overlay2.additionalimagestore={STORE}"),
    "imagestore": option(f"imagestore={STORE}"),
    "overlay.imagestore": option(f"overlay.imagestore={STORE}"),
    "capitals": option(f"AdditionalImageStore={STORE}"),
    "of another driver": option(f"vfs.imagestore={STORE}"),
    "plural": option(f"additionalimagestores={STORE}"),
    "slash at the end": option(f"additionalimagestore={STORE}/"),
    "dots": option("additionalimagestore=/usr/lib/../lib/./bootc/storage"),
    "other store": option("additionalimagestore=/tmp"),
    "list": option(f"additionalimagestore=/tmp,{STORE}"),
    "two options": Way(
        f"--storage-opt=additionalimagestore={STORE} --storage-opt=overlay.mountopt=nodev"
    ),
    "two stores": Way(
        f"--storage-opt=additionalimagestore={STORE} --storage-opt=additionalimagestore=/tmp"
    ),
    "arguments of the command": Way(more=f"--storage-opt=additionalimagestore={STORE}"),
    "main file": conf({f"{ETC}/storage.conf": MAIN + NAMED}),
    "distribution's file": conf({f"{USR}/storage.conf": MAIN + NAMED}),
    "administrator's file without it": conf(
        {f"{USR}/storage.conf": MAIN + NAMED, f"{ETC}/storage.conf": MAIN}
    ),
    "runtime file": conf({"run/containers/storage.conf": MAIN + NAMED}),
    "table of the driver": conf({f"{ETC}/storage.conf": MAIN + NAMED.replace("]", ".overlay]", 1)}),
    "singular key": conf({f"{ETC}/storage.conf": MAIN + NAMED.replace("stores =", "store =")}),
    "list in a string": conf(
        {f"{ETC}/storage.conf": MAIN + NAMED.replace(f'"{STORE}"', f'"/tmp,{STORE}"')}
    ),
    "main file, other option": conf(
        {f"{ETC}/storage.conf": MAIN + NAMED}, arguments="--storage-opt=overlay.mountopt=nodev"
    ),
    "main file, other store": conf(
        {f"{ETC}/storage.conf": MAIN + NAMED}, arguments="--storage-opt=imagestore=/tmp"
    ),
    "main file, other root": conf(
        {f"{ETC}/storage.conf": MAIN + NAMED}, arguments="--root=/var/lib/containers/other"
    ),
    "main file, driver": conf(
        {f"{ETC}/storage.conf": MAIN + NAMED}, arguments="--storage-driver=overlay"
    ),
    "drop-in": conf({f"{ETC}/storage.conf": MAIN, f"{ETC}/storage.conf.d/1.conf": NAMED}),
    "distribution's drop-in": conf(
        {f"{ETC}/storage.conf": MAIN, f"{USR}/storage.conf.d/1.conf": NAMED}
    ),
    "drop-in for root": conf(
        {f"{ETC}/storage.conf": MAIN, f"{ETC}/storage.rootful.conf.d/1.conf": NAMED}
    ),
    "drop-in hidden by its namesake": conf({
        f"{ETC}/storage.conf": MAIN, f"{USR}/storage.conf.d/1.conf": NAMED,
        f"{ETC}/storage.conf.d/1.conf": "",
    }),
    "drop-in takes it back": conf({
        f"{ETC}/storage.conf": MAIN + NAMED,
        f"{ETC}/storage.conf.d/1.conf": "[storage.options]\nadditionalimagestores = []\n",
    }),
    "drop-in adds another": conf({
        f"{ETC}/storage.conf": MAIN + NAMED,
        f"{ETC}/storage.conf.d/1.conf":
            '[storage.options]\nadditionalimagestores = ["/tmp", {append = true}]\n',
    }),
    "containers.conf": conf({
        f"{ETC}/storage.conf": MAIN,
        f"{ETC}/containers.conf.d/1.conf":
            f'[engine]\nenv = ["STORAGE_OPTS=additionalimagestore={STORE}"]\n',
    }),
    "variable": conf(
        {f"{ETC}/storage.conf": MAIN}, environment=f"STORAGE_OPTS=additionalimagestore={STORE}"
    ),
    "variable with a list": conf(
        {f"{ETC}/storage.conf": MAIN},
        environment=f"STORAGE_OPTS=overlay.mountopt=nodev,overlay.imagestore={STORE}",
    ),
    "variable without a file": Way(environment=f"STORAGE_OPTS=additionalimagestore={STORE}"),
    "variable that replaces a file": conf(
        {f"{ETC}/storage.conf": MAIN + NAMED}, environment="STORAGE_OPTS=overlay.mountopt=nodev"
    ),
    "variable behind an option": conf(
        {f"{ETC}/storage.conf": MAIN}, arguments="--storage-opt=overlay.mountopt=nodev",
        environment=f"STORAGE_OPTS=additionalimagestore={STORE}",
    ),
    "file by a variable": conf(
        {"opt/s.conf": MAIN + NAMED}, environment="CONTAINERS_STORAGE_CONF=/opt/s.conf"
    ),
    "file without it by a variable": conf(
        {"opt/s.conf": MAIN, f"{ETC}/storage.conf": MAIN + NAMED},
        environment="CONTAINERS_STORAGE_CONF=/opt/s.conf",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def bound_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with NAME in it."""
    store = make_store(tmp_path_factory.mktemp("bound"))
    build_image(store, NAME, {"word": b"bound"})
    return store.root


def asked(debian_root: DebianRoot, base: Path, store: Path) -> dict[str, bool]:
    """Answers of podman to all ways below *base*."""
    mounts = {"/ways": base, STORE: store}
    output = debian_root.run(("unshare", "--net", "sh", "-ec", _ASK), ro=mounts).stdout
    answers = (line.rsplit(" ", 1) for line in output.splitlines())
    return {name: answer == "yes" for name, answer in answers}


def write(root: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def own_answer(debian_root: DebianRoot, root: Path, unit: str) -> bool:
    """Whether we find nothing wrong with the unit's way to the store."""
    units = "usr/share/containers/systemd"
    write(root, {PACKAGES: (debian_root.root / PACKAGES).read_text(), f"{units}/u.container": unit})
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/podman").hardlink_to(_linkable(debian_root, root))
    (root / LINKS).mkdir(parents=True)
    (root / LINKS / "u.container").symlink_to(f"/{units}/u.container")
    with Rootfs.open(root) as opened:
        (image,) = discover(opened).images
    return "no-additional-image-store" not in {finding.code for finding in image.findings}


def _linkable(debian_root: DebianRoot, root: Path) -> Path:
    """Podman's program on the file system of *root*, copied there once."""
    copy = root.parent.parent / "podman"
    if not copy.exists():
        copy.write_bytes((debian_root.root / "usr/bin/podman").read_bytes())
    return copy


def test_ways_to_the_store_are_those_of_podman(
    debian_root: DebianRoot, tmp_path: Path, bound_store: Path
) -> None:
    for name, way in WAYS.items():
        write(tmp_path / "ways" / name, {"ask": way.ask()})
        (tmp_path / "ways" / name / "root").mkdir()
        write(tmp_path / "ways" / name / "root", way.files)
    theirs = asked(debian_root, tmp_path / "ways", bound_store)
    ours = {}
    for name, way in WAYS.items():
        write(tmp_path / "roots" / name, way.files)
        ours[name] = own_answer(debian_root, tmp_path / "roots" / name, way.unit())
    assert ours == theirs
    assert theirs["additionalimagestore"]
    assert not theirs["nothing"]


PULLS: dict[str, tuple[Sequence[str], bool]] = {
    "as it is": ((), False),
    "with the store": ((f"--storage-opt=imagestore={STORE}", "image", "pull"), False),
    "missing": ((f"--storage-opt=imagestore={STORE}", "image", "pull", "--policy=missing"), True),
    "never": ((f"--storage-opt=imagestore={STORE}", "image", "pull", "--policy=never"), True),
    "newer": ((f"--storage-opt=imagestore={STORE}", "image", "pull", "--policy=newer"), True),
    "always": ((f"--storage-opt=imagestore={STORE}", "image", "pull", "--policy=always"), False),
    "missing without the store": (("image", "pull", "--policy=missing"), False),
    "missing, all tags": (
        (f"--storage-opt=imagestore={STORE}", "image", "pull", "--policy=missing", "--all-tags"),
        False,
    ),
}


def test_cure_for_an_image_service_is_one(
    debian_root: DebianRoot, tmp_path: Path, bound_store: Path
) -> None:
    """Only a policy together with the store lets `podman image pull` do without a network."""
    for name, (words, _) in PULLS.items():
        ask = shlex.join(("exec", "podman", *(words or ("image", "pull")), NAME))
        write(tmp_path / name, {"ask": ask, "root/empty": ""})
    theirs = asked(debian_root, tmp_path, bound_store)
    with Rootfs.open(debian_root.root) as opened:
        version = installed_podman(opened)
    assert version is not None
    able = (version.major, version.minor) >= (5, 6)
    assert theirs == {name: works and able for name, (_, works) in PULLS.items()}


def test_version_is_the_one_that_podman_says(debian_root: DebianRoot) -> None:
    said = json.loads(debian_root.run(("podman", "version", "--format=json")).stdout)
    with Rootfs.open(debian_root.root) as opened:
        assert str(installed_podman(opened)) == said["Client"]["Version"]
