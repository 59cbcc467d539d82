"""copy and verify on disk images, as a user calls them, with real stores."""

import json
from pathlib import Path

import pytest

from tests.block.scene import ROOT, SYSTEM, Part, attached, boot, make_disk, mounted
from tests.support.commands import run
from tests.support.images import ImageSources
from tests.support.leftovers import Machine
from tests.support.product import STORE, Lab, document
from tests.support.sources import SourceRootBuilder

FILE_SYSTEMS = ("ext4", "xfs", "btrfs")


@pytest.fixture
def lab(image_sources: ImageSources, source_root: SourceRootBuilder, tmp_path: Path) -> Lab:
    """A disk image as the target, a source and the command."""
    return Lab(
        source=image_sources.store,
        bind=source_root,
        target=tmp_path / "disk.img",
        directory=tmp_path,
    )


@pytest.fixture
def root(image_sources: ImageSources, lab: Lab) -> Path:
    return lab.root(image_sources.app_b.name, image_sources.web_by_digest)


def make(lab: Lab, kind: str = "ext4", **fields: str) -> Path:
    part = Part(kind=kind, size=400, type=ROOT, holds=SYSTEM, **fields)
    return make_disk(lab.target, boot(), part)


def _steps_of(place: Path) -> str:
    """What is noted there; nothing where it goes meanwhile, as another test's does."""
    try:
        return (place / "steps").read_text()
    except FileNotFoundError:
        return ""


def nothing_left(lab: Lab) -> bool:
    now = Machine.now()
    private = Path("/run/bootc-bound-images").glob("target-*")
    mine = [path for path in private if str(lab.target) in _steps_of(path)]
    return not mine and not [loop for loop in now.loops if str(lab.target) in loop]


@pytest.mark.parametrize("engine", ["direct", "skopeo", "podman"])
def test_copy_and_verify_a_disk_image(engine: str, root: Path, lab: Lab) -> None:
    image = make(lab)
    done = lab.run("copy", f"--engine={engine}", root, image)
    assert f"2 images verified on {image}:/{STORE}" in done.stdout
    assert "disk: looking with " in done.stderr
    assert nothing_left(lab)
    before = image.read_bytes()
    proven = lab.run("verify", image)
    assert f"2 images verified on {image}:" in proven.stdout
    assert image.read_bytes() == before
    assert nothing_left(lab)


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_documents_name_the_disk_as_the_user_did(kind: str, root: Path, lab: Lab) -> None:
    image = make(lab, kind, subvolume="@" if kind == "btrfs" else "")
    for argv in (("copy", root, image), ("verify", image)):
        done = lab.run(*argv, "--format=json")
        seen = document(done)
        assert "/run/bootc-bound-images" not in done.stdout
        assert len(seen["images"]) == 2
        if argv[0] == "copy":
            assert (seen["target"], seen["store"]) == (f"{image}:", f"{image}:/{STORE}")
        else:
            assert seen["source"] == str(image)
            assert "/target-" not in seen["images"][0]["where"]


def test_receipt_on_the_disk_is_that_of_a_directory(root: Path, lab: Lab) -> None:
    image = make(lab)
    lab.run("copy", root, image, env={"SOURCE_DATE_EPOCH": "1"})
    folder = lab.directory / "folder"
    folder.mkdir()
    lab.run("copy", root, folder, env={"SOURCE_DATE_EPOCH": "1"})
    place = "ostree/bootc/bound-images.json"
    with attached(image) as disk, mounted(Path(f"{disk}p2"), "ro") as target:
        assert (target / place).read_text() == (folder / place).read_text()


def test_copy_to_a_block_device(root: Path, lab: Lab) -> None:
    image = make(lab)
    with attached(image) as disk:
        lab.run("copy", root, disk)
        lab.run("verify", f"{disk}p2")
    lab.run("verify", image)


@pytest.mark.parametrize("command", ["copy", "check", "dry-run"])
def test_problems_are_told_before_a_byte_is_changed(
    command: str, image_sources: ImageSources, lab: Lab
) -> None:
    image = make(lab, "xfs")
    before = image.read_bytes()
    missing = lab.root(image_sources.app_b.name, "localhost/absent:1")
    argv = {
        "copy": ("copy", missing, image),
        "check": ("check", "--target", image, missing),
        "dry-run": ("copy", "--dry-run", missing, image),
    }[command]
    done = lab.run(*argv, ok=4)
    assert "localhost/absent:1" in done.stderr
    assert image.read_bytes() == before


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_dry_run_changes_no_byte(kind: str, root: Path, lab: Lab) -> None:
    image = make(lab, kind)
    before = image.read_bytes()
    done = lab.run("copy", "--dry-run", root, image)
    assert f"would be copied to {image}:/{STORE}; nothing was changed" in done.stdout
    lab.run("check", "--target", image, root)
    assert image.read_bytes() == before


def test_disk_without_room_is_a_problem(image_sources: ImageSources, lab: Lab) -> None:
    part = Part(kind="ext4", size=8, type=ROOT, holds=SYSTEM)
    image = make_disk(lab.target, boot(), part)
    done = lab.run("copy", lab.root(image_sources.app_b.name, image_sources.web.name), image, ok=4)
    assert f"{image}:" in done.stderr
    assert "free, the bound images need" in done.stderr


def test_damage_is_told_with_the_path_on_the_disk(root: Path, lab: Lab) -> None:
    image = make(lab)
    lab.run("copy", root, image)
    with attached(image) as disk, mounted(Path(f"{disk}p2")) as target:
        records = target / STORE / "overlay-images/images.json"
        content = json.loads(records.read_text())
        records.write_text(json.dumps(content[:1]))
    done = lab.run("verify", image, ok=6)
    assert "/run/bootc-bound-images" not in done.stderr
    assert f"layers of {image}:/{STORE}" in done.stderr
    assert nothing_left(lab)


REFUSED = {
    "two-roots": (("verify",), 2, "candidates for the root"),
    "no-such-partition": (("verify", "--root-partition=9"), 2, "nothing called '9'"),
    "key-file-missing": (("verify", "--key-file=/nowhere"), 2, "/nowhere"),
}


@pytest.mark.parametrize(("argv", "code", "told"), REFUSED.values(), ids=REFUSED)
def test_refusals_have_their_exit_codes(
    argv: tuple[str, ...], code: int, told: str, lab: Lab
) -> None:
    part = Part(kind="ext4", type=ROOT)
    image = make_disk(lab.target, boot(), part, part)
    done = lab.run(*argv, image, ok=code)
    assert told in done.stderr
    assert nothing_left(lab)


def test_disk_in_use_is_the_hosts_business(lab: Lab) -> None:
    image = make(lab)
    with attached(image) as disk, mounted(Path(f"{disk}p2")) as point:
        done = lab.run("verify", disk, ok=7)
        assert f"is mounted on {point}" in done.stderr


def test_chosen_partition_is_the_one_that_is_written(root: Path, lab: Lab) -> None:
    first, second = (Part(kind="ext4", size=200, name=name) for name in ("one", "two"))
    image = make_disk(lab.target, first, second)
    lab.run("copy", "--root-partition=two", root, image)
    lab.run("verify", "--root-partition=2", image)
    done = lab.run("verify", "--root-partition=1", image, ok=6)
    assert f"error: {image}: has no deployment and no receipt: nothing says" in done.stderr
    with attached(image) as disk, mounted(Path(f"{disk}p1"), "ro") as target:
        assert sorted(path.name for path in target.iterdir()) == ["lost+found"]


def test_success_is_only_told_when_the_disk_is_closed(root: Path, lab: Lab) -> None:
    """What the command has printed is followed by nothing but its end: the image is complete."""
    image = make(lab)
    lab.run("copy", root, image)
    snapshot = lab.directory / "snapshot.img"
    run(("cp", "--sparse=always", image, snapshot))
    lab.run("verify", snapshot)
