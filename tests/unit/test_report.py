"""Results as people and programs read them."""

import json

import pytest

from installer_plugin.errors import PreflightError, Problem
from installer_plugin.image_json import bound_json, proven_json, resolved_json, verified_json
from installer_plugin.model import BoundImage, Finding, Layer, Severity
from installer_plugin.stages.report import (
    NOTHING,
    bound_text,
    document,
    error_json,
    finding_json,
    findings_text,
    locked_text,
    problems_text,
    resolved_text,
    verified_text,
)
from tests.support.values import bound, copied, diff_id, digest, hexa, resolved, verified

WEB = resolved("quay.io/team/web:1")
PINNED = resolved(
    f"quay.io/x@{digest('list')}",
    layers=(
        Layer(diff_id=diff_id("base"), size=3 << 20),
        Layer(diff_id=diff_id("large"), size=1500 << 20),
    ),
    manifests=("list", "one"),
)


def _finding(code: str, severity: Severity, image: BoundImage) -> tuple[str, Finding]:
    finding = Finding(
        code=code,
        severity=severity,
        message="has no tag",
        consequence="podman runs :latest",
        location=image.location,
    )
    return image.reference, finding


def test_declared_images_are_a_table() -> None:
    assert bound_text([bound("quay.io/team/web:1"), bound("localhost/x", line=None)]) == (
        "KIND       DECLARED IN                                   IMAGE\n"
        "container  usr/share/containers/systemd/app.container:2  quay.io/team/web:1\n"
        "container  usr/share/containers/systemd/app.container    localhost/x"
    )


def test_resolved_images_are_summed_up_with_shared_layers_counted_once() -> None:
    text = resolved_text([WEB, PINNED])
    assert text == (
        "IMAGE ID      LAYERS      SIZE  IMAGE\n"
        f"{hexa('quay.io/team/web:1')[:12]}       2  4.00 MiB  quay.io/team/web:1\n"
        f"{PINNED.image_id[:12]}       2  1.47 GiB  quay.io/x@{digest('list')}\n"
        "2 images, 3 layers, 1.47 GiB"
    )


def test_one_image_is_counted_in_the_singular() -> None:
    image = resolved("x:1", layers=(Layer(diff_id=diff_id("a"), size=10),))
    assert resolved_text([image]).endswith("\n1 image, 1 layer, 10 B")


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 bound images"), (1, "1 bound image"), (2, "2 bound images")],
)
def test_locked_images_are_counted(count: int, expected: str) -> None:
    assert locked_text(count, "images.lock") == f"{expected} locked in images.lock"


def test_verified_images_say_what_was_proven() -> None:
    assert verified_text([verified(WEB)], "/target") == (
        "IMAGE ID      LAYERS      SIZE  IMAGE\n"
        f"{WEB.image_id[:12]}       2  4.00 MiB  quay.io/team/web:1\n"
        "1 image verified on /target: store, names, config"
    )


@pytest.mark.parametrize(
    "text",
    [bound_text([]), resolved_text([]), verified_text([], "/t")],
    ids=["bound", "resolved", "verified"],
)
def test_nothing_is_an_outcome_of_its_own(text: str) -> None:
    assert text == NOTHING == "no bound images declared"


@pytest.mark.parametrize(
    "text",
    [
        bound_text([bound("quay.io/team/web:1")]),
        resolved_text([WEB, resolved("localhost/team/a-rather-long-name-of-an-image:1")]),
        verified_text([verified(WEB)], "/target"),
    ],
    ids=["bound", "resolved", "verified"],
)
def test_tables_of_usual_names_fit_80_columns(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 80
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_findings_are_told_with_their_consequence_warnings_first() -> None:
    image = bound("quay.io/x")
    where = (
        "usr/lib/bootc/bound-images.d/app.container -> usr/share/containers/systemd/app.container:2"
    )
    findings = [
        _finding("no-effect", Severity.NOTE, image),
        _finding("no-tag", Severity.WARNING, image),
    ]
    assert findings_text(findings) == (
        f"warning: quay.io/x ({where}): has no tag\n"
        "  consequence: podman runs :latest [no-tag]\n"
        f"note: quay.io/x ({where}): has no tag\n"
        "  consequence: podman runs :latest [no-effect]"
    )


def test_problems_are_told_with_place_and_hint() -> None:
    problems = [
        Problem(subject="x:1", where="unit:2", message="not found", hint="podman pull x:1"),
        Problem(subject="skopeo", message="not found in PATH"),
    ]
    assert problems_text(problems) == (
        "error: x:1 (unit:2): not found\n  hint: podman pull x:1\nerror: skopeo: not found in PATH"
    )


def test_documents_are_json_with_a_schema() -> None:
    images = [bound_json(WEB.bound)], [resolved_json(PINNED)], [verified_json(verified(WEB))]
    text = json.dumps([document("list", "/", images=part) for part in images])
    listed, found, proven = json.loads(text)
    assert listed["schema"] == "bootc-bound-images/list/2"
    assert listed["source"] == "/"
    assert listed["images"][0] == {
        "reference": "quay.io/team/web:1",
        "names": ["quay.io/team/web:1"],
        "declaration": {
            "kind": "container",
            "names": ["quay.io/team/web:1"],
            "bootc_name": None,
            "link": "usr/lib/bootc/bound-images.d/app.container",
            "file": "usr/share/containers/systemd/app.container",
            "line": 2,
        },
    }
    assert found["images"][0]["manifest_digests"] == [digest("list"), digest("one")]
    assert found["images"][0]["size"] == 1503 << 20
    assert found["images"][0]["found_in"] == {
        "kind": "containers-storage",
        "store": "/store",
        "item": PINNED.source.item,
    }
    assert proven["images"][0]["verified"] == ["store", "names", "config"]


def test_copied_image_is_its_proof_and_how_it_came() -> None:
    entry = proven_json(copied(WEB, already_there=True), verified(WEB))
    proof = verified_json(verified(WEB))
    assert entry.keys() >= proof.keys()
    assert all(entry[name] == proof[name] for name in proof if name != "layers")
    assert [layer["diff_id"] for layer in json.loads(json.dumps(entry["layers"]))] == [
        layer.diff_id for layer in WEB.layers
    ]
    assert (entry["engine"], entry["already_there"]) == ("skopeo", True)


def test_finding_in_a_document_names_its_declaration() -> None:
    image = bound("quay.io/x")
    _, finding = _finding("no-tag", Severity.WARNING, image)
    assert finding_json(image.reference, finding) == {
        "reference": "quay.io/x",
        "code": "no-tag",
        "severity": "warning",
        "message": "has no tag",
        "consequence": "podman runs :latest",
        "where": str(image.location),
    }


def test_failure_is_a_document_too() -> None:
    error = PreflightError(Problem(subject="x", message="m", where="w", hint="h"))
    assert json.loads(json.dumps(error_json(error))) == {
        "schema": "bootc-bound-images/error/1",
        "exit_code": 4,
        "problems": [{"subject": "x", "where": "w", "message": "m", "hint": "h"}],
    }
