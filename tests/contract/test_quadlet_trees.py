"""Whole trees of units, made at random: what podman's generator makes services of is what we say."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import BoundImage
from installer_plugin.stages.discover import LINKS, discover
from tests.contract.test_quadlet_judge import PACKAGES, UNIT_DIRECTORIES, Verdict, read_verdict
from tests.contract.test_quadlet_judge import debian_root as debian_root  # noqa: PLC0414 - a fixture
from tests.support.debian import QUADLET, DebianRoot

pytestmark = pytest.mark.real

# Each tree in turn lies where the generator looks; one entry into the root serves all of them.
_JUDGE = """
quadlet=$1; shift
mkdir -p "$@"
for tree in /trees/*; do
    for directory in "$@"; do mount --bind "$tree$directory" "$directory"; done
    echo "=== ${tree##*/}"
    "$quadlet" -dryrun 2>/dev/null || true
    umount "$@"
done
"""
ETC, RUN, USR = "etc/containers/systemd", "run/containers/systemd", "usr/share/containers/systemd"
FOLDERS = (USR, USR, f"{USR}/sub", f"{USR}/users", ETC, f"{ETC}/sub", f"{ETC}/users", RUN)
CONTAINERS = ("a-b.container", "a-c@i.container", "d.container")
IMAGES = ("e.image", "f-g.image")
NO_SERVICE = {"unit-directory-dropped", "quadlet-refuses-key", "unit-shadowed", "user-unit"}
"""Findings that say why a unit does not become a service, or not that file."""

images = st.integers(0, 5).map(lambda number: f"Image=q.io/{number}:1")
references = st.sampled_from(IMAGES).map(lambda name: f"Image={name}")
others = st.sampled_from((
    "Image=", 'Image="q.io/quoted:1"', "Image=q.io/\\\n  folded:1", "# Image=q.io/comment:1", "",
    "GlobalArgs=--log-level=info", "PodmanArgs=--quiet",
))  # fmt: skip
odd = st.sampled_from(
    ("Bogus=1", "image=q.io/lower:1", "Policy=missing", "AppArmor=x", "Pull=never")
)
malformed = st.sampled_from(("junk", "[Container", "=x", "[]"))


def texts(section: str, *, whole: bool) -> st.SearchStrategy[str]:
    """Texts of a unit; one in some is malformed when `whole` is set, drop-ins never are."""
    lines = st.one_of(images, images, images, references, others, *([odd] if whole else []))
    body = st.lists(lines, min_size=1, max_size=3).map("\n".join)
    good = body.map(lambda text: f"[{section}]\n{text}\n")
    if not whole:
        return good
    bad = st.tuples(good, malformed).map("\n".join)
    return st.integers(0, 9).flatmap(lambda dice: bad if dice == 9 else good)


def drop_in_folders(name: str) -> list[str]:
    """Directories that may have drop-ins of a unit, and one that has none."""
    stem, _, suffix = name.rpartition(".")
    names = [f"{name}.d", f"{suffix}.d", f"zz.{suffix}.d"]
    names += [f"a-.{suffix}.d"] if stem.startswith("a-") else []
    return names + ([f"{stem.partition('@')[0]}@.{suffix}.d"] if "@" in stem else [])


@st.composite
def files(draw: st.DrawFn) -> dict[str, str]:
    """Units, drop-ins and files of other types by path in the root."""
    tree: dict[str, str] = {}
    for _ in range(draw(st.integers(1, 5))):
        name = draw(st.sampled_from(CONTAINERS + IMAGES))
        section = "Image" if name in IMAGES else "Container"
        tree[f"{draw(st.sampled_from(FOLDERS))}/{name}"] = draw(texts(section, whole=True))
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(CONTAINERS + IMAGES))
        section = "Image" if name in IMAGES else "Container"
        folder = draw(st.sampled_from(drop_in_folders(name)))
        path = f"{draw(st.sampled_from(FOLDERS))}/{folder}/{draw(st.integers(1, 2))}.conf"
        tree[path] = draw(texts(section, whole=False))
    for _ in range(draw(st.integers(0, 1))):
        name = draw(
            st.sampled_from(("v.volume", "k.kube", "n.network", "p.pod", "b.build", "x.txt"))
        )
        tree[f"{draw(st.sampled_from(FOLDERS))}/{name}"] = draw(
            st.sampled_from(("junk", "", "[X]\n"))
        )
    return tree


@dataclass(frozen=True)
class Tree:
    """A root with units, each of them bound."""

    files: dict[str, str]
    dangling: str = ""
    """Path of a link that leads nowhere."""
    directory: str = ""
    """Path of a directory that has the name of a unit."""

    def write(self, root: Path, packages: Path) -> None:
        for top in (ETC, RUN, USR, LINKS):
            (root / top).mkdir(parents=True)
        (root / PACKAGES).parent.mkdir(parents=True)
        (root / PACKAGES).write_bytes(packages.read_bytes())
        for path, text in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        if self.dangling:
            (root / self.dangling).parent.mkdir(parents=True, exist_ok=True)
            (root / self.dangling).symlink_to("nowhere")
        if self.directory:
            (root / self.directory).mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(self.units()):
            (root / LINKS / f"{number}.{path.rpartition('.')[2]}").symlink_to(f"/{path}")

    def units(self) -> list[str]:
        return [path for path in self.files if path.endswith((".container", ".image"))]


places = st.sampled_from(FOLDERS)
rarely = st.integers(0, 9).map(lambda dice: dice == 9)
trees = st.builds(
    lambda tree, lost, folder: Tree(
        tree,
        f"{lost[1]}/lost.container" if lost[0] else "",
        f"{folder[1]}/folder.image" if folder[0] else "",
    ),
    files(),
    st.tuples(rarely, places),
    st.tuples(rarely, places),
)


def judge_all(debian_root: DebianRoot, base: Path) -> list[Verdict]:
    """Let the generator read all trees below *base*."""
    argv = ("sh", "-ec", _JUDGE, "sh", QUADLET, *UNIT_DIRECTORIES)
    output = debian_root.run(argv, ro={"/trees": base}).stdout
    parts = re.split(r"^=== .*\n", output, flags=re.MULTILINE)[1:]
    return [read_verdict(part) for part in parts]


def service_of(path: str) -> str:
    stem, _, suffix = path.rpartition("/")[2].rpartition(".")
    return f"{stem}-image.service" if suffix == "image" else f"{stem}.service"


def disagreement(tree: Tree, root: Path, verdict: Verdict) -> list[str]:
    """What the generator and we see differently, unit by unit."""
    with Rootfs.open(root) as opened:
        discovered = discover(opened)
    ours = {image.location.link.rpartition("/")[2]: image for image in discovered.images}
    wrong = []
    for number, path in enumerate(tree.units()):
        image = ours.get(f"{number}.{path.rpartition('.')[2]}")
        made = verdict.sources.get(service_of(path)) == f"/{path}"
        # A container of an .image that is refused runs a root file system without a name.
        run = verdict.images[service_of(path)] if made else "--rootfs"
        said = {finding.code for finding in image.findings} if image else set()
        ours_is = f"we say {image and image.reference} {said}"
        if run != "--rootfs" and not _agrees(image, run, said):
            wrong.append(f"{path}: runs {run}, {ours_is}")
        if run == "--rootfs" and image is not None and not said & NO_SERVICE:
            wrong.append(f"{path}: runs nothing, {ours_is}")
    return wrong


def _agrees(image: BoundImage | None, run: str, said: set[str]) -> bool:
    if image is None or image.reference != run:
        return False
    return not said & (NO_SERVICE - {"user-unit"})


COUNT = 300


def grown() -> list[Tree]:
    """Trees as hypothesis makes them, the same in every run."""
    found: list[Tree] = []

    @settings(
        max_examples=COUNT,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(trees)
    def grow(tree: Tree) -> None:
        found.append(tree)

    grow()
    return found


def test_trees_are_read_as_the_generator_reads_them(
    debian_root: DebianRoot, tmp_path: Path
) -> None:
    roots = [(tmp_path / f"{number:04}", tree) for number, tree in enumerate(grown())]
    for root, tree in roots:
        tree.write(root, debian_root.root / PACKAGES)
    verdicts = judge_all(debian_root, tmp_path)
    assert len(verdicts) == len(roots)
    differing = {
        f"{root.name}: {tree}": wrong
        for (root, tree), verdict in zip(roots, verdicts, strict=True)
        if (wrong := disagreement(tree, root, verdict))
    }
    shown = "\n".join(f"{tree}\n  {wrong}" for tree, wrong in [*differing.items()][:3])
    assert not differing, f"{len(differing)} trees differ:\n{shown}"
    services = sum(len(verdict.sources) for verdict in verdicts)
    assert services > len(roots) / 2, "hardly a tree had a service: the trees are too odd"
