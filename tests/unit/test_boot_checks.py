"""What podman will do with a bound image at boot: each finding by small roots that have it or not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from installer_plugin.declarations.store_access import BOOTC_STORE
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import Finding, Severity
from installer_plugin.stages.discover import discover
from tests.support.sources import LINKS, UNITS, SourceRootBuilder

PINNED = "q.io/x:1@sha256:" + "0" * 64
OTHER = "q.io/other:1@sha256:" + "1" * 64
STORE = f"GlobalArgs=--storage-opt=additionalimagestore={BOOTC_STORE}\n"
IMAGE = f"[Image]\nImage={PINNED}\n"
BOUND = f"[Container]\nImage={PINNED}\n{STORE}"
USES = f"[Container]\nImage={PINNED}\n"
CURED = f"{IMAGE}Policy=missing\n{STORE}"
ETC = "/etc/containers/systemd"
BOOT_CODES = {
    "auto-update", "ignored-line", "image-service-pulls", "no-additional-image-store",
    "podman-versions-differ", "pull-policy", "quadlet-refuses-key", "unit-directory-dropped",
    "unlinked-without-store", "user-unit",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Units, those in `bound` with a link, and the boot findings that they lead to."""

    units: Mapping[str, str]
    codes: list[str]
    bound: tuple[str, ...] = ("u",)
    """Stems of the units that are linked."""
    podman: str = "5.8.6"
    links: Mapping[str, str] = field(default_factory=dict)
    """Links in the unit directory, each with its text."""


def image(text: str, *codes: str, podman: str = "5.8.6") -> Case:
    return Case({"u.image": text}, [*codes], podman=podman)


def container(text: str, *codes: str, podman: str = "5.8.6") -> Case:
    return Case({"u.container": BOUND + text}, [*codes], podman=podman)


def unlinked(units: Mapping[str, str], *codes: str, podman: str = "5.8.6") -> Case:
    return Case({"u.container": BOUND, **units}, [*codes], podman=podman)


def malformed(units: Mapping[str, str], *codes: str, podman: str = "5.8.6") -> Case:
    return Case({"u.container": BOUND, **units}, [*codes], podman=podman)


PULLS, UNLINKED = "image-service-pulls", "unlinked-without-store"
REFUSES, DROPPED = "quadlet-refuses-key", "unit-directory-dropped"
CASES: dict[str, Case] = {
    "image service": image(IMAGE, PULLS),
    "image service, policy alone": image(f"{IMAGE}Policy=missing\n", PULLS),
    "image service, store alone": image(IMAGE + STORE, PULLS),
    "image service, policy and store": image(CURED),
    "image service, never pulls": image(f"{IMAGE}Policy=never\n{STORE}"),
    "image service, capitals": image(f"{IMAGE}Policy=Missing\n{STORE}"),
    "image service, always pulls": image(f"{IMAGE}Policy=always\n{STORE}", PULLS),
    "image service, newer": image(f"{IMAGE}Policy=newer\n{STORE}", "pull-policy"),
    "image service, policy as an argument": image(f"{IMAGE}PodmanArgs=--policy=missing\n{STORE}"),
    "image service, policy in two words": image(f"{IMAGE}PodmanArgs=--policy never\n{STORE}"),
    "image service, argument behind the key": image(
        f"{CURED}PodmanArgs=--policy=always\n", PULLS
    ),
    "image service, store as an argument": image(
        f"{IMAGE}Policy=missing\nPodmanArgs=--storage-opt=imagestore={BOOTC_STORE}\n"
    ),
    "image service, all tags": image(f"{CURED}AllTags=true\n", PULLS),
    "image service, not all tags": image(f"{CURED}AllTags=false\n"),
    "image service, older podman": image(IMAGE + STORE, PULLS, podman="5.4.2"),
    "image service, key that the podman lacks": image(CURED, PULLS, REFUSES, podman="5.4.2"),
    "image service, argument that the podman lacks": image(
        f"{IMAGE}PodmanArgs=--policy=missing\n{STORE}", PULLS, podman="4.9.4"
    ),
    "image outside Quadlet's directories": Case({"/opt/u.image": IMAGE}, []),
    "image of a container": Case(
        {"u.container": f"[Container]\nImage=f.image\n{STORE}", "f.image": IMAGE}, [PULLS]
    ),
    "image of a container, cured": Case(
        {"u.container": f"[Container]\nImage=f.image\n{STORE}", "f.image": CURED}, []
    ),
    "another image unit of the same image": unlinked({"f.image": IMAGE}, PULLS),
    "another image unit of another image": unlinked({"f.image": f"[Image]\nImage={OTHER}\n"}),
    "container that is not linked": unlinked({"v.container": USES}, UNLINKED),
    "container that is not linked, below": unlinked({"s/v.container": USES}, UNLINKED),
    "container that is not linked, by an image unit": Case(
        {"u.image": CURED, "v.container": "[Container]\nImage=u.image\n"}, [UNLINKED]
    ),
    "container that is not linked, by a tag": Case(
        {
            "u.image": f"{CURED}ImageTag=localhost/x:1\n",
            "v.container": "[Container]\nImage=localhost/x:1\n",
        },
        [UNLINKED],
    ),
    "container that is not linked, with the store": unlinked({"v.container": BOUND}),
    "container that is not linked, of another image": unlinked(
        {"v.container": f"[Container]\nImage={OTHER}\n"}
    ),
    "container that is not linked, by a drop-in": unlinked(
        {"v.container": f"[Container]\nImage={OTHER}\n", "v.container.d/1.conf": USES}, UNLINKED
    ),
    "container that is not linked, of users": unlinked({f"{ETC}/users/v.container": USES}),
    "container that is not linked, with a specifier": unlinked(
        {"v.container": "[Container]\nImage=q.io/%n\n"}
    ),
    "container that mounts the image": unlinked(
        {"v.container": f"[Container]\nImage={OTHER}\nMount=type=image,source={PINNED},dst=/x\n"},
        UNLINKED,
    ),
    "container that mounts a directory": unlinked(
        {"v.container": f"[Container]\nImage={OTHER}\nMount=type=bind,source={PINNED},dst=/x\n"}
    ),
    "volume of the image": unlinked(
        {"v.volume": f"[Volume]\nDriver=image\nImage={PINNED}\n"}, UNLINKED
    ),
    "volume of the image, with the store": unlinked(
        {"v.volume": f"[Volume]\nDriver=image\nImage={PINNED}\n{STORE}"}
    ),
    "volume without the driver": unlinked({"v.volume": f"[Volume]\nImage={PINNED}\n"}),
    "updates itself": container("AutoUpdate=registry\n", "auto-update"),
    "updates itself from the store": container("AutoUpdate=local\n"),
    "updates itself no more": container("AutoUpdate=registry\nAutoUpdate=local\n"),
    "updates itself by a label": container(
        "Label=io.containers.autoupdate=registry\n", "auto-update"
    ),
    "updates itself by the older word": container(
        'Label=a=b "io.containers.autoupdate=image"\n', "auto-update"
    ),
    "updates itself by an argument": container(
        "PodmanArgs=--label io.containers.autoupdate=registry\n", "auto-update"
    ),
    "updates itself, not linked": unlinked(
        {"v.container": f"{BOUND}AutoUpdate=registry\n"}, "auto-update"
    ),
    "pulls always": container("Pull=always\n", "pull-policy"),
    "pulls always by an argument": container("PodmanArgs=--pull=always\n", "pull-policy"),
    "pulls never behind a key": container("Pull=always\nPodmanArgs=--pull never\n"),
    "lines that do not count": image(
        f"[Image]\nImage={OTHER}\nImage={PINNED}\nPolicy=missing\n{STORE}", "ignored-line"
    ),
    "lines that do not count in a container": container(f"Image={PINNED}\n", "ignored-line"),
    "tags that do not count": image(
        f"{CURED}ImageTag=localhost/x:1\nImageTag=localhost/x:2\n", "ignored-line"
    ),
    "line before a reset": image(
        f"[Image]\nImage={OTHER}\nImage=\nImage={PINNED}\nPolicy=missing\n{STORE}", "ignored-line"
    ),
    "empty line before": image(f"[Image]\nImage=\nImage={PINNED}\nPolicy=missing\n{STORE}"),
    "line in another section": image(f"[X-Image]\nImage={OTHER}\n{CURED}"),
    "line that a drop-in replaces": Case(
        {"u.container": BOUND, "u.container.d/1.conf": f"[Container]\nImage={OTHER}\n"}, []
    ),
    "lines in a drop-in": Case(
        {
            "u.container": BOUND,
            "u.container.d/1.conf": f"[Container]\nImage={PINNED}\nImage={OTHER}\n",
        },
        ["ignored-line"],
    ),
    "unit of users": Case({f"{ETC}/users/u.container": BOUND}, ["user-unit"]),
    "unit of one user": Case({f"{ETC}/users/1000/u.container": BOUND}, ["user-unit"]),
    "unit beside those of users": Case({f"{ETC}/users-x/u.container": BOUND}, ["user-unit"]),
    "unit of users in the wrong place": Case({"users/u.container": BOUND}, ["user-unit"]),
    "unknown key": container("Bogus=1\n", REFUSES),
    "key in lower case": container("image=q.io/y\n", REFUSES),
    "key of a newer podman": container("AppArmor=x\n", REFUSES, podman="5.7.1"),
    "key of this podman": container("AppArmor=x\n"),
    "unknown key for a podman that is newer than all": container("Bogus=1\n", podman="6.1.0"),
    "unknown key of another section": container("[X-Container]\nBogus=1\n"),
    "unknown key in a drop-in": Case(
        {"u.container": BOUND, "container.d/1.conf": "[Container]\nBogus=1\n"}, [REFUSES]
    ),
    "malformed neighbour": malformed({"v.container": "junk"}, DROPPED),
    "malformed neighbour of another type": malformed({"v.kube": "[Kube\n"}, DROPPED),
    "malformed neighbour, older podman": malformed({"v.kube": "[Kube\n"}, podman="4.9.5"),
    "malformed neighbour of a type that the podman lacks": malformed(
        {"v.artifact": "junk"}, podman="5.6.0"
    ),
    "malformed unit elsewhere": malformed({"s/v.container": "junk", f"{ETC}/v.kube": "junk"}),
    "malformed file that is not a unit": malformed({"v.txt": "junk", "v.container.d/README": "junk"}),
    "malformed neighbour that is shadowed": malformed(
        {"v.kube": "junk", f"{ETC}/v.kube": "[Kube]\nYaml=x\n"}
    ),
    "directory with a unit's name": malformed({"v.container/x": ""}, DROPPED),
    "malformed neighbour of the image unit": Case(
        {
            "u.container": f"[Container]\nImage=f.image\n{STORE}",
            "s/f.image": CURED,
            "s/v.pod": "junk",
        },
        [DROPPED],
    ),
    "neighbour that is a link to nowhere": Case(
        {"u.container": BOUND}, [DROPPED], links={"v.container": "nowhere"}
    ),
    "neighbour that is masked": Case(
        {"u.container": BOUND}, [], links={"v.container": "/dev/null"}
    ),
    "neighbour that is not UTF-8": malformed({"v.container": "[Container]\nExec=\udcff\n"}),
}  # fmt: skip


def build(source_root: SourceRootBuilder, case: Case) -> Path:
    links = {
        Path(name).name: name if name.startswith("/") else f"/{UNITS / name}"
        for name in case.units
        if Path(name).stem in case.bound and name.endswith((".image", ".container"))
    }
    texts = {name: text for name, text in case.units.items() if text.isascii()}
    root = source_root(texts, links=links)
    for name in case.units.keys() - texts.keys():
        (root / UNITS / name).write_bytes(case.units[name].encode(errors="surrogateescape"))
    for name, text in case.links.items():
        (root / UNITS / name).symlink_to(text)
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(f"Package: podman\nStatus: install ok installed\nVersion: {case.podman}-1\n")
    return root


def findings(root: Path) -> list[Finding]:
    with Rootfs.open(root) as opened:
        discovered = discover(opened)
    assert discovered.problems == ()
    return [f for image in discovered.images for f in image.findings if f.code in BOOT_CODES]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_findings_about_the_boot(source_root: SourceRootBuilder, case: Case) -> None:
    found = findings(build(source_root, case))
    assert sorted(finding.code for finding in found) == sorted(case.codes)
    assert all(finding.severity is Severity.WARNING for finding in found)


def only(source_root: SourceRootBuilder, case: Case, code: str) -> Finding:
    (found,) = [each for each in findings(build(source_root, case)) if each.code == code]
    return found


def test_image_service_is_named_with_what_starts_it(source_root: SourceRootBuilder) -> None:
    units = {
        "u.image": IMAGE + "[Install]\nWantedBy=multi-user.target\n",
        "v.container": f"[Container]\nImage=u.image\n{STORE}",
    }
    found = only(source_root, Case(units, []), PULLS)
    assert "u-image.service" in found.message
    assert "v.container, multi-user.target" in found.consequence
    assert found.location.unit == f"{UNITS}/u.image"
    assert found.location.line == 2


def test_cure_is_one_that_the_podman_has(source_root: SourceRootBuilder) -> None:
    newer = only(source_root, image(IMAGE), PULLS).consequence
    older = only(source_root, image(IMAGE, podman="5.4.2"), PULLS).consequence
    assert "Policy=missing and GlobalArgs=--storage-opt=additionalimagestore=" in newer
    assert "podman 5.4.2 has no Policy=" in older
    assert "outside Quadlet's directories" in newer
    assert "outside Quadlet's directories" in older


def test_service_goes_by_the_name_that_the_unit_gives_it(source_root: SourceRootBuilder) -> None:
    found = only(source_root, image(f"{IMAGE}ServiceName=fetch\n"), PULLS)
    assert "Quadlet makes fetch.service of u.image" in found.message


def test_unit_that_nobody_binds_is_named_once(source_root: SourceRootBuilder) -> None:
    units = {"u.container": BOUND, "w.container": BOUND, "v.container": USES}
    case = Case(units, [], bound=("u", "w"))
    found = only(source_root, case, UNLINKED)
    assert "v.container uses the image" in found.message
    assert "v.service" in found.consequence
    assert str(found.location) == f"{LINKS}/u.container -> {UNITS}/v.container:2"


def test_lines_that_do_not_count_are_numbered(source_root: SourceRootBuilder) -> None:
    text = f"[Image]\nImage={OTHER}\n\nImage={OTHER}\nImage={PINNED}\n"
    found = only(source_root, image(text), "ignored-line")
    assert found.message == "Image= is set 3 times: line 5 counts, lines 2, 4 not"
    assert found.location.line == 2


def test_malformed_neighbour_is_shown_with_its_line(source_root: SourceRootBuilder) -> None:
    found = only(source_root, malformed({"v.pod": "[Pod]\njunk\n"}), DROPPED)
    assert (found.location.unit, found.location.line) == (f"{UNITS}/v.pod", 2)
    assert "no u.service at boot" in found.consequence


def test_key_that_an_older_podman_lacks_is_noted_where_the_image_does_not_say(
    source_root: SourceRootBuilder,
) -> None:
    root = build(source_root, image(CURED))
    (root / "var/lib/dpkg/status").unlink()
    (found,) = findings(root)
    assert (found.code, found.severity) == (REFUSES, Severity.NOTE)
    assert "podman before 5.6 does not know it" in found.consequence


def test_key_of_the_unit_is_shown_without_its_value(source_root: SourceRootBuilder) -> None:
    found = only(source_root, container("Secrets=hunter2\n"), REFUSES)
    assert found.message == "Secrets= is set in [Container]"
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        ({"/etc/containers/storage.conf": "[storage]\n"}, "etc/containers/storage.conf"),
        (
            {
                "/etc/containers/storage.conf.d/1.conf":
                    f'[storage.options]\nadditionalimagestores = ["{BOOTC_STORE}"]\n'
            },
            "is ignored by this podman",
        ),
        (
            {
                "/etc/containers/containers.conf":
                    f'[engine]\nenv = ["STORAGE_OPTS=additionalimagestore={BOOTC_STORE}"]\n'
            },
            "podman takes no store from there",
        ),
        ({"/etc/containers/storage.conf": "junk"}, "is not the TOML"),
        ({"/etc/containers/storage.conf": "storage = 1"}, "is not the TOML"),
        ({"/etc/containers/storage.conf/x": ""}, "is a directory"),
    ],
    ids=["main file", "drop-in", "containers.conf", "malformed", "no table", "directory"],
)  # fmt: skip
def test_configuration_that_does_not_help_is_named(
    source_root: SourceRootBuilder, files: Mapping[str, str], seen: str
) -> None:
    case = Case({"u.container": USES, **files}, [])
    assert seen in only(source_root, case, "no-additional-image-store").message
