"""What `verify` demands of a target with deployments: what they declare, whatever the receipt lists."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.commands import run, unshared
from tests.support.images import ImageSources
from tests.support.product import Lab, document

pytestmark = pytest.mark.real

RECEIPT = "ostree/bootc/bound-images.json"
# As bootc removes an image (crates/lib/src/podstorage.rs, prune_except_roots): its store by the path
# that podman's database may know.
_REMOVE = (
    "mkdir -p /run/bootc/storage\n"
    'mount --bind "$STORE" /run/bootc/storage\n'
    "mount -t tmpfs tmpfs /mnt\n"
    'exec podman --root /run/bootc/storage --runroot /mnt image rm "$@"\n'
)


def deploy(lab: Lab, number: int, *references: str) -> None:
    """A deployment that declares the references."""
    deployment = lab.target / f"ostree/deploy/default/deploy/{number:04x}.0"
    shutil.copytree(lab.root(*references), deployment, symlinks=True)


def collect(lab: Lab, *names: str) -> None:
    """Remove images as bootc's garbage collection does."""
    argv = unshared(("true", *names), prelude="shift\n" + _REMOVE)
    run(argv, env={**lab.source.env, "STORE": str(lab.store)})


def verify(lab: Lab, *own: str | Path, ok: int = 0) -> subprocess.CompletedProcess[str]:
    return lab.run("verify", *own, lab.target, ok=ok)


def proven(lab: Lab, *own: str | Path) -> Sequence[str]:
    return sorted(
        image["reference"] for image in document(verify(lab, *own, "--format=json"))["images"]
    )


@pytest.fixture
def names(image_sources: ImageSources, lab: Lab) -> tuple[str, str]:
    """Two images that were installed, with a receipt that lists both."""
    first, second = image_sources.app_b.name, image_sources.web.name
    lab.run("copy", "--quiet", lab.root(first, second), lab.target)
    return first, second


def test_image_that_bootc_has_removed_since_is_named_and_not_demanded(
    lab: Lab, names: tuple[str, str]
) -> None:
    kept, gone = names
    deploy(lab, 1, kept)
    collect(lab, gone)
    assert proven(lab) == [kept]
    said = verify(lab).stderr.splitlines()
    assert (
        f"verify: 1 image of the receipt not expected, since no deployment declares it: {gone}"
        in said
    )


def test_image_that_a_deployment_declares_is_demanded_also_where_the_receipt_is_silent(
    lab: Lab, names: tuple[str, str]
) -> None:
    deploy(lab, 1, names[0])
    deploy(lab, 2, names[0], "localhost/never-copied:1")
    (problem,) = document(verify(lab, "--format=json", ok=6))["problems"]
    assert problem["subject"] == "localhost/never-copied:1"
    assert "no image has the name" in problem["message"]


def test_image_of_an_older_deployment_is_demanded(lab: Lab, names: tuple[str, str]) -> None:
    deploy(lab, 1, names[1])
    deploy(lab, 2, names[0])
    assert proven(lab) == sorted(names)
    collect(lab, names[1])
    assert f"no image has the name '{names[1]}'" in verify(lab, ok=6).stderr


def test_receipt_says_which_image_a_declared_name_has_to_be(
    lab: Lab, names: tuple[str, str]
) -> None:
    deploy(lab, 1, names[0])
    receipt = lab.target / RECEIPT
    content = json.loads(receipt.read_text())
    for image in content["images"]:
        image["image_id"] = "0" * 64
    receipt.write_text(json.dumps(content))
    (problem,) = document(verify(lab, "--format=json", ok=6))["problems"]
    assert problem["subject"] == names[0]
    assert f"expected {'0' * 64}" in problem["message"]


def test_receipt_that_is_named_demands_all_it_lists(lab: Lab, names: tuple[str, str]) -> None:
    deploy(lab, 1, names[0])
    assert proven(lab, "--receipt", lab.target / RECEIPT) == sorted(names)
    collect(lab, names[1])
    said = verify(lab, "--receipt", lab.target / RECEIPT, ok=6).stderr
    assert f"no image has the name '{names[1]}'" in said


def test_source_that_is_named_demands_what_it_declares(lab: Lab, names: tuple[str, str]) -> None:
    deploy(lab, 1, names[0])
    assert proven(lab, "--source", lab.root(names[1])) == sorted(names)


def test_deployments_without_bound_images_are_an_outcome_of_their_own(
    lab: Lab, names: tuple[str, str]
) -> None:
    deploy(lab, 1)
    collect(lab, *names)
    done = verify(lab)
    assert "no bound images declared" in done.stdout
    assert "not expected, since no deployment declares them: " in done.stderr


def test_without_a_deployment_the_receipt_demands_all(lab: Lab, names: tuple[str, str]) -> None:
    assert proven(lab) == sorted(names)
    collect(lab, names[1])
    assert f"no image has the name '{names[1]}'" in verify(lab, ok=6).stderr


def test_target_that_says_nothing_of_itself_is_refuted(lab: Lab) -> None:
    (problem,) = document(verify(lab, "--format=json", ok=6))["problems"]
    assert problem["subject"] == str(lab.target)
    assert "nothing says which images are expected" in problem["message"]
