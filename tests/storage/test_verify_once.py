"""`verify --once`: each deployment is proven once, and what an upgrade brings is proven then."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storage.test_verify_deployments import RECEIPT, deploy
from tests.support.images import ImageSources
from tests.support.product import Lab, document

ABSENT = "localhost/never-copied:1"


@pytest.fixture
def lab(lab: Lab, image_sources: ImageSources) -> Lab:
    """A target with an image, and a deployment that declares it."""
    name = image_sources.app_b.name
    lab.run("copy", "--quiet", lab.root(name), lab.target)
    deploy(lab, 1, name)
    return lab


def stamp(lab: Lab) -> Path:
    return lab.directory / "proven.json"


def proves(lab: Lab, ok: int = 0) -> bool:
    """Whether anything is read; the end of it says so, as its document does."""
    argv = ("verify", "--once", stamp(lab), lab.target)
    said = document(lab.run(*argv, "--format=json", ok=ok))
    return not said.get("proven_before")


def change_receipt(lab: Lab) -> None:
    file = lab.target / RECEIPT
    file.write_text(json.dumps({**json.loads(file.read_text()), "created": "another day"}))


def test_nothing_is_read_a_second_time(lab: Lab) -> None:
    assert proves(lab)
    assert proves(lab) is False
    done = lab.run("verify", "--once", stamp(lab), lab.target)
    assert "was proven before, nothing was read" in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        lambda lab: deploy(lab, 2),
        change_receipt,
        lambda lab: (lab.target / RECEIPT).unlink(),
        lambda lab: stamp(lab).unlink(),
        lambda lab: stamp(lab).write_text("nonsense"),
        lambda lab: stamp(lab).write_text('{"schema": "bootc-bound-images/proven/1"}'),
    ],
    ids=["deployment", "receipt", "no-receipt", "no-stamp", "damaged", "incomplete"],
)
def test_all_is_proven_again_with(lab: Lab, change: Callable[[Lab], object]) -> None:
    proves(lab)
    change(lab)
    assert proves(lab)
    assert proves(lab) is False


def test_deployment_that_has_gone_is_no_reason(lab: Lab) -> None:
    deploy(lab, 2)
    assert proves(lab)
    shutil.rmtree(lab.target / "ostree/deploy/default/deploy/0002.0")
    assert proves(lab) is False


def test_what_an_upgrade_brings_to_a_system_without_bound_images_is_proven(lab: Lab) -> None:
    shutil.rmtree(lab.target / "ostree/deploy/default/deploy/0001.0")
    (lab.target / RECEIPT).unlink()
    deploy(lab, 2)
    assert proves(lab)
    deploy(lab, 3, ABSENT)
    for _ in range(2):  # a failure is tried again
        argv = ("verify", "--once", stamp(lab), lab.target)
        assert ABSENT in lab.run(*argv, ok=6).stderr


def test_deployments_of_the_composefs_backend_count(lab: Lab) -> None:
    shutil.rmtree(lab.target / "ostree/deploy")
    (lab.target / "ostree").rename(lab.target / "composefs")
    place = lab.target / "sysroot/state/deploy"
    (place / "abc").mkdir(parents=True)
    assert proves(lab)
    assert proves(lab) is False
    (place / "def").mkdir()
    assert proves(lab)


def test_without_a_deployment_everything_is_proven_each_time(lab: Lab) -> None:
    shutil.rmtree(lab.target / "ostree/deploy")
    assert proves(lab)
    assert proves(lab)


def test_stamp_that_cannot_be_written_is_a_warning(lab: Lab) -> None:
    argv = ("verify", "--once", lab.directory / "absent/proven.json", lab.target)
    done = lab.run(*argv)
    assert "cannot be written" in done.stderr
    assert "1 image verified" in done.stdout


def test_a_disk_has_no_stamp(lab: Lab) -> None:
    disk = lab.directory / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    done = lab.run("verify", "--once", stamp(lab), disk, ok=2)
    assert f"--once: is for a running system's root, {disk} is not a directory" in done.stderr
