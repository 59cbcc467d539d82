"""Which way our stages come into a bootc installation."""

from dataclasses import replace
from pathlib import Path

import pytest

from installer_plugin.errors import ConfigError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.hosts.bootc.bootc_cli import parse_bootc_install
from installer_plugin.hosts.bootc.mode import Situation, When, brings_uki, choose_mode
from installer_plugin.model import (
    BoundImage,
    ImageId,
    Location,
    ManifestDigest,
    ResolvedImage,
    SourceKind,
    SourceLocation,
    UnitKind,
)

STORE = Path("/var/lib/containers/storage")
BOUND = BoundImage(
    kind=UnitKind.IMAGE,
    location=Location(link="usr/lib/bootc/bound-images.d/a.image", unit="a.image", line=2),
    reference="quay.io/x/a:1",
    names=("quay.io/x/a:1",),
    bootc_name="quay.io/x/a:1",
)
RESOLVED = ResolvedImage(
    bound=BOUND,
    names=BOUND.names,
    source=SourceLocation(kind=SourceKind.CONTAINERS_STORAGE, store=str(STORE), item="0" * 64),
    image_id=ImageId("0" * 64),
    digest=ManifestDigest("sha256:" + "0" * 64),
    manifest_digests=(),
    layers=(),
)
USUAL = Situation(
    install=parse_bootc_install(["to-disk", "/dev/vda"]),
    source="/",
    bound=[BOUND],
    resolved=[RESOLVED],
    default_stores=frozenset({STORE}),
    composefs_image=False,
)
OBSTACLES = [
    ("--source-imgref", replace(
        USUAL, install=parse_bootc_install(["to-disk", "--source-imgref=oci:/x", "/dev/vda"]))),
    ("composefs", replace(
        USUAL, install=parse_bootc_install(["to-disk", "--composefs-backend", "/dev/vda"]))),
    ("composefs", replace(USUAL, composefs_image=True)),
    ("not of /srv/root", replace(USUAL, source="/srv/root")),
    ("an error", replace(USUAL, bound=[replace(BOUND, bootc_name=None)])),
    ("as foo.image", replace(USUAL, bound=[replace(BOUND, bootc_name="foo.image")])),
    ("does not look", replace(USUAL, default_stores=frozenset())),
    ("does not look", replace(USUAL, resolved=[replace(
        RESOLVED, source=SourceLocation(kind=SourceKind.OCI, store="/x", item="1"))])),
]  # fmt: skip


def test_during_is_taken_where_bootc_comes_to_copying_exactly_our_images() -> None:
    assert choose_mode(When.AUTO, USUAL).when is When.DURING


@pytest.mark.parametrize(("reason", "situation"), OBSTACLES)
def test_after_is_taken_where_bootc_would_not(reason: str, situation: Situation) -> None:
    way = choose_mode(When.AUTO, situation)
    assert way.when is When.AFTER
    assert reason in way.reason


@pytest.mark.parametrize(("reason", "situation"), OBSTACLES)
def test_during_is_refused_where_it_cannot_be(reason: str, situation: Situation) -> None:
    with pytest.raises(ConfigError, match=reason):
        choose_mode(When.DURING, situation)


def test_after_is_always_possible() -> None:
    assert choose_mode(When.AFTER, USUAL).when is When.AFTER


@pytest.mark.parametrize(
    ("file", "chosen"),
    [
        ("boot/EFI/Linux/6.1.0.efi", True),
        ("boot/EFI/Linux/..efi", True),
        ("boot/EFI/Linux/.efi", False),
        ("boot/EFI/Linux/6.1.0.efi.extra.d/addon", False),
        ("boot/EFI/Linux/6.1.0.EFI", False),
        ("boot/EFI/Linux/6.1.0\udcff.efi", False),
        ("boot/EFI/BOOT/BOOTX64.efi", False),
        ("usr/lib/modules/6.1.0/6.1.0.efi", False),
        ("usr/lib/modules/6.1.0/linux.efi", False),
        ("usr/lib/modules/6.1.0/vmlinuz", False),
    ],
)
def test_unified_kernel_counts_where_bootc_looks_for_it(
    file: str, chosen: bool, tmp_path: Path
) -> None:
    """The table is that of bootc's own find_kernel."""
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    with Rootfs.open(tmp_path) as root:
        assert brings_uki(root) is chosen


def test_unified_kernel_counts_behind_a_link_that_stays_below_boot(tmp_path: Path) -> None:
    (tmp_path / "boot/other").mkdir(parents=True)
    (tmp_path / "boot/other/a.efi").touch()
    (tmp_path / "boot/EFI").mkdir()
    (tmp_path / "boot/EFI/Linux").symlink_to("../other")
    with Rootfs.open(tmp_path) as root:
        assert brings_uki(root)
