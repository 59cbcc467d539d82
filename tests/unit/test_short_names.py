"""Which full names a reference can mean in a local store; see tests/storage for podman's own word."""

import pytest

from installer_plugin.declarations.reference import parse_reference
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.short_names import candidates, same_short_name
from tests.support.values import digest

PIN = digest("pin")
CONF = RegistriesConf(
    search=("quay.io", "registry.example:5000"),
    aliases={"fedora": "registry.fedoraproject.org/fedora", "team/app": "quay.io/other/app"},
)


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("quay.io/x/y", ("quay.io/x/y:latest",)),
        ("quay.io/x/y:1", ("quay.io/x/y:1",)),
        (f"quay.io/x/y:1@{PIN}", (f"quay.io/x/y@{PIN}",)),
        ("docker.io/alpine:3", ("docker.io/library/alpine:3",)),
        (
            "app:1",
            ("localhost/app:1", "quay.io/app:1", "registry.example:5000/app:1", "docker.io/library/app:1"),
        ),
        (
            "fedora",
            (
                "registry.fedoraproject.org/fedora:latest", "localhost/fedora:latest",
                "quay.io/fedora:latest", "registry.example:5000/fedora:latest",
                "docker.io/library/fedora:latest",
            ),
        ),
        (
            f"team/app@{PIN}",
            (
                f"quay.io/other/app@{PIN}", f"localhost/team/app@{PIN}", f"quay.io/team/app@{PIN}",
                f"registry.example:5000/team/app@{PIN}", f"docker.io/team/app@{PIN}",
            ),
        ),
    ],
    ids=["full", "full-tag", "full-digest", "docker", "short", "alias", "alias-digest"],
)  # fmt: skip
def test_names_are_tried_in_podmans_order(reference: str, names: tuple[str, ...]) -> None:
    assert candidates(parse_reference(reference), CONF) == names


def test_registry_in_the_search_list_twice_is_tried_once() -> None:
    conf = RegistriesConf(search=("docker.io", "localhost"), aliases={})
    expected = ("localhost/x:latest", "docker.io/library/x:latest")
    assert candidates(parse_reference("x"), conf) == expected


@pytest.mark.parametrize(
    ("reference", "stored", "same"),
    [
        ("app:1", "quay.io/team/app:1", True),
        ("team/app:1", "quay.io/team/app:1", True),
        ("app", "quay.io/team/app:latest", True),
        ("app:1", "quay.io/team/app:2", False),
        ("app:1", "quay.io/team/myapp:1", False),
        ("other/app:1", "quay.io/team/app:1", False),
        ("app:1", f"quay.io/team/app@{PIN}", False),
        ("app:1", "Not A Name", False),
    ],
    ids=["name", "path", "latest", "other-tag", "ending", "other-path", "digest", "no-reference"],
)
def test_short_name_is_the_end_of_a_stored_one(reference: str, stored: str, *, same: bool) -> None:
    assert same_short_name(parse_reference(reference), stored) is same
