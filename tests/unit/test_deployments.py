"""What a target itself demands: its deployments, and demands of several origins merged."""

from pathlib import Path

import pytest

from installer_plugin.expectations import (
    deployment_paths,
    expected_of_bound,
    expected_of_lock,
    expected_of_resolved,
    merged,
    open_deployment,
)
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.lockfile import lock_images
from installer_plugin.model import Expected, ImageId
from tests.support.values import bound, digest, hexa, resolved

A, B = ImageId(hexa("a")), ImageId(hexa("b"))


def _want(
    reference: str = "r",
    *,
    names: str = "r",
    image: ImageId | None = None,
    digests: str = "",
    where: str = "",
) -> Expected:
    return Expected(
        reference=reference,
        names=tuple(names.split()),
        image_id=image,
        manifest_digests=tuple(map(digest, digests.split())),
        where=where,
    )


@pytest.mark.parametrize(
    ("demands", "expected"),
    [
        ([], []),
        (
            [
                _want(names="r x", digests="1", where="unit"),
                _want(names="y r", digests="2 1", where="lock"),
            ],
            [_want(names="r x y", digests="1 2", where="unit")],
        ),
        (
            [_want(where="unit"), _want(image=A, where="receipt")],
            [_want(image=A, where="unit")],
        ),
        (
            [_want(image=A, where="receipt"), _want(names="x", where="unit")],
            [_want(names="r x", image=A, where="receipt")],
        ),
        (
            [_want(image=A, where="receipt"), _want(image=B, where="lock")],
            [_want(image=A, where="receipt"), _want(image=B, where="lock")],
        ),
        ([_want("r"), _want("s")], [_want("r"), _want("s")]),
    ],
    ids=["none", "union", "id-later", "id-earlier", "two-ids", "two-references"],
)  # fmt: skip
def test_demands_for_one_reference_become_one(
    demands: list[Expected], expected: list[Expected]
) -> None:
    assert list(merged(demands)) == expected


def test_declaration_demands_names_and_what_is_pinned() -> None:
    pinned = f"quay.io/x/y@{digest('m')}"
    plain, with_digest = expected_of_bound([bound("x:1", names=("x:1", "y")), bound(pinned)], "d/")
    assert (plain.names, plain.image_id, plain.manifest_digests) == (("x:1", "y"), None, ())
    assert with_digest.manifest_digests == (digest("m"),)
    assert plain.where.startswith("d/usr/lib/bootc/bound-images.d/app.container -> ")


def test_resolved_image_and_lock_file_demand_identities() -> None:
    image = resolved("localhost/a:1", manifests=("list", "one"))
    (of_image,) = expected_of_resolved([image])
    assert (of_image.image_id, of_image.manifest_digests) == (
        image.image_id,
        image.manifest_digests,
    )
    (locked,) = lock_images([image])
    (of_lock,) = expected_of_lock({locked.reference: locked}, "lock.json")
    assert (of_lock.image_id, of_lock.manifest_digests) == (image.image_id, (digest("list"),))
    assert of_lock.where == "lock.json"


def test_deployments_of_all_stateroots_are_found(tmp_path: Path) -> None:
    deploy = tmp_path / "ostree/deploy"
    for name in ("default/deploy/b.0", "default/deploy/a.1", "other/deploy/c.0", "empty/var"):
        (deploy / name).mkdir(parents=True)
    (deploy / "default/deploy/a.1.origin").write_text("not a deployment")
    (deploy / "default/deploy/a.1/etc").mkdir()
    with Rootfs.open(tmp_path) as root:
        assert list(deployment_paths(root)) == [
            "ostree/deploy/default/deploy/a.1",
            "ostree/deploy/default/deploy/b.0",
            "ostree/deploy/other/deploy/c.0",
        ]
    with open_deployment(tmp_path, "ostree/deploy/default/deploy/a.1") as deployment:
        assert deployment.list("") == ("etc",)


def test_root_without_ostree_has_no_deployments(tmp_path: Path) -> None:
    with Rootfs.open(tmp_path) as root:
        assert list(deployment_paths(root)) == []
