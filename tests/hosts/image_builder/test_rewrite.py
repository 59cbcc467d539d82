"""Manifests rewritten: what is added, and that nothing else is."""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace

import pytest

from installer_plugin.errors import ConfigError
from installer_plugin.hosts.image_builder.manifest import SIZE_LIMIT, Manifest, read_manifest
from installer_plugin.hosts.image_builder.mode import exports_of
from installer_plugin.hosts.image_builder.rewrite import (
    InlineProgram,
    Mode,
    Payload,
    Plan,
    Wanted,
    difference,
    rewrite,
)
from installer_plugin.model import ImageId, ManifestDigest
from tests.hosts.image_builder.shapes import (
    DEPLOY,
    INSTALL,
    MANIFESTS,
    SHAPES,
    Json,
    broken_rules,
    content,
    made,
    pipeline,
    stage,
    types,
)

OWN = "org.bootc-bound-images.install"
SKOPEO = "org.osbuild.skopeo"
DECLARATIONS = "/usr/lib/bootc/bound-images.d"
OS = "516d081b427e805e4fbb58dba3e00f60ef05cd9166b3c514a5ea7b33f3e54a5d"


def wanted(reference: str, character: str = "a") -> Wanted:
    return Wanted(
        reference=reference,
        id=ImageId(character * 64),
        digest=ManifestDigest("sha256:" + character * 64),
    )


APP, WEB = wanted("localhost/app:1", "a"), wanted("registry.example/web", "b")
ALIAS = wanted("localhost/alias:1", "a")


def plan(*images: Wanted, mode: Mode = Mode.STAGE, program: InlineProgram | None = None) -> Plan:
    payloads = {ImageId(OS): Payload(images=images, created=5)}
    return Plan(payloads=payloads, mode=mode, program=program, program_version="0.1.0")


def read(manifest: Json, indent: int | None = 4) -> Manifest:
    return read_manifest(content(manifest, indent), "m.json")


def rewritten(manifest: Json, how: Plan, indent: int | None = 4) -> Json:
    value = json.loads(rewrite(read(manifest, indent), how))
    assert isinstance(value, dict)
    assert list(broken_rules(value)) == []
    return value


def without_ours(manifest: Json) -> Json:
    """A rewritten manifest with all that was added taken out."""
    manifest = deepcopy(manifest)
    for place in manifest["pipelines"]:
        place["stages"] = [each for each in place.get("stages", []) if each["type"] != OWN]
        for each in place["stages"]:
            if each["type"] == DEPLOY and DECLARATIONS in each["options"].get("exclude", ()):
                del each["options"]["exclude"]
    for items in (source["items"] for source in manifest["sources"].values()):
        for image in (APP, WEB):
            items.pop(f"sha256:{image.id}", None)
    manifest["sources"] = {
        key: value for key, value in manifest["sources"].items() if value["items"]
    }
    return manifest


@pytest.mark.parametrize("indent", [4, 1, None])
@pytest.mark.parametrize("name", SHAPES)
def test_a_stage_follows_bootcs_own_and_the_build_root_declares_nothing(
    name: str, indent: int | None
) -> None:
    before = SHAPES[name]
    after = rewritten(before, plan(APP, WEB), indent)
    places = [
        each["name"] for each in before["pipelines"] if INSTALL in types(before, each["name"])
    ]
    assert places
    for place in places:
        at = types(after, place).index(INSTALL)
        assert types(after, place)[at + 1] == OWN
        install, own = pipeline(after, place)["stages"][at : at + 2]
        assert own["devices"] == install["devices"]
        assert own["mounts"] == [mount for mount in install["mounts"] if mount["target"] == "/"]
        assert own["inputs"]["images"]["references"] == {
            f"sha256:{APP.id}": {"name": APP.reference},
            f"sha256:{WEB.id}": {"name": WEB.reference},
        }
    for place in places:
        build = pipeline(after, place)["build"].removeprefix("name:")
        assert stage(after, DEPLOY, build)["options"]["exclude"] == [DECLARATIONS]
    assert without_ours(after) == before


def test_what_the_stage_is_asked_for_is_what_was_found() -> None:
    own = stage(rewritten(made("raw"), plan(APP)), OWN)
    assert own["options"] == {
        "source": {"reference": "localhost/ob-real:2", "id": f"sha256:{OS}"},
        "images": [{"reference": APP.reference, "id": f"sha256:{APP.id}", "digest": APP.digest}],
        "created": 5,
        "program": "0.1.0",
    }


def test_content_is_left_to_who_reads_the_finished_disk_where_somebody_does() -> None:
    how = replace(plan(APP), content_later=True)
    assert stage(rewritten(made("raw"), how), OWN)["options"]["content"] == "later"


@pytest.mark.parametrize(
    ("names", "later"),
    [
        (["image"], True),
        (["qcow2"], True),
        (["image", "qcow2", "vmdk", "vpc"], True),
        (["gce"], False),
        (["qcow2", "archive"], False),
        (["ovf"], False),
        (["nothing-of-the-kind"], False),
        (["build"], False),
        ([], False),
    ],
)
def test_only_what_is_known_to_be_a_disk_counts_as_read_afterwards(
    names: list[str], *, later: bool
) -> None:
    assert exports_of(read(made("raw")), names).all_disks is later


@pytest.mark.parametrize("name", ["raw", "raw-build-ref"])
def test_untouched_bytes_stay_as_image_builder_wrote_them(name: str) -> None:
    before = (MANIFESTS / f"{name}.json").read_bytes()
    manifest = read_manifest(before, name)
    lines = difference(manifest, rewrite(manifest, plan(APP))).splitlines()
    taken = [line[1:].strip() for line in lines if line.startswith("-") and line[1:2] != "-"]
    # Each of them gets a comma.
    assert min(taken) == '"remove-signatures": true'
    assert len(taken) == 2
    added = [line[1:].strip() for line in lines if line.startswith("+")]
    assert {f"{line}," for line in taken} <= set(added)


def test_what_changes_in_a_manifest_of_one_line_is_shown_in_many() -> None:
    manifest = read(made("raw"), None)
    lines = difference(manifest, rewrite(manifest, plan(APP))).splitlines()
    assert lines[:2] == ["--- m.json (laid out)", "+++ m.json (laid out) (rewritten)"]
    assert [line for line in lines if len(line) > 120] == []
    assert f'+                    "type": "{OWN}",' in lines
    assert difference(manifest, rewrite(manifest, plan())) == ""


def test_only_the_containers_that_bootc_runs_in_lose_their_declarations() -> None:
    after = rewritten(made("raw-build-ref"), plan(APP))
    assert "exclude" not in stage(after, DEPLOY, "target")["options"]
    assert stage(after, DEPLOY, "build")["options"]["exclude"] == [DECLARATIONS]


def test_other_exclusions_are_kept() -> None:
    manifest = made("raw")
    stage(manifest, DEPLOY, "build")["options"]["exclude"] = ["/opt"]
    after = rewritten(manifest, plan(APP))
    assert stage(after, DEPLOY, "build")["options"]["exclude"] == ["/opt", DECLARATIONS]


def test_a_deploy_stage_without_options_gets_some() -> None:
    manifest = made("raw")
    del stage(manifest, DEPLOY, "build")["options"]
    after = rewritten(manifest, plan(APP))
    assert stage(after, DEPLOY, "build")["options"] == {"exclude": [DECLARATIONS]}


def test_an_image_that_declares_none_changes_nothing() -> None:
    manifest = read(made("raw"))
    assert rewrite(manifest, plan()) == manifest.text
    assert difference(manifest, rewrite(manifest, plan())) == ""


def test_declarations_of_another_build_container_are_not_taken_for_the_images_own() -> None:
    after = rewritten(made("raw-build-ref"), plan())
    assert OWN not in types(after)
    assert stage(after, DEPLOY, "build")["options"]["exclude"] == [DECLARATIONS]


def test_osbuilds_own_stage_takes_the_place_of_ours() -> None:
    after = rewritten(made("raw"), plan(APP, WEB, mode=Mode.STOCK))
    at = types(after).index(INSTALL)
    assert types(after)[at + 1] == SKOPEO
    own = stage(after, SKOPEO)
    assert own["options"]["destination"]["storage-path"] == "/ostree/bootc/storage"
    assert [mount["type"] for mount in own["mounts"]] == ["org.osbuild.ext4", "org.osbuild.bind"]


def test_its_store_is_composefs_own_for_that_backend() -> None:
    after = rewritten(SHAPES["composefs"], plan(APP, mode=Mode.STOCK))
    path = stage(after, SKOPEO)["options"]["destination"]["storage-path"]
    assert path == "/composefs/bootc/storage"


def test_an_image_of_two_names_is_copied_under_both() -> None:
    after = rewritten(made("raw"), plan(APP, WEB, ALIAS, mode=Mode.STOCK))
    names = [
        {value["name"] for value in each["inputs"]["images"]["references"].values()}
        for each in pipeline(after, "image")["stages"]
        if each["type"] == SKOPEO
    ]
    assert names == [{APP.reference, WEB.reference}, {ALIAS.reference}]


def test_copying_afterwards_only_keeps_bootc_from_it() -> None:
    after = rewritten(made("raw"), plan(APP, mode=Mode.AFTER))
    assert types(after) == types(made("raw"))
    assert stage(after, DEPLOY, "build")["options"]["exclude"] == [DECLARATIONS]
    assert after["sources"] == made("raw")["sources"]


def test_the_program_can_ride_in_the_manifest() -> None:
    program = InlineProgram(checksum="sha256:" + "c" * 64, encoding="lzma+base64", data="eA==")
    after = rewritten(made("raw"), plan(APP, program=program))
    assert stage(after, OWN)["inputs"]["program"]["references"] == [{"id": program.checksum}]
    item = {"encoding": "lzma+base64", "data": "eA=="}
    assert after["sources"]["org.osbuild.inline"]["items"] == {program.checksum: item}


@pytest.mark.parametrize("sources", [None, {}, {"org.osbuild.containers-storage": {"items": {}}}])
def test_sources_are_added_wherever_they_are_missing(sources: Json | None) -> None:
    manifest = made("raw")
    del manifest["sources"]
    if sources is not None:
        manifest["sources"] = sources
    program = InlineProgram(checksum="sha256:" + "c" * 64, encoding="base64", data="")
    after = json.loads(rewrite(read(manifest), plan(APP, WEB, program=program)))
    assert set(after["sources"]["org.osbuild.containers-storage"]["items"]) == {
        f"sha256:{APP.id}", f"sha256:{WEB.id}",
    }  # fmt: skip
    assert set(after["sources"]["org.osbuild.inline"]["items"]) == {program.checksum}


def test_rewriting_twice_is_refused() -> None:
    for mode in Mode:
        after = rewrite(read(made("raw")), plan(APP, mode=mode))
        with pytest.raises(ConfigError, match="was rewritten already"):
            read_manifest(after.encode(), "m.json")


Change = Callable[[Json], object]


def _install(manifest: Json) -> Json:
    return stage(manifest, INSTALL)


def _second_image(manifest: Json) -> None:
    references = _install(manifest)["inputs"]["images"]["references"]
    references["sha256:" + "0" * 64] = {"name": "localhost/two:1"}


def _named(manifest: Json, name: str) -> None:
    pipeline(manifest, "qcow2")["name"] = name


def _copies_already(manifest: Json) -> None:
    destination = {"type": "containers-storage", "storage-path": "/ostree/bootc/storage/"}
    own = {"type": SKOPEO, "options": {"destination": destination}}
    pipeline(manifest, "image")["stages"].append(own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version="1"), 'has no "version": "2"'),
        (lambda m: m.pop("pipelines"), "has no array 'pipelines'"),
        (lambda m: m.update(pipelines=[3]), r"pipelines\[0\] is not a pipeline"),
        (lambda m: _named(m, "build"), "has two pipelines 'build'"),
        (lambda m: pipeline(m, "image").update(build="name:none"), "its build is 'name:none'"),
        (lambda m: pipeline(m, "image").pop("build"), "its build is None"),
        (lambda m: pipeline(m, "build")["stages"].pop(0), "has no stage org.osbuild.container-dep"),
        (lambda m: _install(m).pop("inputs"), "its input 'images' is not of type"),
        (_second_image, "its input has 2 images, expected one"),
        (lambda m: _install(m).update(mounts=[]), "0 of its 0 mounts have the target '/'"),
        (lambda m: _install(m).pop("devices"), "names none of the stage's devices"),
        (lambda m: _install(m)["mounts"].append(dict(_install(m)["mounts"][0])), "2 of its 4 mounts"),
        (_copies_already, "a stage org.osbuild.skopeo copies images to /ostree/bootc/storage already"),
        (lambda m: _install(m).pop("type"), "stage 5 has no type"),
    ],
)  # fmt: skip
def test_a_shape_that_is_not_known_is_told_with_what_was_looked_for(
    change: Change, message: str
) -> None:
    manifest = made("raw")
    change(manifest)
    with pytest.raises(ConfigError, match=message) as caught:
        read(manifest)
    assert all(problem.hint for problem in caught.value.problems)
    assert all(problem.subject == "m.json" for problem in caught.value.problems)


@pytest.mark.parametrize("name", ["bootc-installer", "bootc-generic-iso"])
def test_what_makes_no_disk_is_told_so(name: str) -> None:
    with pytest.raises(ConfigError, match=f"has no stage {INSTALL}: it makes no disk"):
        rewrite(read(made(name)), plan(APP))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON"),
        (b"osbuild", "is not JSON"),
        (b'{"version": "2"', r"is not JSON \(a comma or '}' is missing: line 1 column 16"),
        (b"\xff{}", "is not JSON"),
        (b"[]", 'has no "version"'),
        (b" " * (SIZE_LIMIT + 1), "has more than 33554432 bytes"),
    ],
)
def test_what_is_no_manifest_is_one_clear_error(text: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_manifest(text, "<stdin>")


@pytest.mark.parametrize(
    "references",
    [
        {f"sha256:{OS}": {"name": "localhost/ob-real:2"}},
        [{"id": f"sha256:{OS}", "options": {"name": "localhost/ob-real:2"}}],
        [f"sha256:{OS}"],
    ],
)
def test_references_are_read_in_every_form_that_osbuild_takes(references: object) -> None:
    manifest = made("raw")
    _install(manifest)["inputs"]["images"]["references"] = references
    (image,) = read(manifest).images
    assert image.id == OS
    assert image.name in ("localhost/ob-real:2", f"sha256:{OS}")


def test_the_rules_that_outputs_are_held_to_find_something() -> None:
    broken: Mapping[str, Change] = {
        "stage: key extra": lambda m: _install(m).update(extra=1),
        f"{INSTALL}: no device disk": lambda m: _install(m).update(devices={}),
        f"{INSTALL}: two mounts of one name": lambda m: _install(m)["mounts"][1].update(name="-"),
        f"org.osbuild.containers-storage: sha256:{OS} is in no source": (
            lambda m: m.update(sources={})
        ),
    }
    for rule, change in broken.items():
        manifest = made("raw")
        change(manifest)
        assert rule in list(broken_rules(manifest))
