"""The osbuild stage, in a sandbox as osbuild makes it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scene import APP, OTHER, SMALL, Images
from tests.hosts.image_builder.conftest import OS, Built
from tests.hosts.scene import RECEIPT, bind
from tests.support.disks import FsKind, LoopFs, LoopFsFactory
from tests.support.osbuild_sandbox import Sandbox, arguments, make_library
from tests.support.product import STORE, product
from tests.support.selinux import RULES, give_policy, label_of
from tests.support.stores import Store

pytestmark = pytest.mark.real
DEPLOYMENT = "ostree/deploy/default/deploy/0123abcd.0"
OS_ID = "sha256:" + "e" * 64
CREATED = 1714557600
NOT_IN_MANIFEST = "is declared by the installed system, and not in the manifest"


def deployed(root: Path, *images: str) -> Path:
    """Leave what bootc leaves: a deployment that binds these images, and no store."""
    (root / "ostree/repo").mkdir(parents=True)
    deployment = root / DEPLOYMENT
    (deployment / "usr/lib/bootc/bound-images.d").mkdir(parents=True)
    (deployment / "etc").mkdir()
    bind(deployment, *images)
    return deployment


def options(store: Store, *images: str, **more: object) -> dict[str, Any]:
    """What the rewriter writes for these images."""
    found = [(name, store.image(name)) for name in images]
    return {
        "source": {"reference": "localhost/os:1", "id": OS_ID},
        "images": [
            {"reference": name, "id": f"sha256:{image.id}", "digest": image.digest}
            for name, image in found
        ],
        "created": CREATED,
        "program": "0.1.0",
        **more,
    }


@pytest.fixture
def sandbox(tmp_path: Path, little: Images, program: Path) -> Sandbox:
    library = make_library(tmp_path / "lib", program)
    return Sandbox(directory=tmp_path / "sandbox", store=little.root, library=library)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_disk_holds_its_images_and_verifies(
    kind: FsKind, sandbox: Sandbox, little: Images, loop_fs: LoopFsFactory
) -> None:
    disk = loop_fs(kind)
    deployed(disk.mount, APP, OTHER, SMALL)
    ended = sandbox.run(arguments(options(little.store, APP, OTHER, SMALL)), disk.mount)
    assert ended.done.returncode == 0, ended.said
    assert [image["reference"] for image in ended.metadata["images"]] == [APP, OTHER, SMALL]
    assert {image["engine"] for image in ended.metadata["images"]} == {"direct"}
    product("verify", disk.mount, env={})
    _require_pure(disk)
    _require_pure_text(json.dumps(ended.metadata))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_labels_are_those_of_the_targets_own_policy(
    kind: FsKind, sandbox: Sandbox, little: Images, loop_fs: LoopFsFactory
) -> None:
    # A type that no policy of the build's machine knows; where SELinux is on, it takes CAP_MAC_ADMIN.
    disk = loop_fs(kind)
    deployment = deployed(disk.mount, APP)
    give_policy(deployment)
    rules = deployment / RULES
    rules.write_text(rules.read_text().replace("container_ro_file_t", "of_this_target_t"))
    ended = sandbox.run(arguments(options(little.store, APP)), disk.mount)
    assert ended.done.returncode == 0, ended.said
    store = disk.mount / STORE
    assert label_of(store) == "system_u:object_r:container_var_lib_t:s0"
    files = list((store / "overlay").rglob("*"))
    assert any(path.name == "large" for path in files)
    assert {label_of(path) for path in files} == {"system_u:object_r:of_this_target_t:s0"}
    done = product("verify", disk.mount, env={})
    assert "labels" in done.stdout


def test_images_come_from_the_cache_of_osbuild_as_well(
    sandbox: Sandbox, little: Images, loop_fs: LoopFsFactory, tmp_path: Path
) -> None:
    disk = loop_fs()
    deployed(disk.mount, APP, SMALL)
    asked = options(little.store, APP, SMALL)
    for image in asked["images"]:
        folder = tmp_path / "images" / image["id"]
        folder.parent.mkdir(exist_ok=True)
        little.store.skopeo(
            "copy", "--quiet", little.store.ref(image["reference"]), f"dir:{folder}"
        )
        image["digest"] = digest_of(folder / "manifest.json")
    handed = arguments(asked)
    for archive in handed["inputs"]["images"]["data"]["archives"].values():
        archive["format"] = "dir"
    ended = replace(sandbox, images=tmp_path / "images").run(handed, disk.mount)
    assert ended.done.returncode == 0, ended.said
    assert {image["engine"] for image in ended.metadata["images"]} == {"skopeo"}
    product("verify", disk.mount, env={})
    _require_pure(disk)


def digest_of(file: Path) -> str:
    return "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


def test_without_a_deployment_the_os_image_itself_says_what_it_declares(
    built: Built, program: Path, loop_fs: LoopFsFactory, tmp_path: Path
) -> None:
    disk = loop_fs()
    (disk.mount / "composefs").mkdir()
    library = make_library(tmp_path / "lib", program)
    sandbox = Sandbox(directory=tmp_path / "sandbox", store=built.store.root, library=library)
    source = {"reference": OS, "id": f"sha256:{built.ids[OS]}"}
    asked = options(built.store, APP, OTHER, SMALL, source=source)
    ended = sandbox.run(arguments(asked), disk.mount)
    assert ended.done.returncode == 0, ended.said
    assert (disk.mount / "composefs/bootc/storage/overlay-images/images.json").exists()
    product("verify", disk.mount, env={})


def test_two_builds_write_the_same_receipt(
    sandbox: Sandbox, little: Images, loop_fs: LoopFsFactory
) -> None:
    receipts = []
    for kind in ("ext4", "xfs"):
        disk = loop_fs(kind)
        deployed(disk.mount, APP)
        ended = sandbox.run(arguments(options(little.store, APP)), disk.mount)
        assert ended.done.returncode == 0, ended.said
        receipts.append((disk.mount / RECEIPT).read_bytes())
    assert receipts[0] == receipts[1]


def test_the_pipelines_own_time_comes_first(
    sandbox: Sandbox, little: Images, loop_fs: LoopFsFactory
) -> None:
    disk = loop_fs()
    deployed(disk.mount, APP)
    meta = {"id": "0" * 64, "source-epoch": 1}
    ended = sandbox.run(arguments(options(little.store, APP), meta=meta), disk.mount)
    assert ended.done.returncode == 0, ended.said
    assert json.loads((disk.mount / RECEIPT).read_text())["created"] == "1970-01-01T00:00:01Z"


Change = Callable[[dict[str, Any]], object]
Asked = dict[str, Any]


def _other_id(asked: Asked) -> None:
    asked["images"][0]["id"] = "sha256:" + "0" * 64


def _other_digest(asked: Asked) -> None:
    asked["images"][0]["digest"] = "sha256:" + "0" * 64


def _one_more(asked: Asked) -> None:
    asked["images"].append({**asked["images"][0], "reference": "localhost/more:1"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_id, f"localhost/app:1: {NOT_IN_MANIFEST} (image sha256:"),
        (_other_digest, f"localhost/app:1: {NOT_IN_MANIFEST} (image sha256:"),
        (_one_more, "localhost/more:1: is in the manifest, and not declared by the installed"),
        (lambda asked: asked["images"].pop(), f"localhost/small:1: {NOT_IN_MANIFEST}"),
    ],
)
def test_another_set_than_the_manifests_is_refused_before_anything_is_copied(
    change: Change, said: str, sandbox: Sandbox, little: Images, tmp_path: Path
) -> None:
    deployed(tmp_path / "disk", APP, SMALL)
    asked = options(little.store, APP, SMALL)
    change(asked)
    ended = sandbox.run(arguments(asked), tmp_path / "disk")
    assert ended.done.returncode == 1
    assert said in ended.said
    assert "hint: make the manifest again" in ended.said
    assert "Traceback" not in ended.said
    assert not (tmp_path / "disk" / STORE).exists()
    assert ended.metadata == {}


def _two_deployments(root: Path, handed: Asked) -> None:
    (root / DEPLOYMENT).with_name("0123abcd.1").mkdir()


def _no_deployment_and_no_store(root: Path, handed: Asked) -> None:
    shutil.rmtree(root / "ostree/deploy")
    for archive in handed["inputs"]["images"]["data"]["archives"].values():
        archive["format"] = "dir"
    handed["inputs"]["images"]["path"] = "/nowhere"


def _archive(root: Path, handed: Asked) -> None:
    for archive in handed["inputs"]["images"]["data"]["archives"].values():
        archive["format"] = "oci-archive"


def _image_gone(root: Path, handed: Asked) -> None:
    bind_again(root, "localhost/gone:1")


def bind_again(root: Path, image: str) -> None:
    (root / DEPLOYMENT / "usr/share/containers/systemd/0.image").write_text(
        f"[Image]\nImage={image}\n"
    )


def _empty_program(root: Path, handed: Asked) -> None:
    handed["inputs"]["program"] = {"path": "/run", "data": {"files": {}}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_two_deployments, "the disk has 2 deployments, expected one"),
        (_no_deployment_and_no_store, "has no ostree deployment, and the input is no"),
        (_archive, "has oci-archive, expected containers-storage or dir"),
        (_image_gone, "localhost/gone:1"),
        (_empty_program, "the input 'program' has 0 files, expected one"),
    ],
)
def test_what_it_cannot_work_with_is_one_clear_error(
    change: Callable[[Path, Asked], None],
    said: str,
    sandbox: Sandbox,
    little: Images,
    tmp_path: Path,
) -> None:
    deployed(tmp_path / "disk", APP)
    handed = arguments(options(little.store, APP))
    change(tmp_path / "disk", handed)
    ended = sandbox.run(handed, tmp_path / "disk")
    assert ended.done.returncode == 1
    assert said in ended.said
    assert "Traceback" not in ended.said
    assert not (tmp_path / "disk" / STORE).exists()


def test_a_build_root_without_a_new_python_is_told_so(
    sandbox: Sandbox, little: Images, tmp_path: Path
) -> None:
    deployed(tmp_path / "disk", APP)
    old = replace(sandbox, no_python=True)
    ended = old.run(arguments(options(little.store, APP)), tmp_path / "disk")
    assert ended.done.returncode == 1
    assert "the build root has no Python 3.11 or later" in ended.said
    assert "Traceback" not in ended.said


def test_a_library_directory_without_the_program_is_told_so(
    sandbox: Sandbox, little: Images, tmp_path: Path
) -> None:
    deployed(tmp_path / "disk", APP)
    (sandbox.library / "bootc-bound-images.pyz").unlink()
    ended = sandbox.run(arguments(options(little.store, APP)), tmp_path / "disk")
    assert ended.done.returncode == 1
    assert "bootc-bound-images.pyz is not there" in ended.said
    assert "Traceback" not in ended.said


def test_a_damaged_image_fails_the_stage(little: Images, program: Path, tmp_path: Path) -> None:
    mine = little.copied_to(tmp_path / "mine")
    found = next(path for path in mine.root.glob("overlay/*/diff/app/large"))
    found.write_bytes(b"not what it was")
    deployed(tmp_path / "disk", APP)
    library = make_library(tmp_path / "lib", program)
    sandbox = Sandbox(directory=tmp_path / "sandbox", store=mine.root, library=library)
    ended = sandbox.run(arguments(options(mine.store, APP)), tmp_path / "disk")
    assert ended.done.returncode == 1
    assert "app/large" in ended.said
    assert ended.metadata == {}


def damaged(little: Images, place: Path) -> tuple[Store, Path]:
    """A store in which a file of APP has other content, of the same size and time; and that file."""
    mine = little.copied_to(place)
    found = next(mine.root.glob("overlay/*/diff/app/5/5"))
    before = found.stat()
    found.write_bytes(found.read_bytes()[::-1])
    os.utime(found, ns=(before.st_atime_ns, before.st_mtime_ns))
    return mine.store, found


def test_content_that_somebody_reads_later_is_not_read_by_the_stage(
    little: Images, program: Path, loop_fs: LoopFsFactory, tmp_path: Path
) -> None:
    disk = loop_fs()
    store, _ = damaged(little, tmp_path / "mine")
    deployed(disk.mount, APP)
    library = make_library(tmp_path / "lib", program)
    sandbox = Sandbox(directory=tmp_path / "sandbox", store=store.root, library=library)
    ended = sandbox.run(arguments(options(store, APP, content="later")), disk.mount)
    assert ended.done.returncode == 0, ended.said
    receipt = json.loads((disk.mount / RECEIPT).read_text())
    for image in (*ended.metadata["images"], *receipt["images"]):
        assert "metadata" in image["verified"]
        assert "content" not in image["verified"]
    assert "app/5/5" in product("verify", disk.mount, env={}, ok=(6,)).stderr


def test_all_but_content_is_compared_by_the_stage_in_any_case(
    little: Images, program: Path, tmp_path: Path
) -> None:
    store, file = damaged(little, tmp_path / "mine")
    file.unlink()
    deployed(tmp_path / "disk", APP)
    library = make_library(tmp_path / "lib", program)
    sandbox = Sandbox(directory=tmp_path / "sandbox", store=store.root, library=library)
    ended = sandbox.run(arguments(options(store, APP, content="later")), tmp_path / "disk")
    assert ended.done.returncode == 1
    assert "app/5/5" in ended.said
    assert ended.metadata == {}


def _require_pure(disk: LoopFs) -> None:
    text = (disk.mount / RECEIPT).read_text()
    receipt = json.loads(text)
    assert receipt["source"] == "containers-storage:localhost/os:1"
    assert receipt["created"] == "2024-05-01T10:00:00Z"
    _require_pure_text(text)


def _require_pure_text(text: str) -> None:
    assert "/run/osbuild" not in text
    assert DEPLOYMENT not in text
