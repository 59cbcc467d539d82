"""Installations onto a root that holds bound images already."""

from collections.abc import Sequence

import pytest

from installer_plugin.hooks.phases import Phase
from installer_plugin.storage.store.rollback import NOTE
from tests.faults.scene import APP, SMALL
from tests.hosts.scene import RECEIPT, Scene, bind, receipt, stored_names
from tests.support.disks import LoopFsFactory
from tests.support.product import STORE

pytestmark = pytest.mark.real

WAYS = pytest.mark.parametrize("inside", [True, False], ids=["during", "after"])
ALONGSIDE = ("to-filesystem", "--replace=alongside")


@WAYS
@pytest.mark.parametrize(
    ("masked", "recorded"),
    [
        ((), [APP, SMALL]),
        (("50-verify",), None),
        (("60-record",), None),
        (("50-verify", "60-record"), None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_kept_of_an_earlier_run_speaks_of_this_one(
    scene: Scene,
    loop_fs: LoopFsFactory,
    masked: Sequence[str],
    recorded: list[str] | None,
    *,
    inside: bool,
) -> None:
    """No note of the store as it was, to which a later run would go back; no receipt of other images."""
    fs = loop_fs()
    bind(scene.container, SMALL)
    scene.install(*ALONGSIDE, fs.mount, inside=inside)
    assert [image["reference"] for image in receipt(fs.mount)["images"]] == [SMALL]
    bind(scene.container, APP, SMALL)
    for name in masked:
        scene.hooks.mask(name, phase=Phase.VERIFY)
    own = ("--unsafe-skip-verify",) if "50-verify" in masked else ()
    done = scene.install(*ALONGSIDE, fs.mount, own=own, inside=inside)
    assert stored_names(fs.mount) == [APP, SMALL]
    assert not (fs.mount / STORE).with_name(NOTE).exists()
    assert (fs.mount / RECEIPT).exists() == (recorded is not None)
    if recorded is None:
        assert "the receipt of an earlier installation is removed" in done.stderr
    else:
        assert [image["reference"] for image in receipt(fs.mount)["images"]] == recorded
    assert "2 images verified" in scene.verify(fs.mount)
