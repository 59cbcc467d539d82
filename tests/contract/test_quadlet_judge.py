"""Podman's own generator reads the same units: what it would run is what we install."""

import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from installer_plugin.declarations.quadlet import setting
from installer_plugin.declarations.unit_syntax import parse_unit
from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import UnitKind
from installer_plugin.stages.discover import LINKS, Discovered, discover
from tests.support.debian import QUADLET, DebianRoot, Suite, cached_root

pytestmark = pytest.mark.real

DIGEST = "@sha256:" + "0" * 64
UNIT_DIRECTORIES = tuple(f"{top}/containers/systemd" for top in ("/run", "/etc", "/usr/share"))
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[^ ]+')
ESCAPE = re.compile(r"\\(?:x(?P<hex>[0-9a-f]{2})|(?P<char>.))")
PACKAGES = "var/lib/dpkg/status"
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@pytest.fixture(scope="module", params=["trixie", pytest.param("sid", marks=pytest.mark.moving)])
def debian_root(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> DebianRoot:
    """Debian 13 with podman 5.4; in tests/matrix also the moving one with 5.8 or newer."""
    suite: Suite = request.param
    return DebianRoot(root=cached_root(suite), scratch=tmp_path_factory.mktemp("judge"))


@dataclass(frozen=True)
class Verdict:
    """What the generator made of a set of units."""

    images: dict[str, str]
    """Last argument of ExecStart= by service."""
    sources: dict[str, str]
    """The unit's file by service."""
    complaints: str


def judged(debian_root: DebianRoot, root: Path) -> Verdict:
    """Let the generator read the unit directories of *root*, which gets the package list of its podman."""
    mounts = {top: root / top[1:] for top in UNIT_DIRECTORIES}
    for directory in mounts.values():
        directory.mkdir(parents=True, exist_ok=True)
    (root / PACKAGES).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(debian_root.root / PACKAGES, root / PACKAGES)
    done = debian_root.run((QUADLET, "-dryrun"), ro=mounts, ok=(0, 1))
    return read_verdict(done.stdout, done.stderr)


def read_verdict(output: str, complaints: str = "") -> Verdict:
    """Take apart what the generator prints with -dryrun."""
    images, sources, service = {}, {}, ""
    for line in output.split("\n"):
        if header := re.fullmatch(r"---(.+)---", line):
            service = header[1]
        elif line.startswith("ExecStart="):
            images[service] = _unescaped(WORD.findall(line)[-1])
        elif line.startswith("SourcePath="):
            sources[service] = line.partition("=")[2]
    return Verdict(images, sources, complaints)


def _unescaped(word: str) -> str:
    """Undo how the generator writes a word with unusual characters into ExecStart=."""
    if not word.startswith('"'):
        return word
    return ESCAPE.sub(
        lambda escape: (
            chr(int(escape["hex"], 16))
            if escape["hex"]
            else CONTROLS.get(escape["char"], escape["char"])
        ),
        word[1:-1],
    )


@dataclass(frozen=True)
class Case:
    """Units by path, below /usr/share/containers/systemd where it is not absolute."""

    units: Mapping[str, str]
    links: Mapping[str, str] = field(default_factory=dict)
    """Links among the units."""

    @property
    def bound(self) -> str:
        """The first unit: the one to bind."""
        return next(iter(self.units))

    @property
    def service(self) -> str:
        stem, _, suffix = self.bound.rpartition("/")[2].rpartition(".")
        return f"{stem}-image.service" if suffix == "image" else f"{stem}.service"

    def write(self, root: Path) -> None:
        for name, text in self.units.items():
            path = root / self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name, target in self.links.items():
            path = root / self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        (root / LINKS).mkdir(parents=True)
        name = self.bound.rpartition("/")[2]
        (root / LINKS / name).symlink_to("/" + self._path(self.bound))

    @staticmethod
    def _path(name: str) -> str:
        return name[1:] if name.startswith("/") else f"usr/share/containers/systemd/{name}"


def image(text: str) -> Case:
    return Case({"u.image": f"[Image]\n{text}"})


def drop(image_name: str) -> str:
    return f"[Container]\nImage=q.io/{image_name}:1\n"


def dropped(name: str, *paths: str) -> Case:
    """A container with drop-ins, each of which sets an image of its own."""
    return Case({f"{name}.container": drop("base")} | {
        path: drop(f"drop-{number}") for number, path in enumerate(paths)
    })  # fmt: skip


def followed(units: Mapping[str, str], written: str = "f.image") -> Case:
    return Case({"u.container": f"[Container]\nImage={written}\n", **units})


def fetched(name: str) -> str:
    return f"[Image]\nImage=q.io/{name}:1\n"


AGREED = {
    "plain": image("Image=q.io/x:1"),
    "white space": image(" \tImage\t =  q.io/x:1\t \r\n"),
    "comments": image("# Image=a\n; Image=b\n  #Image=c\nImage=q.io/x:1\n"),
    "comment before the section": Case({"u.image": "# c\n\n;d\n[Image] \nImage=q.io/x:1"}),
    "comment that ends in a backslash": image("# c \\\nImage=q.io/x:1\n"),
    "continuation": image("Image=q.io/\\\nx:1\n"),
    "continuation, indented": image("Image=q.io/x\\\n    :1\n"),
    "continuation, comment between": image("Image=q.io/x\\\n# c\n; d\n:1\n"),
    "continuation, empty line between": image("Image=q.io/x\\\n\n:1\n"),
    "continuation, backslash in a comment between": image("Image=q.io/x\\\n# c \\\n:1\n"),
    "continuation of nothing": image("\\\nImage=q.io/x:1\n"),
    "continuation in the key": image("Im\\\nage=q.io/x:1\n"),
    "backslash in the last line": image("Image=q.io/x:1\\\n"),
    "backslash at the end of the file": image("Image=q.io/x:1\\"),
    "unfinished line after it": image("Image=q.io/x:1\nPodmanArgs=--quiet \\\n\n"),
    "other key continued": image("PodmanArgs=--quiet \\\n  --retry=1\nImage=q.io/x:1\n"),
    "quotes": image('Image="q.io/x:1"\n'),
    "quotes and white space": image('Image= "q.io/x:1" \n'),
    "repeated": image("Image=q.io/a:1\nImage=q.io/x:1\n"),
    "set again after a reset": image("Image=q.io/a:1\nImage=\nImage=q.io/x:1\n"),
    "section again": image("Image=q.io/a:1\n[Unit]\nDescription=d\n[Image]\nImage=q.io/x:1\n"),
    "both sections": Case({"u.container": "[Image]\nImage=q.io/a:1\n" + drop("x")}),
    "key like a section": Case({"u.container": "[Unit]\n[a]b=c\n" + drop("x")}),
    "no tag": image("Image=q.io/x\n"),
    "pinned": image(f"Image=q.io/x:1{DIGEST}\n"),
    "short": image("Image=x\n"),
    "tag for others only": image("Image=q.io/x:1\nImageTag=q.io/y:1\n"),
    "image of an image is not a unit": Case({
        "u.image": "[Image]\nImage=f.image\n", "f.image": fetched("f"),
    }),
    "drop-in": dropped("u", "u.container.d/1.conf"),
    "drop-ins in order": dropped("u", "u.container.d/2.conf", "u.container.d/1.conf"),
    "drop-in of the type": dropped("u", "container.d/1.conf"),
    "drop-in of a prefix": dropped("a-b-c", "a-.container.d/1.conf"),
    "drop-in of two prefixes": dropped("a-b-c", "a-.container.d/1.conf", "a-b-.container.d/1.conf"),
    "drop-in name before prefix": dropped(
        "a-b-c", "a-.container.d/2.conf", "a-b-.container.d/1.conf"
    ),
    "drop-in of a leading dash": dropped("-b", "-.container.d/1.conf"),
    "drop-in of double dashes": dropped("a--b-", "a-.container.d/1.conf", "a--.container.d/1.conf"),
    "drop-in name in several places": dropped(
        "u", "container.d/1.conf", "u.container.d/1.conf", "/etc/containers/systemd/u.container.d/1.conf"
    ),
    "drop-in of the administrator": dropped(
        "u", "u.container.d/1.conf", "/etc/containers/systemd/container.d/1.conf"
    ),
    "drop-in of the runtime": dropped(
        "u",
        "/etc/containers/systemd/u.container.d/1.conf",
        "/run/containers/systemd/u.container.d/1.conf",
    ),
    "drop-in below a directory": dropped("u", "sub/u.container.d/1.conf"),
    "drop-in, own directory before one below": dropped(
        "s/u", "u.container.d/1.conf", "s/u.container.d/1.conf"
    ),
    "drop-in in a drop-in directory": dropped("u", "x.d/u.container.d/1.conf"),
    "drop-in without .conf": dropped("u", "u.container.d/1.txt", "u.container.d/conf"),
    "drop-in of users": dropped("u", "/etc/containers/systemd/users/u.container.d/1.conf"),
    "drop-in of no users": dropped("u", "/etc/containers/systemd/users-x/u.container.d/1.conf"),
    "drop-in of another type": Case({
        "u.container": drop("x"), "image.d/1.conf": fetched("y"), "u.image.d/1.conf": fetched("z"),
    }),
    "drop-in of an image": Case({"u.image": fetched("x"), "image.d/1.conf": fetched("y")}),
    "drop-in for a template": dropped("u@", "u@.container.d/1.conf"),
    "drop-in for an instance's template": dropped("u@i", "u@.container.d/1.conf"),
    "drop-in for an instance": dropped("u@i", "u@.container.d/1.conf", "u@i.container.d/1.conf"),
    "drop-in for no template": dropped("u@i", "u.container.d/1.conf"),
    "drop-in for a template's prefix": dropped(
        "a-b@i", "a-.container.d/1.conf", "a-@.container.d/1.conf"
    ),
    "drop-in for no instance prefix": dropped("u@i-j", "u@i-.container.d/1.conf"),
    "drop-in through a link": Case(
        {"u.container": drop("x"), "other/1.conf": drop("y")},
        {"u.container.d": "other"},
    ),
    "masked drop-in": Case(
        {"u.container": drop("x"), "u.container.d/1.conf": drop("y")},
        {"/etc/containers/systemd/u.container.d/1.conf": "/dev/null"},
    ),
    "image unit": followed({"f.image": fetched("f")}),
    "image unit in quotes": followed({"f.image": fetched("f")}, '"f.image"'),
    "image unit below": followed({"s/f.image": fetched("f")}),
    "image unit of the administrator": followed({
        "f.image": fetched("f"), "/etc/containers/systemd/f.image": fetched("etc"),
    }),
    "image unit of the runtime": followed({
        "/etc/containers/systemd/f.image": fetched("etc"),
        "/run/containers/systemd/f.image": fetched("run"),
    }),
    "image unit with a drop-in": followed({
        "f.image": fetched("f"), "/etc/containers/systemd/f.image.d/1.conf": fetched("d"),
    }),
    "image unit from a drop-in": Case({
        "u.container": drop("x"), "f.image": fetched("f"),
        "u.container.d/1.conf": "[Container]\nImage=f.image\n",
    }),
    "image unit with a tag": followed({"f.image": fetched("f") + "ImageTag=q.io/f:local\n"}),
    "image unit with a quoted tag": followed({
        "f.image": fetched("f") + 'ImageTag="q.io/f:local"\n',
    }),
    "image unit with an empty tag": followed({"f.image": fetched("f") + "ImageTag=\n"}),
}  # fmt: skip


def found(root: Path) -> Discovered:
    with Rootfs.open(root) as opened:
        return discover(opened)


@pytest.mark.parametrize("case", AGREED.values(), ids=AGREED)
def test_generator_runs_the_image_that_we_install(
    debian_root: DebianRoot, tmp_path: Path, case: Case
) -> None:
    case.write(tmp_path)
    verdict = judged(debian_root, tmp_path)
    discovered = found(tmp_path)
    assert discovered.problems == ()
    (bound,) = discovered.images
    run = verdict.images[case.service]
    # A tag given by an .image unit is what its containers run; the image behind it is the same.
    tagged = [text for text in case.units.values() if re.search(r"^ImageTag=.", text, re.MULTILINE)]
    if tagged and case.service == "u.service":
        assert bound.names[1] == run
        assert bound.reference == verdict.images["f-image.service"]
    else:
        assert bound.reference == run


REFUSED = {
    "no key": image(""),
    "empty": image("Image=\n"),
    "empty quotes": image('Image=""\n'),
    "reset at the end": image("Image=q.io/x:1\nImage=\n"),
    "lost in an unfinished line": image("Image=q.io/x:1\\\n\n"),
    "key in lower case": image("image=q.io/x:1\n"),
    "other section": Case({"u.image": "[X-Image]\nImage=q.io/x:1\n"}),
    "no section": Case({"u.image": "Image=q.io/x:1\n"}),
    "word": image("junk\nImage=q.io/x:1\n"),
    "no key name": image("=x\nImage=q.io/x:1\n"),
    "comment behind a section": Case({"u.image": "[Image] # c\nImage=q.io/x:1\n"}),
    "section not closed": Case({"u.image": "[Image\nImage=q.io/x:1\n"}),
    "brackets twice": Case({"u.image": "[[Image]]\nImage=q.io/x:1\n"}),
    "section without a name": image("Image=q.io/x:1\n[]\n"),
    "byte order mark": Case({"u.image": "\ufeff[Image]\nImage=q.io/x:1\n"}),
    "reset by a drop-in": Case({"u.container": drop("x"), "container.d/1.conf": "[Container]\nImage="}),
    "image and root file system": Case({"u.container": drop("x") + "Rootfs=/x\n"}),
    "no image unit": followed({}),
    "image unit by a path": followed({"s/f.image": fetched("f")}, "s/f.image"),
    "image unit of users": followed({"/etc/containers/systemd/users/f.image": fetched("f")}),
    "registry's image unit": followed({}, "q.io/f.image"),
    "no build unit": followed({}, "f.build"),
    "empty file": Case({"u.image": ""}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_the_generator_refuses_is_a_problem(
    debian_root: DebianRoot, tmp_path: Path, case: Case
) -> None:
    case.write(tmp_path)
    verdict = judged(debian_root, tmp_path)
    assert case.service not in verdict.images
    assert "u." in verdict.complaints
    discovered = found(tmp_path)
    assert discovered.images == ()
    assert discovered.problems


COMPLAINED = {
    "malformed drop-in": Case({"u.container": drop("x"), "u.container.d/1.conf": "junk"}),
    "drop-in without a section": Case({"u.container": drop("x"), "u.container.d/1.conf": "Image=y"}),
    "dangling drop-in": Case(
        {"u.container": drop("x")}, {"u.container.d/1.conf": "nowhere"},
    ),
    "drop-in is a directory": Case({"u.container": drop("x"), "u.container.d/1.conf/x": ""}),
    "drop-in directory is a file": Case({"u.container": drop("x"), "u.container.d": ""}),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPLAINED.values(), ids=COMPLAINED)
def test_what_the_generator_complains_about_is_a_problem(
    debian_root: DebianRoot, tmp_path: Path, case: Case
) -> None:
    """It goes on without the drop-in; nobody knows which image was meant, so we do not."""
    case.write(tmp_path)
    verdict = judged(debian_root, tmp_path)
    assert verdict.images[case.service] == "q.io/x:1"
    assert "1.conf" in verdict.complaints or "u.container.d" in verdict.complaints
    assert found(tmp_path).problems


STRICTER = {
    "specifier": (image("Image=q.io/x:%i\n"), "q.io/x:%i"),
    "percent": (image("Image=q.io/x:%%i\n"), "q.io/x:%%i"),
    "comment in the value": (image("Image=q.io/x:1 # c\n"), "q.io/x:1 # c"),
    "comment sign in the value": (image("Image=q.io/x:1;c\n"), "q.io/x:1;c"),
    "single quotes": (image("Image='q.io/x:1'\n"), "'q.io/x:1'"),
    "lone quote": (image('Image="q.io/x:1\n'), "q.io/x:1"),
    "quotes twice": (image('Image=""q.io/x:1""\n'), "q.io/x:1"),
    "upper case": (image("Image=q.io/X:1\n"), "q.io/X:1"),
    "docker": (image("Image=docker://q.io/x:1\n"), "docker://q.io/x:1"),
    "archive": (image("Image=docker-archive:/x.tar\n"), "docker-archive:/x.tar"),
    "auth file": (image("AuthFile=/x\nImage=q.io/x:1\n"), "q.io/x:1"),
    "build unit": (
        followed({"f.build": "[Build]\nImageTag=localhost/f:1\nFile=/x\n"}, "f.build"),
        "localhost/f:1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("case", "run"), STRICTER.values(), ids=STRICTER)
def test_what_bootc_or_podman_refuse_later_is_a_problem_now(
    debian_root: DebianRoot, tmp_path: Path, case: Case, run: str
) -> None:
    """The generator checks no reference."""
    case.write(tmp_path)
    # Newer ones take away one pair of quotes and no more.
    assert judged(debian_root, tmp_path).images[case.service].strip('"') == run
    discovered = found(tmp_path)
    assert discovered.images == ()
    assert len(discovered.problems) == 1


PIECES = (
    "[", "]", "[Image]\n", "[Unit]\n", "Image=", "Image=q.io/", "=", "#", ";", "# c\n", "\\", "\\\n",
    "\n", " ", "\t", "\r", "\v", "x", "y:1", "'", "\x1c", "\x85", "\xa0", "\ufeff", "\u2028", "é",
)  # fmt: skip


def test_random_units_are_read_alike(debian_root: DebianRoot, tmp_path: Path) -> None:
    """Thousands of units in one run: both find the same value, or both find none."""
    dice = random.Random(5)  # noqa: S311 - the same units in every run
    texts = {
        f"u{number}": "[Image]\n" + "".join(dice.choices(PIECES, k=dice.randint(1, 12)))
        for number in range(3000)
    }
    for name, text in texts.items():
        # One malformed unit makes the generator drop the whole directory that it is in.
        folder = tmp_path / "usr/share/containers/systemd" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.image").write_text(text, newline="")
    images = judged(debian_root, tmp_path).images
    differing = {
        text: (ours, theirs)
        for name, text in texts.items()
        if (ours := _own_reading(text)) != (theirs := images.get(f"{name}-image.service"))
    }
    assert differing == {}
    assert len(images) > 100


def _own_reading(text: str) -> str | None:
    try:
        unit = parse_unit(text, "u.image")
    except DataError:
        return None
    if {each.key for each in unit.assignments if each.section == "Image"} - {"Image"}:
        return None  # the generator refuses keys that it does not know
    value = setting(unit, UnitKind.IMAGE, "Image")
    return value.value if value and value.value else None
