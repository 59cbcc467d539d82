"""From links in the image to bound images; every bad one is named, none stops another."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installer_plugin.declarations.unit_search import MAX_DEPTH
from installer_plugin.errors import Problem, SourceImageError
from installer_plugin.files.rootfs import DEFAULT_READ_LIMIT, Rootfs
from installer_plugin.model import UnitKind
from installer_plugin.stages.discover import LINKS, Discovered, discover, require_sound
from tests.support.sources import UNITS, SourceRootBuilder

DIGEST = "@sha256:" + "0" * 64
ETC = "/etc/containers/systemd"
RUN = "/run/containers/systemd"
IMAGE = "[Image]\nImage=quay.io/x/y:1\n"
CONTAINER = "[Container]\nImage=quay.io/x/y:1\n"


def found(root: Path) -> Discovered:
    with Rootfs.open(root) as opened:
        return discover(opened)


def codes(discovered: Discovered) -> set[str]:
    return {finding.code for image in discovered.images for finding in image.findings}


def only_problem(root: Path) -> Problem:
    discovered = found(root)
    assert discovered.images == ()
    assert discovered.declared
    (problem,) = discovered.problems
    assert problem.hint
    return problem


# --- what is bound ---------------------------------------------------------------------------


def test_absent_directory_binds_nothing(tmp_path: Path) -> None:
    assert found(tmp_path) == Discovered(images=(), problems=(), declared=False)


def test_empty_directory_binds_nothing(source_root: SourceRootBuilder) -> None:
    discovered = found(source_root({}))
    assert discovered == Discovered(images=(), problems=(), declared=False)
    assert require_sound(discovered) == ()


def test_units_are_found_through_absolute_links(source_root: SourceRootBuilder) -> None:
    root = source_root(
        {
            "foo.image": "[Image]\nImage=quay.io/foo/foo:latest\n",
            "bar.container": "# bar\n[Container]\nImage=quay.io/bar/bar:latest\n",
        }
    )
    bar, foo = require_sound(found(root))
    assert (foo.kind, foo.reference) == (UnitKind.IMAGE, "quay.io/foo/foo:latest")
    assert (bar.kind, bar.reference) == (UnitKind.CONTAINER, "quay.io/bar/bar:latest")
    assert str(bar.location) == f"{LINKS}/bar.container -> {UNITS}/bar.container:3"
    assert bar.names == ("quay.io/bar/bar:latest",)


@pytest.mark.parametrize(
    "target",
    [
        "/opt/app/x.image",
        "../../../../opt/app/x.image",
        "/opt/link.image",
        "/opt/app/../app/./x.image",
        "../../../../../../../opt/app/x.image",
    ],
    ids=["absolute", "relative", "chain", "dots", "climbing"],
)
def test_link_is_followed_inside_the_root(source_root: SourceRootBuilder, target: str) -> None:
    root = source_root({"/opt/app/x.image": IMAGE}, links={"x.image": target})
    (root / "opt/link.image").symlink_to("app/x.image")
    (image,) = require_sound(found(root))
    assert image.reference == "quay.io/x/y:1"
    assert image.location.unit == "opt/app/x.image"
    climbs = any(finding.code == "link-leaves-root" for finding in image.findings)
    assert climbs == (target.count("../") > 5)


NAMES: dict[str, tuple[Mapping[str, str], str, tuple[str, ...]]] = {
    "as written": ({"u.image": "[Image]\nImage=q.io/x"}, "q.io/x", ("q.io/x",)),
    "pinned": (
        {"u.image": f"[Image]\nImage=q.io/x:1{DIGEST}"},
        f"q.io/x:1{DIGEST}",
        (f"q.io/x:1{DIGEST}",),
    ),
    "short": ({"u.image": "[Image]\nImage=x"}, "x", ("x",)),
    "quotes": ({"u.image": '[Image]\nImage="q.io/x:1"'}, "q.io/x:1", ("q.io/x:1",)),
    "tag": (
        {"u.image": "[Image]\nImage=q.io/x:1\nImageTag=localhost/x:2"},
        "q.io/x:1",
        ("q.io/x:1", "localhost/x:2"),
    ),
    "empty tag": ({"u.image": "[Image]\nImage=q.io/x:1\nImageTag="}, "q.io/x:1", ("q.io/x:1",)),
    "continuation": (
        {"u.image": "[Image]\nImage=q.io/\\\n  x:1\n"}, "q.io/x:1", ("q.io/x:1",),
    ),
    "drop-in": (
        {"u.image": IMAGE, "u.image.d/1.conf": "[Image]\nImage=q.io/new:1\n"},
        "q.io/new:1",
        ("q.io/new:1", "quay.io/x/y:1"),
    ),
    "image unit": (
        {
            "u.container": "[Container]\nImage=f.image",
            "s/f.image": "[Image]\nImage=q.io/f:1\nImageTag=q.io/f:local",
        },
        "q.io/f:1",
        ("q.io/f:1", "q.io/f:local", "f.image"),
    ),
    "image of an image is not a unit": (
        {"u.image": "[Image]\nImage=f.image"}, "f.image", ("f.image",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("units", "reference", "names"), NAMES.values(), ids=NAMES)
def test_names_that_the_store_must_answer_to(
    source_root: SourceRootBuilder,
    units: Mapping[str, str],
    reference: str,
    names: tuple[str, ...],
) -> None:
    (image,) = require_sound(found(source_root(units)))
    assert (image.reference, image.names) == (reference, names)


def test_bootcs_reading_gives_no_name_to_the_wrong_image(source_root: SourceRootBuilder) -> None:
    root = source_root(
        {
            "a.image": "[Image]\nImage=q.io/old:1\n",
            "a.image.d/1.conf": "[Image]\nImage=q.io/new:1\n",
            "b.image": "[Image]\nImage=q.io/old:1\n",
        }
    )
    new, old = require_sound(found(root))
    assert (new.names, old.names) == (("q.io/new:1",), ("q.io/old:1",))


def test_name_wanted_by_two_images_is_a_problem(source_root: SourceRootBuilder) -> None:
    root = source_root(
        {
            "a.image": "[Image]\nImage=q.io/a:1\nImageTag=q.io/b\n",
            "b.image": "[Image]\nImage=q.io/b:latest\n",
        }
    )
    (problem,) = found(root).problems
    assert problem.subject == "q.io/a:1"
    assert problem.message == "its ImageTag=q.io/b is also the name of q.io/b:latest"


# --- Quadlet's directories -------------------------------------------------------------------


def reference_with(source_root: SourceRootBuilder, units: Mapping[str, str]) -> str:
    (image,) = require_sound(found(source_root(units)))
    return image.reference


def drop(name: str) -> str:
    return f"[Container]\nImage=q.io/{name}\n"


DROP_INS: dict[str, tuple[str, list[str], str]] = {
    "own": ("u", ["u.container.d/1.conf"], "0"),
    "type": ("u", ["container.d/1.conf"], "0"),
    "truncated": ("a-b-c", ["a-.container.d/2.conf", "a-b-.container.d/1.conf"], "0"),
    "specific hides broad": ("u", ["container.d/1.conf", "u.container.d/1.conf"], "1"),
    "name decides": ("u", ["container.d/2.conf", "u.container.d/1.conf"], "0"),
    "administrator": ("u", ["u.container.d/1.conf", f"{ETC}/u.container.d/1.conf"], "1"),
    "runtime": ("u", [f"{ETC}/u.container.d/1.conf", f"{RUN}/u.container.d/1.conf"], "1"),
    "name before directory": (
        "u", [f"{ETC}/container.d/1.conf", "u.container.d/1.conf"], "1",
    ),
    "template": ("u@i", ["u@.container.d/1.conf"], "0"),
    "not .conf": ("u", ["u.container.d/1.txt"], "base"),
    "other unit": ("u", ["v.container.d/1.conf", "image.d/1.conf"], "base"),
    "below a drop-in directory": ("u", ["x.d/u.container.d/1.conf"], "base"),
    "below a directory": ("u", ["sub/u.container.d/1.conf"], "0"),
    "of users": ("u", [f"{ETC}/users/u.container.d/1.conf"], "base"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "files", "expected"), DROP_INS.values(), ids=DROP_INS)
def test_drop_ins_apply_as_in_quadlet(
    source_root: SourceRootBuilder, name: str, files: list[str], expected: str
) -> None:
    units = {f"{name}.container": drop("base")}
    units |= {file: drop(str(number)) for number, file in enumerate(files)}
    assert reference_with(source_root, units) == f"q.io/{expected}"


PODMANS = ("4.9.3", "5.0.3", "5.4.2", "5.5.2", "5.6.0", "5.8.6", "6.0.0")
BY_PODMAN: dict[str, tuple[str, list[str], str]] = {
    "own in another directory": (
        "u", [f"{ETC}/container.d/1.conf", "u.container.d/1.conf"], "b100111",
    ),
    "prefix in another directory": (
        "a-b", ["container.d/1.conf", "sub/a-.container.d/1.conf"], "bb00111",
    ),
    "template in another directory": (
        "u@i", [f"{ETC}/u@.container.d/1.conf", "u@i.container.d/1.conf"], "b100111",
    ),
    "runtime before administrator": (
        "u", [f"{RUN}/container.d/1.conf", f"{ETC}/u.container.d/1.conf"], "b100111",
    ),
    "other names": ("u", [f"{ETC}/container.d/1.conf", "u.container.d/2.conf"], "b111111"),
    "one": ("u", ["u.container.d/1.conf"], "b000000"),
    "of the type": ("u", ["container.d/1.conf"], "bb00000"),
}  # fmt: skip


def with_podman(root: Path, version: str) -> Path:
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(f"Package: podman\nStatus: install ok installed\nVersion: {version}+ds1-2\n")
    return root


@pytest.mark.parametrize(("name", "files", "expected"), BY_PODMAN.values(), ids=BY_PODMAN)
def test_drop_ins_apply_as_for_the_podman_of_the_image(
    source_root: SourceRootBuilder, name: str, files: list[str], expected: str
) -> None:
    """Seen with the generators of podman 4.9, 5.0, 5.4, 5.5, 5.6 and 5.8."""
    units = {f"{name}.container": drop("b")}
    units |= {file: drop(str(number)) for number, file in enumerate(files)}
    root = source_root(units)
    for version, image in zip(PODMANS, expected, strict=True):
        discovered = found(with_podman(root, version))
        assert (version, discovered.images[0].reference) == (version, f"q.io/{image}")
        differs = len(set(expected[2:]) | {image}) > 1
        assert ("podman-versions-differ" in codes(discovered)) == differs


def test_other_podman_is_named_with_what_it_runs(source_root: SourceRootBuilder) -> None:
    units = {"u.container": drop("b"), f"{ETC}/container.d/1.conf": drop("old")}
    root = source_root(units | {"u.container.d/1.conf": drop("new")})
    messages = {}
    for version in ("5.4.2", "5.8.6"):
        (image,) = found(with_podman(root, version)).images
        messages[version] = [
            f.message for f in image.findings if f.code == "podman-versions-differ"
        ]
    assert messages == {
        "5.4.2": ["podman 5.4.2 runs 'q.io/old', podman 5.6 and newer runs 'q.io/new'"],
        "5.8.6": ["podman 5.8.6 runs 'q.io/new', podman 5.2 to 5.5 runs 'q.io/old'"],
    }


@pytest.mark.parametrize("content", [None, b"damaged"], ids=["none", "damaged"])
def test_image_that_does_not_say_its_podman_is_taken_for_a_new_one(
    source_root: SourceRootBuilder, content: bytes | None
) -> None:
    units = {"u.container": drop("b"), f"{ETC}/container.d/1.conf": drop("old")}
    root = source_root(units | {"u.container.d/1.conf": drop("new")})
    if content is not None:
        (root / "usr/share/rpm").mkdir(parents=True)
        (root / "usr/share/rpm/rpmdb.sqlite").write_bytes(content)
    (image,) = require_sound(found(root))
    assert image.reference == "q.io/new"
    (message,) = [f.message for f in image.findings if f.code == "podman-versions-differ"]
    assert ("rpmdb.sqlite" if content else "no package of podman") in message


def test_drop_in_directory_may_be_a_link(source_root: SourceRootBuilder) -> None:
    root = source_root({"u.container": CONTAINER, "/opt/d/1.conf": drop("new")})
    (root / UNITS / "u.container.d").symlink_to("/opt/d")
    (image,) = require_sound(found(root))
    assert image.reference == "q.io/new"
    assert image.location.unit == f"{UNITS}/u.container.d/1.conf"


def test_masked_drop_in_hides_its_namesake(source_root: SourceRootBuilder) -> None:
    root = source_root({"u.container": CONTAINER, "u.container.d/1.conf": drop("new")})
    masks = root / ETC[1:] / "u.container.d"
    masks.mkdir(parents=True)
    (masks / "1.conf").symlink_to("/dev/null")
    (image,) = require_sound(found(root))
    assert image.reference == "quay.io/x/y:1"


def test_unit_outside_quadlets_directories_has_its_own_drop_ins(
    source_root: SourceRootBuilder,
) -> None:
    root = source_root(
        {"/opt/u.container": CONTAINER, "/opt/u.container.d/1.conf": drop("beside")},
        links={"u.container": "/opt/u.container"},
    )
    (image,) = require_sound(found(root))
    assert image.reference == "q.io/beside"


def test_drop_ins_go_by_the_name_in_quadlets_directory(source_root: SourceRootBuilder) -> None:
    root = source_root(
        {
            "/opt/real.container": CONTAINER,
            "u.container.d/1.conf": drop("by-name"),
            "real.container.d/1.conf": drop("by-file"),
        },
        links={"x.container": f"/{UNITS}/u.container"},
    )
    (root / UNITS / "u.container").symlink_to("/opt/real.container")
    (image,) = require_sound(found(root))
    assert image.reference == "q.io/by-name"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([f"/{UNITS}/f.image"], "0"),
        ([f"/{UNITS}/f.image", f"{ETC}/f.image"], "1"),
        ([f"{ETC}/f.image", f"{RUN}/f.image"], "1"),
        ([f"/{UNITS}/sub/f.image"], "0"),
        (["/opt/f.image"], "0"),
        ([f"/{UNITS}/f.image", "/opt/f.image"], "0"),
        ([f"/{UNITS}/f.image", f"{ETC}/f.image.d/1.conf"], "1"),
    ],
    ids=["distribution", "admin", "runtime", "below", "beside", "beside comes last", "drop-in"],
)
def test_image_unit_is_looked_for_as_quadlet_does(
    source_root: SourceRootBuilder, files: list[str], expected: str
) -> None:
    units = {"/opt/u.container": "[Container]\nImage=f.image\n"}
    units |= {file: f"[Image]\nImage=q.io/{number}\n" for number, file in enumerate(files)}
    root = source_root(units, links={"u.container": "/opt/u.container"})
    (image,) = require_sound(found(root))
    assert image.reference == f"q.io/{expected}"
    assert "bootc-image-unit" in codes(found(root))


def test_links_in_a_circle_end_the_search(source_root: SourceRootBuilder) -> None:
    root = source_root({"u.container": CONTAINER})
    (root / UNITS / "again").symlink_to(f"/{UNITS}")
    (root / UNITS / "loop").symlink_to("loop")
    (root / UNITS / "root").symlink_to("/")
    assert [image.reference for image in require_sound(found(root))] == ["quay.io/x/y:1"]


def test_links_that_lead_nowhere_hide_no_unit_and_no_drop_in(
    source_root: SourceRootBuilder,
) -> None:
    units = {"u.container": "[Container]\nImage=f.image\n", "f.image": IMAGE}
    root = source_root(units, links={"u.container": f"/{UNITS}/u.container"})
    (root / ETC[1:]).mkdir(parents=True)
    for name in ("f.image", "f.image.d", "u.container.d"):
        (root / ETC[1:] / name).symlink_to("nowhere")
    (image,) = require_sound(found(root))
    assert image.reference == "quay.io/x/y:1"


@pytest.mark.parametrize("masked", [False, True], ids=["other file", "mask"])
def test_shadowed_unit_is_a_finding(source_root: SourceRootBuilder, *, masked: bool) -> None:
    root = source_root({"u.container": CONTAINER})
    other = root / ETC[1:] / "u.container"
    other.parent.mkdir(parents=True)
    if masked:
        other.symlink_to("/dev/null")
    else:
        other.write_text(drop("other"))
    discovered = found(root)
    assert require_sound(discovered)[0].reference == "quay.io/x/y:1"
    assert "unit-shadowed" in codes(discovered)


def test_link_to_the_same_file_is_no_shadow(source_root: SourceRootBuilder) -> None:
    root = source_root({"u.container": CONTAINER})
    other = root / ETC[1:] / "u.container"
    other.parent.mkdir(parents=True)
    other.symlink_to(f"/{UNITS}/u.container")
    assert "unit-shadowed" not in codes(found(root))


def test_depth_of_the_search_is_bounded(source_root: SourceRootBuilder) -> None:
    deep = "d/" * MAX_DEPTH
    units = {"u.container": "[Container]\nImage=f.image\n", f"{deep}f.image": IMAGE}
    assert "none of Quadlet's directories" in only_problem(source_root(units)).message


def test_link_of_another_kind_is_a_finding(source_root: SourceRootBuilder) -> None:
    root = source_root({"u.container": IMAGE}, links={"u.image": f"/{UNITS}/u.container"})
    assert "extension-differs" in codes(found(root))


# --- problems --------------------------------------------------------------------------------

BAD_UNITS: dict[str, tuple[Mapping[str, str], str, str]] = {
    "no key": ({"u.image": "[Image]\n"}, "has no Image= in [Image]", f"{UNITS}/u.image"),
    "empty": ({"u.image": "[Image]\n\nImage=\n"}, "Image= in [Image] is empty", "u.image:3"),
    "empty quotes": ({"u.image": '[Image]\nImage=""\n'}, "is empty", "u.image:2"),
    "reset by a drop-in": (
        {"u.image": IMAGE, "u.image.d/1.conf": "[Image]\nImage=\n"}, "is empty", "1.conf:2",
    ),
    "variable": (
        {"u.image": "[Image]\nImage=q.io/x:${VERSION}\n"}, "has the variable ${VERSION}", "u.image:2",
    ),
    "variable without braces": (
        {"u.image": "[Image]\nImage=$REGISTRY/x:1\n"}, "has the variable $REGISTRY", "u.image:2",
    ),
    "variable in a container": (
        {"u.container": "[Container]\nImage=q.io/${NAME:-x}\n"}, "variable ${NAME:-x}", "u.container:2",
    ),
    "variable of a configure script": (
        {"u.image": "[Image]\nImage=q.io/x:@TAG@\n"}, "has the variable @TAG@", "u.image:2",
    ),
    "variable of a template": (
        {"u.image": "[Image]\nImage=q.io/x:{{ tag }}\n"}, "has the variable {{ tag }}", "u.image:2",
    ),
    "variable of a manual": (
        {"u.image": "[Image]\nImage=q.io/x:<tag>\n"}, "has the variable <tag>", "u.image:2",
    ),
    "tag with a variable": (
        {"u.image": IMAGE + "ImageTag=localhost/$X\n"}, "has the variable $X", "u.image:3",
    ),
    "variable in a drop-in": (
        {"u.image": IMAGE, "u.image.d/1.conf": "[Image]\nImage=q.io/$X\n"}, "variable $X", "1.conf:2",
    ),
    "specifier": ({"u.image": "[Image]\nImage=q.io/%n\n"}, "the specifier '%n'", "u.image:2"),
    "lone percent": ({"u.image": "[Image]\nImage=q.io/x%\n"}, "a lone %", "u.image:2"),
    "percent in a name": ({"u.image": "[Image]\nImage=q.io/%%x\n"}, "not a name comp", "u.image:2"),
    "auth file": (
        {"u.image": "[Image]\nAuthFile=/x\nImage=q.io/x\n"}, "AuthFile= is set", "u.image:2",
    ),
    "empty auth file": ({"u.image": IMAGE + "AuthFile=\n"}, "AuthFile= is set", "u.image:3"),
    "malformed reference": (
        {"u.image": "[Image]\nImage=q.io/X\n"}, "'X' at character 6 is not lower-case", "u.image:2",
    ),
    "open quote": ({"u.image": '[Image]\nImage="q.io/x\n'}, "is not a registry host", "u.image:2"),
    "docker": ({"u.image": "[Image]\nImage=docker://q.io/x\n"}, "transport 'docker'", "u.image:2"),
    "oci": ({"u.image": "[Image]\nImage=oci:/x\n"}, "transport 'oci'", "u.image:2"),
    "tag malformed": ({"u.image": IMAGE + "ImageTag=X\n"}, "ImageTag= 'X'", "u.image:3"),
    "tag with a specifier": ({"u.image": IMAGE + "ImageTag=%n\n"}, "ImageTag= '%n'", "u.image:3"),
    "image ID": ({"u.image": f"[Image]\nImage={'0' * 64}\n"}, "is an image ID", "u.image:2"),
    "build": ({"u.container": "[Container]\nImage=f.build\n"}, "is built on", "container:2"),
    "missing image unit": (
        {"u.container": "[Container]\nImage=f.image\n"}, "none of Quadlet's dir", "container:2",
    ),
    "path to an image unit": (
        {"u.container": "[Container]\nImage=s/f.image\n", "s/f.image": IMAGE}, "none of", "ner:2",
    ),
    "NUL in a unit's name": (
        {"u.container": "[Container]\nImage=\0.image\n"}, "Image=\\x00.image is a unit", "ner:2",
    ),
    "image unit without image": (
        {"u.container": "[Container]\nImage=f.image\n", "sub/f.image": "[Image]\n"},
        "has no Image= in [Image]", f"{UNITS}/sub/f.image",
    ),
    "image unit malformed": (
        {"u.container": "[Container]\nImage=f.image\n", "sub/f.image": "junk"},
        "'junk' is not an assignment", f"-> {UNITS}/sub/f.image:1",
    ),
    "malformed": ({"u.image": "[Image]\njunk\n"}, "'junk' is not an assignment", "u.image:2"),
    "malformed drop-in": (
        {"u.image": IMAGE, "u.image.d/1.conf": "junk"}, "'junk' is not an assignment", "1.conf:1",
    ),
    "drop-in directory is a file": ({"u.image": IMAGE, "u.image.d": ""}, "be listed", "image.d"),
    "drop-in is a directory": (
        {"u.image": IMAGE, "u.image.d/1.conf/x": ""}, "is a directory", "1.conf",
    ),
    "image and rootfs": (
        {"u.container": CONTAINER + "Rootfs=/x\n"}, "Image= and Rootfs=", "u.container:2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("units", "message", "where"), BAD_UNITS.values(), ids=BAD_UNITS)
def test_bad_unit_is_a_problem_with_its_place(
    source_root: SourceRootBuilder, units: Mapping[str, str], message: str, where: str
) -> None:
    problem = only_problem(source_root(units))
    assert problem.subject.startswith("u.")
    assert message in problem.message
    assert problem.where.startswith(f"{LINKS}/u.")
    assert where in problem.where


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("u.image", "[Container]\nImage=q.io/x\n", "let the link's name end in .container"),
        ("u.image", "[Image]\nimage=q.io/x\n", "write Image=, not image="),
        ("u.container", "[Container]\nRootfs=/x\n", "no image to bind"),
        ("u.container", "[Container]\n", "set Image=, or remove the link"),
        ("u.image", "[Image]\nImage=q.io/x:1 # c\n", "on a line of its own"),
        ("u.image", "[Image]\nImage=docker://q.io/x\n", "write q.io/x"),
        ("u.image", "[Image]\nImage=dir:/x\n", "by its name in a registry"),
    ],
)
def test_hint_knows_the_likely_mistake(
    source_root: SourceRootBuilder, name: str, text: str, hint: str
) -> None:
    assert hint in only_problem(source_root({name: text})).hint


BAD_LINKS = {
    "dangling": ("x.image", "./blah", "dangles: ./blah does not exist"),
    "dangling absolute": ("x.image", "/nowhere.image", "dangles: /nowhere.image"),
    "out of the root": ("x.image", "../../../../../nowhere", "leads out of the root"),
    "in a circle": ("x.image", "x.image", "leads in a circle"),
    "through a file": ("x.image", f"/{UNITS}/u.image/y", "cannot be followed: Not a directory"),
    "slash at the end": ("x.image", f"/{UNITS}/u.image/", "cannot be followed: Not a directory"),
    "to a directory": ("x.image", f"/{UNITS}", "is a directory, expected a regular file"),
    "text": ("x.txt", f"/{UNITS}/u.image", "ends in '.txt', expected .image or .container"),
    "kube": ("x.kube", f"/{UNITS}/u.image", "ends in '.kube'"),
    "no extension": ("x", f"/{UNITS}/u.image", "has no extension"),
    "extension alone": (".image", f"/{UNITS}/u.image", "has no extension"),
    "dot at the end": ("x.", f"/{UNITS}/u.image", "expected .image or .container"),
}


@pytest.mark.parametrize(("name", "target", "message"), BAD_LINKS.values(), ids=BAD_LINKS)
def test_bad_link_is_a_problem(
    source_root: SourceRootBuilder, name: str, target: str, message: str
) -> None:
    problem = only_problem(source_root({"u.image": IMAGE}, links={name: target}))
    assert problem.subject == name
    assert message in problem.message
    assert problem.where.startswith(f"{LINKS}/{name}")


@pytest.mark.parametrize("kind", ["regular file", "directory", "fifo"])
def test_anything_but_a_link_is_a_problem(source_root: SourceRootBuilder, kind: str) -> None:
    root = source_root({})
    path = root / LINKS / "x.image"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.write_text(IMAGE)
    assert f"is a {kind}, expected a symbolic link" in only_problem(root).message


def test_target_that_is_no_file_is_never_opened(source_root: SourceRootBuilder) -> None:
    root = source_root({}, links={"f.image": "/fifo", "d.image": "/dev/null"})
    (root / "dev").mkdir()
    os.mkfifo(root / "fifo")
    os.mkfifo(root / "dev/null")
    assert [problem.message for problem in found(root).problems] == [
        "is a fifo, expected a regular file"
    ] * 2


def test_target_that_is_no_small_text_is_a_problem(source_root: SourceRootBuilder) -> None:
    root = source_root({}, links={"big.image": "/big", "latin.image": "/latin"})
    (root / "big").write_bytes(b"#" * (DEFAULT_READ_LIMIT + 1))
    (root / "latin").write_bytes(b"[Image]\nImage=\xff\n")
    big, latin = found(root).problems
    assert f"is longer than {DEFAULT_READ_LIMIT} bytes" in big.message
    assert "is not UTF-8 at byte 14" in latin.message
    assert latin.where == f"{LINKS}/latin.image -> latin"


def test_name_that_is_no_text_is_a_problem(source_root: SourceRootBuilder) -> None:
    root = source_root({"u.image": IMAGE})
    (root / LINKS / os.fsdecode(b"\xff.image")).symlink_to(f"/{UNITS}/u.image")
    discovered = found(root)
    assert len(discovered.images) == 1
    (problem,) = discovered.problems
    assert "its name is not UTF-8" in problem.message
    assert problem.subject == "\\udcff.image"


def test_name_cannot_write_to_the_terminal(source_root: SourceRootBuilder) -> None:
    root = source_root({"u.image": IMAGE}, links={"a\x1b[31m.image": f"/{UNITS}/u.image"})
    (image,) = found(root).images
    assert "\x1b" not in f"{image}"
    assert image.location.link == f"{LINKS}/a\\x1b[31m.image"


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_directory_of_links_has_to_be_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / LINKS
    path.parent.mkdir(parents=True)
    if kind == "file":
        path.write_text("")
    else:
        path.symlink_to("nowhere")
    assert "cannot be listed" in only_problem(tmp_path).message


def test_every_problem_is_told_and_no_image_is_lost(source_root: SourceRootBuilder) -> None:
    root = source_root(
        {"good.image": IMAGE, "bad.image": "[Image]\n"},
        links={
            "a.image": "/nowhere",
            "b.txt": f"/{UNITS}/good.image",
            "c.image": f"/{UNITS}/bad.image",
            "d.image": f"/{UNITS}/good.image",
        },
    )
    (root / LINKS / "README").write_text("")
    discovered = found(root)
    assert [image.reference for image in discovered.images] == ["quay.io/x/y:1"]
    subjects = [problem.subject for problem in discovered.problems]
    assert subjects == ["README", "a.image", "b.txt", "c.image"]
    with pytest.raises(SourceImageError) as caught:
        require_sound(discovered)
    assert caught.value.problems == discovered.problems


def test_disk_error_is_a_problem_of_one_entry(
    source_root: SourceRootBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing disk can't be had for real here, so reading link texts fails instead."""

    def fail(root: Rootfs, path: str) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(Rootfs, "readlink", fail)
    assert (
        "cannot be read: Input/output error"
        in only_problem(source_root({"u.image": IMAGE})).message
    )


# --- garbage ---------------------------------------------------------------------------------

CONTENT = st.binary(max_size=60) | st.lists(
    st.sampled_from([
        "[Image]\n", "[Container]\n", "Image=", "ImageTag=", "AuthFile=", "q.io/x:1", "f.image", "\n",
        "f.build", "\\\n", "%", '"', "#", "docker://", "Rootfs=", "GlobalArgs='", "\0", "/",
        "\x1b", "[Image]\nImage=", "[Container]\nImage=f.image\n", "\nArch=x",
    ])
).map(lambda parts: "".join(parts).encode())  # fmt: skip
TARGETS = st.sampled_from([
    "/u/a.image", "/u/b.container", "../../../../u/a.image", "..", ".", "/", "a.image", "x/../y",
    "../" * 9 + "u/a.image", "/u/a.image/", "/dev/null", "/u/\x1b.image",
])  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    image=CONTENT,
    container=CONTENT,
    drop_in=CONTENT,
    links=st.dictionaries(
        st.sampled_from(["a.image", "b.container", "c.image", "d.container", "e.txt"]), TARGETS
    ),
)
def test_garbage_never_raises(
    source_root: SourceRootBuilder,
    image: bytes,
    container: bytes,
    drop_in: bytes,
    links: dict[str, str],
) -> None:
    root = source_root({"/u/f.image": IMAGE}, links=links)
    (root / "u/a.image").write_bytes(image)
    (root / "u/b.container").write_bytes(container)
    (root / "u/\x1b.image").write_bytes(image)
    (root / "u/image.d").mkdir()
    (root / "u/image.d/1.conf").write_bytes(drop_in)
    discovered = found(root)
    assert len(discovered.images) <= len(links)
    assert discovered.declared == bool(links)
    findings = [finding for image in discovered.images for finding in image.findings]
    for text in (
        *(f"{problem} {problem.hint}" for problem in discovered.problems),
        *(f"{each.message} {each.consequence} {each.location}" for each in findings),
    ):
        assert text.isprintable()
