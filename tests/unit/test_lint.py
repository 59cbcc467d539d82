"""Findings about usable declarations: each code has a unit that earns it and one that does not."""

from dataclasses import dataclass, replace

import pytest

from installer_plugin.declarations.bootc_reader import read_as_bootc
from installer_plugin.declarations.declaration import (
    Declaration,
    Surroundings,
    stored_name,
    well_formed,
)
from installer_plugin.declarations.lint import lint
from installer_plugin.declarations.quadlet import QuadletUnit, expand_percent, setting
from installer_plugin.declarations.quadlet_rules import QuadletRules
from installer_plugin.declarations.unit_syntax import parse_unit
from installer_plugin.model import Finding, Location, Severity, UnitKind

DIGEST = "@sha256:" + "0" * 64
PINNED = f"quay.io/x/y{DIGEST}"
STORE_ARG = "--storage-opt=additionalimagestore=/usr/lib/bootc/storage"
GOOD_IMAGE = f"[Image]\nImage={PINNED}\n"
GOOD_CONTAINER = f"[Container]\nImage={PINNED}\nGlobalArgs={STORE_ARG}\n"

PLAIN = Surroundings(rules=QuadletRules(None))
"""A root with nothing but the links."""


@dataclass(frozen=True)
class Case:
    """A unit with what lies around it."""

    text: str
    drop_in: str = ""
    image_unit: str = ""
    name: str = "u"
    suffix: str = ""

    @property
    def kind(self) -> UnitKind:
        return UnitKind.CONTAINER if "[Container]" in self.text else UnitKind.IMAGE


def loaded(name: str, text: str, drop_in: str = "") -> QuadletUnit:
    own = parse_unit(text, f"units/{name}")
    merged = own.merged([parse_unit(drop_in, f"units/{name}.d/1.conf")])
    return QuadletUnit(name=name, path=own.path, text=text, own=own, merged=merged)


def declaration(case: Case) -> Declaration:
    """The declaration that discovery would hand over for *case*."""
    kind = case.kind
    unit = loaded(f"{case.name}{case.suffix or f'.{kind}'}", case.text, case.drop_in)
    effective = setting(unit.merged, kind, "Image")
    assert effective is not None
    image_unit = loaded("f.image", case.image_unit) if case.image_unit else None
    named = setting(image_unit.merged, UnitKind.IMAGE, "Image") if image_unit else effective
    assert named is not None
    tagged = image_unit or unit
    tag = setting(tagged.merged, UnitKind.IMAGE, "ImageTag")
    return Declaration(
        kind=kind,
        location=Location(link=f"links/{case.name}.{kind}", unit=named.path, line=named.line),
        reference=expand_percent(named.value),
        unit=unit,
        own=setting(unit.own, kind, "Image"),
        effective=effective,
        image_unit=image_unit,
        image_tag=tag.value if tag else None,
        bootc=read_as_bootc(case.text, kind),
        shadow=None,
        leaves_root=False,
    )


def findings(case: Case) -> tuple[Finding, ...]:
    (found,) = lint([declaration(case)], PLAIN)
    return found


def container(image: str, rest: str = "") -> str:
    return f"[Container]\nImage={image}\nGlobalArgs={STORE_ARG}\n{rest}"


CASES: dict[str, tuple[Case, list[str]]] = {
    "good image": (Case(GOOD_IMAGE), []),
    "good container": (Case(GOOD_CONTAINER), []),
    "no tag": (Case("[Image]\nImage=q.io/x"), ["missing-tag", "pruned-by-bootc"]),
    "latest": (Case("[Image]\nImage=q.io/x:latest"), ["floating-tag"]),
    "tag": (Case("[Image]\nImage=q.io/x:1"), ["floating-tag"]),
    "tag and digest": (Case(f"[Image]\nImage=q.io/x:1{DIGEST}"), ["pruned-by-bootc"]),
    "short name": (Case("[Image]\nImage=x:1"), ["floating-tag", "short-name", "pruned-by-bootc"]),
    "no arguments": (
        Case(f"[Container]\nImage={PINNED}\n"), ["no-additional-image-store"],
    ),
    "other store": (
        Case(f"[Container]\nImage={PINNED}\nGlobalArgs=--storage-opt=additionalimagestore=/x\n"),
        ["no-additional-image-store"],
    ),
    "store in two words": (
        Case(f"[Container]\nImage={PINNED}\nGlobalArgs=-v {STORE_ARG.replace('=', ' ', 1)}/\n"), [],
    ),
    "store without its option": (
        Case(f"[Container]\nImage={PINNED}\nGlobalArgs={STORE_ARG.split('=', 1)[1]}\n"),
        ["no-additional-image-store"],
    ),
    "store in quotes": (
        Case(f'[Container]\nImage={PINNED}\nGlobalArgs="{STORE_ARG}"\n'), [],
    ),
    "store after an open quote": (
        Case(f"[Container]\nImage={PINNED}\nGlobalArgs={STORE_ARG} it's\n"), [],
    ),
    "store is reset": (Case(GOOD_CONTAINER + "GlobalArgs=\n"), ["no-additional-image-store"]),
    "store from a drop-in": (
        Case(f"[Container]\nImage={PINNED}\n", f"[Container]\nGlobalArgs={STORE_ARG}\n"), [],
    ),
    "pulls always": (Case(GOOD_CONTAINER + "Pull=always\n"), ["pull-policy"]),
    "pulls newer": (Case(GOOD_CONTAINER + "Pull=newer\n"), ["pull-policy"]),
    "pulls never": (Case(GOOD_CONTAINER + "Pull=never\n"), []),
    "architecture": (Case(GOOD_IMAGE + "Arch=arm64\n"), ["key-without-effect"]),
    "several keys": (Case(GOOD_IMAGE + "OS=linux\nCreds=a:b\n"), ["key-without-effect"] * 2),
    "same key elsewhere": (Case(GOOD_IMAGE + "[X-Image]\nArch=arm64\n"), []),
    "not joined": (
        Case(f"[Image]\nImage={PINNED}\nPodmanArgs=a \\\n  --b\n"),
        ["key-without-effect", "bootc-refuses"],
    ),
    "backslash at the end": (Case(f"[Image]\nImage={PINNED}\\\n"), ["bootc-continuation"]),
    "value over two lines": (
        Case("[Image]\nImage=q.io/x:\\\n# =\n1\n"), ["floating-tag", "bootc-refuses"],
    ),
    "value goes on with =": (
        Case(container("q.io/x\\\n  y=z"), f"[Container]\nImage={PINNED}\n"),
        ["bootc-continuation", "bootc-drop-in"],
    ),
    "quotes": (Case(f'[Image]\nImage="{PINNED}"\n'), ["bootc-quotes"]),
    "comment in the value": (
        Case(container("q.io/x:1#c"), f"[Container]\nImage={PINNED}\n"),
        ["bootc-comment", "bootc-drop-in"],
    ),
    "harmless comment elsewhere": (Case(GOOD_CONTAINER + "Exec=a # b\n"), []),
    "Image in a continuation": (
        Case(f"[Container]\nImage={PINNED}\nGlobalArgs={STORE_ARG} \\\nImage=q.io/y:1\n"),
        ["bootc-other-line"],
    ),
    "percent is read alike": (
        Case(container("q.io/%%x"), f"[Container]\nImage={PINNED}\n"), ["bootc-drop-in"],
    ),
    "specifier replaced by a drop-in": (
        Case(container("q.io/%n"), f"[Container]\nImage={PINNED}\n"),
        ["bootc-refuses", "bootc-drop-in"],
    ),
    "specifier that bootc cuts off": (
        Case(container("q.io/x#%n"), f"[Container]\nImage={PINNED}\n"),
        ["bootc-comment", "bootc-drop-in"],
    ),
    "image from a drop-in": (
        Case("[Image]\n", f"[Image]\nImage={PINNED}\n"), ["bootc-refuses", "bootc-drop-in"],
    ),
    "empty image before a drop-in": (
        Case("[Image]\nImage=\n", f"[Image]\nImage={PINNED}\n"), ["bootc-drop-in"],
    ),
    "drop-in without an image": (Case(GOOD_CONTAINER, "[Container]\nEnvironment=A=b\n"), []),
    "image unit": (Case(container("f.image"), image_unit=GOOD_IMAGE), ["bootc-image-unit"]),
    "image unit with a tag": (
        Case(container("f.image"), image_unit=GOOD_IMAGE + "ImageTag=localhost/f:1\nVariant=v7\n"),
        ["key-without-effect", "bootc-image-unit", "bootc-image-tag"],
    ),
    "image tag": (Case(GOOD_IMAGE + "ImageTag=localhost/f:1\n"), ["bootc-image-tag"]),
    "other extension": (Case(GOOD_IMAGE, suffix=".container"), ["extension-differs"]),
    "unfinished line": (Case(GOOD_IMAGE + "x=y\\\n\n"), ["unfinished-line"]),
    "unfinished line in an image unit": (
        Case(container("f.image"), image_unit=GOOD_IMAGE + "x=y\\\n\n"),
        ["bootc-image-unit", "unfinished-line"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("case", "codes"), CASES.values(), ids=CASES)
def test_findings_of_a_unit(case: Case, codes: list[str]) -> None:
    found = findings(case)
    assert [finding.code for finding in found] == codes
    assert all(finding.message and finding.consequence for finding in found)


def only(case: Case, code: str) -> Finding:
    (found,) = [finding for finding in findings(case) if finding.code == code]
    return found


def test_tag_that_is_meant_to_move_weighs_more() -> None:
    assert only(Case("[Image]\nImage=q.io/x:latest"), "floating-tag").severity is Severity.WARNING
    assert only(Case("[Image]\nImage=q.io/x:1"), "floating-tag").severity is Severity.NOTE


def test_key_that_changes_the_image_weighs_more() -> None:
    arch = only(Case(GOOD_IMAGE + "Arch=arm64\n"), "key-without-effect")
    secret = only(Case(GOOD_IMAGE + "\nCreds=user:hunter2\n"), "key-without-effect")
    assert (arch.severity, secret.severity) == (Severity.WARNING, Severity.NOTE)
    assert (secret.location.unit, secret.location.line) == ("units/u.image", 4)
    assert "hunter2" not in f"{secret}"


def test_finding_about_a_drop_in_points_into_it() -> None:
    found = only(Case("[Image]\n", f"[Image]\n\nImage={PINNED}\n"), "bootc-drop-in")
    assert str(found.location) == "links/u.image -> units/u.image.d/1.conf:3"


@pytest.mark.parametrize(
    ("case", "code", "consequence"),
    [
        (Case(f'[Image]\nImage="{PINNED}"\n'), "bootc-quotes", "the next upgrade and fail"),
        (Case("[Image]\n", GOOD_IMAGE), "bootc-refuses", "`bootc install`"),
        (
            Case("[Image]\nImage=q.io/old:1\n", GOOD_IMAGE),
            "bootc-drop-in",
            "look for 'q.io/old:1', and may remove",
        ),
        (Case("[Image]\nImage=\n", GOOD_IMAGE), "bootc-drop-in", "upgrade and fail"),
    ],
    ids=["quotes", "refused", "drop-in", "drop-in over nothing"],
)
def test_consequence_is_said(case: Case, code: str, consequence: str) -> None:
    assert consequence in only(case, code).consequence


def test_pruned_name_is_told_with_the_stored_one() -> None:
    assert (
        "'q.io/x:latest', not as 'q.io/x'"
        in only(Case("[Image]\nImage=q.io/x"), "pruned-by-bootc").message
    )
    assert "a registry before it" in only(Case("[Image]\nImage=x:1"), "pruned-by-bootc").message


def test_way_to_the_unit_is_looked_at() -> None:
    odd = replace(declaration(Case(GOOD_IMAGE)), shadow="etc/x/u.image", leaves_root=True)
    (found,) = lint([odd], PLAIN)
    assert [finding.code for finding in found] == ["unit-shadowed", "link-leaves-root"]
    assert "etc/x/u.image" in found[0].message


def test_links_to_one_image_name_each_other() -> None:
    same = [declaration(Case(f"[Image]\nImage=q.io/x{tag}", name=tag[1:])) for tag in (":latest",)]
    same.append(declaration(Case("[Image]\nImage=q.io/x", name="none")))
    other = declaration(Case(GOOD_IMAGE))
    first, second, third = (
        [finding.message for finding in found if finding.code == "duplicate-image"]
        for found in lint([*same, other], PLAIN)
    )
    assert first == ["the same image is bound by links/none.image"]
    assert second == ["the same image is bound by links/latest.image"]
    assert third == []


def test_nothing_declared_has_no_findings() -> None:
    assert lint([], PLAIN) == ()


@pytest.mark.parametrize(
    ("text", "good"),
    [("q.io/x", True), ("docker://q.io/x", False), ("", False), (None, False), ("A", False)],
)
def test_well_formed_is_a_plain_reference(text: str | None, *, good: bool) -> None:
    assert well_formed(text) == good


def test_stored_name_is_normalised() -> None:
    assert stored_name("docker.io/x") == "docker.io/library/x:latest"
