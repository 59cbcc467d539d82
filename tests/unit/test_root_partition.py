"""Which names the root of a disk may have, before bootc has made it."""

from pathlib import Path

import pytest

from installer_plugin.block.base import OpenOptions
from installer_plugin.errors import ConfigError
from installer_plugin.hosts.bootc.bootc_cli import parse_bootc_install
from installer_plugin.hosts.bootc.target_checks import require_opening


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A name for a disk, as in /dev/disk/by-id."""
    (tmp_path / "vda").touch()
    (tmp_path / "ata-X").symlink_to("vda")
    return tmp_path / "ata-X"


@pytest.mark.parametrize("wanted", ["", "root", "3", "4", "vda3", "{folder}/vda3"])
def test_names_that_opening_the_disk_knows_are_taken(disk: Path, wanted: str) -> None:
    install = parse_bootc_install(["to-disk", str(disk)])
    require_opening(install, OpenOptions(root_partition=wanted.format(folder=disk.parent)))


@pytest.mark.parametrize(
    "wanted", ["data", "0", "5", "vdb3", "vda", "ata-X-part3", "{folder}/ata-X-part3"]
)
def test_names_that_lead_to_nothing_later_are_refused(disk: Path, wanted: str) -> None:
    install = parse_bootc_install(["to-disk", str(disk)])
    with pytest.raises(ConfigError, match="ata-X will be called"):
        require_opening(install, OpenOptions(root_partition=wanted.format(folder=disk.parent)))
