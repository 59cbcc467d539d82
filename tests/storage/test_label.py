"""SELinux labels of the target store, written and read back on a host without SELinux."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from installer_plugin.cli.program import program
from installer_plugin.errors import DataError, VerificationError
from installer_plugin.events import Events
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.process.runner import Runner
from installer_plugin.stages.label import CHECK, label, verify_labels
from installer_plugin.stages.preflight import check_labelling
from installer_plugin.storage.selinux import Policy, find_policy
from tests.support.disks import LoopFsFactory
from tests.support.images import ImageSources
from tests.support.selinux import RULES, give_policy, label_of

SourceRoot = Callable[..., Path]
STORE = "ostree/bootc/storage"


@pytest.fixture
def target(loop_fs: LoopFsFactory, source_root: SourceRoot, image_sources: ImageSources) -> Path:
    """A target whose source has a policy."""
    root = source_root({"a.image": f"[Image]\nImage={image_sources.app_a.name}\n"})
    give_policy(root)
    mount = loop_fs().mount
    copied = CliRunner().invoke(
        program, ["copy", str(root), str(mount), "--store", str(image_sources.store.root)]
    )
    assert copied.exit_code == 0, copied.output
    assert "labels" in copied.stdout
    return mount


def policy_of(root: Path) -> Policy:
    with Rootfs.open(root) as opened:
        policy = find_policy(opened)
    assert policy is not None
    return policy


def test_every_file_gets_the_label_that_the_policy_gives_the_usual_store(target: Path) -> None:
    store = target / STORE
    assert label_of(store) == "system_u:object_r:container_var_lib_t:s0"
    for path in (store / "overlay").rglob("*"):
        assert label_of(path) == "system_u:object_r:container_ro_file_t:s0", path


def test_images_added_after_the_stamp_of_bootc_are_labelled(
    target: Path, source_root: SourceRoot, image_sources: ImageSources
) -> None:
    (target / STORE / ".bootc_labeled").touch()
    root = source_root({"b.image": f"[Image]\nImage={image_sources.web.name}\n"})
    give_policy(root)
    store = str(image_sources.store.root)
    copied = CliRunner().invoke(program, ["copy", str(root), str(target), "--store", store])
    assert copied.exit_code == 0, copied.output
    folder = target / STORE / "overlay-images" / image_sources.web.id
    assert label_of(folder / "manifest") == "system_u:object_r:container_ro_file_t:s0"


def test_a_wrong_label_is_found_and_named(target: Path, tmp_path: Path) -> None:
    give_policy(tmp_path)
    images = target / STORE / "overlay-images/images.json"
    os.setxattr(images, "security.selinux", b"system_u:object_r:usr_t:s0\0")
    with pytest.raises(VerificationError, match=r"images\.json: has the label .*usr_t"):
        verify_labels(target / STORE, policy_of(tmp_path), Events(), Runner())


def test_a_deployment_on_the_target_decides_which_policy_judges(
    target: Path, source_root: SourceRoot, image_sources: ImageSources
) -> None:
    deployment = target / "ostree/deploy/default/deploy/abc.0"
    root = source_root({"a.image": f"[Image]\nImage={image_sources.app_a.name}\n"})
    shutil.copytree(root, deployment, symlinks=True)
    give_policy(deployment)
    rules = deployment / RULES
    rules.write_text(rules.read_text().replace("container_ro_file_t", "container_share_t"))
    verified = CliRunner().invoke(program, ["verify", str(target)])
    assert verified.exit_code == 6
    assert "expected system_u:object_r:container_share_t" in verified.stderr


def test_labels_are_proven_when_they_are_right(target: Path, tmp_path: Path) -> None:
    give_policy(tmp_path)
    assert verify_labels(target / STORE, policy_of(tmp_path), Events(), Runner()) == (CHECK,)


@pytest.mark.parametrize(
    "config",
    ["SELINUX=disabled\nSELINUXTYPE=default\n", "# nothing\n"],
    ids=["disabled", "no type"],
)
def test_a_policy_that_is_not_in_use_labels_nothing(tmp_path: Path, config: str) -> None:
    give_policy(tmp_path, config=config)
    with Rootfs.open(tmp_path) as root:
        assert find_policy(root) is None


def test_a_root_without_selinux_labels_nothing_and_proves_no_labels(tmp_path: Path) -> None:
    with Rootfs.open(tmp_path) as root:
        assert find_policy(root) is None
    label(tmp_path, None, Events(), Runner())
    assert verify_labels(tmp_path, None, Events(), Runner()) == ()


def test_a_policy_without_file_contexts_is_refused(tmp_path: Path) -> None:
    give_policy(tmp_path, config="SELINUXTYPE=mls\n")
    with Rootfs.open(tmp_path) as root, pytest.raises(DataError, match="names the policy mls"):
        find_policy(root)


def test_missing_setfiles_is_a_problem_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_policy(tmp_path)
    policy = policy_of(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (problem,) = check_labelling(policy)
    assert "policycoreutils" in problem.hint


def test_without_setfiles_labels_are_not_claimed_to_be_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_policy(tmp_path)
    policy = replace(policy_of(tmp_path), where="a test")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert verify_labels(tmp_path, policy, Events(), Runner()) == ()
