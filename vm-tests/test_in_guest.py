"""The product inside of a guest: as an installer whose power fails, and as a unit at boot."""

import stat
from pathlib import Path

import guest
import osroot
import pytest
from diskimage import boot_entry, mounted_root
from guest import FULL, MICRO
from machine import Drive
from scene import (
    IN_STORE,
    REPOSITORY,
    STANDIN,
    STORE,
    UNITS_OF_APPS,
    WEB,
    WORKER,
    Scene,
    os_with,
    product_files,
)
from test_boot import flip_a_byte

from tests.commands import run
from tests.sources import LINKS, UNITS

pytestmark = pytest.mark.slow

SERVICE = "bound-images-verify.service"
IN_GUEST = Path("usr/lib/systemd/system")
# Only the binary directories of the guest's PATH; python3 finds the product beside itself.
PROGRAM = """\
#!/usr/bin/python3
from installer_plugin.cli import main

main()
"""
# Without udev nothing loads the module when a loop device is asked for.
INSTALL_IN_GUEST = (
    "modprobe loop; "
    "STANDIN_CONTAINER_ROOT=/run/micro/small PATH=/run/micro/standin:$PATH PYTHONPATH=/run/micro "
    "python3 -m installer_plugin install --source-root /run/micro/small "
    "--store /usr/lib/bootc/storage to-disk --wipe --filesystem=ext4 /dev/vdc"
)
INSTALL_SECONDS = 300


def test_power_cut_after_success(good_disk: Path, stage: Scene) -> None:
    """the power fails in the moment in which an installer reports success: its disk verifies"""
    small = osroot.small_root(stage.folder / "small")
    for name, text in UNITS_OF_APPS.items():
        (small / UNITS).mkdir(parents=True, exist_ok=True)
        (small / UNITS / name).write_text(text)
        (small / LINKS / name).symlink_to(f"/{UNITS / name}")
    target = stage.new_disk("target.img")
    files = {**product_files(), "small": small, "standin": STANDIN}
    program = guest.script({"install": INSTALL_IN_GUEST})
    machine = stage.machine(
        Drive(good_disk), program, how=MICRO, files=files, extra=(Drive(target, writable=True),)
    )
    with stage.clock.step("install in the guest"), machine:
        machine.await_line("=install", INSTALL_SECONDS)
        machine.cut_power()
    assert "=install 0" in machine.said().splitlines(), machine.said()
    boot_entry(target, stage.folder)
    assert "2 images verified" in stage.verify(target, ok=0).stdout


def test_store_survives_its_use(good_disk: Path, stage: Scene) -> None:
    """after a boot in which podman ran containers from it, the store verifies and runs again"""
    disk = stage.copy(good_disk)
    questions = {
        "web": "systemctl is-active web.service",
        "worker": f"{IN_STORE} run --rm --pull=never --network=none {WORKER}",
        "listed": f"{IN_STORE} images --format '{{{{.Repository}}}}:{{{{.Tag}}}}'",
    }
    for _ in ("first boot", "second boot"):
        said = stage.boot(disk, questions, how=FULL, writable=True)
        assert said["web"].lines == ["active"]
        assert said["worker"].lines == [f"this is {WORKER}"]
        assert sorted(said["listed"].lines) == [WEB, WORKER]
    assert "2 images verified" in stage.verify(disk, ok=0).stdout


@pytest.fixture(scope="module")
def os_with_service(system: Path, work: Path) -> Path:
    """The OS with our unit, which the Quadlet unit requires, and the product."""
    requires = f"[Unit]\nRequires={SERVICE}\nAfter={SERVICE}\n"
    units = {**UNITS_OF_APPS, "web.container": requires + UNITS_OF_APPS["web.container"]}
    root = os_with(system, work / "os-with-service", units)
    run(("cp", REPOSITORY / "hooks/systemd" / SERVICE, root / IN_GUEST))
    wants = root / IN_GUEST / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / SERVICE).symlink_to(f"../{SERVICE}")
    packages = root / "usr/lib/python3/dist-packages"
    run(("cp", "--recursive", REPOSITORY / "installer_plugin", packages))
    program = root / "usr/bin/bootc-bound-images"
    program.write_text(PROGRAM)
    program.chmod(stat.S_IMODE((root / "usr/bin/python3").stat().st_mode))
    return root


QUESTIONS = {
    "verify": f"systemctl is-active {SERVICE}",
    "web": "systemctl is-active web.service",
    "failed": "systemctl --failed --no-legend --plain",
    "journal": f"journalctl --no-pager --output=cat -u {SERVICE}",
    "stamp": "ls /var/lib/bootc-bound-images",
}


def test_service_verifies_at_boot(os_with_service: Path, stage: Scene) -> None:
    """our unit verifies at boot: good images start, an image with a flipped byte does not"""
    disk = stage.new_disk()
    stage.install(os_with_service, disk)
    said = stage.boot(disk, QUESTIONS, how=FULL)
    assert said["verify"].lines == ["active"], said["journal"].text
    assert said["web"].lines == ["active"], said["failed"].text
    assert said["stamp"].lines == ["verified"]

    with mounted_root(disk, writable=True) as root:
        contents = (root / STORE / "overlay").glob("*/diff/content")
        flip_a_byte(next(file for file in contents if WEB in file.read_text()))
    said = stage.boot(disk, QUESTIONS, how=FULL)
    assert said["verify"].lines == ["failed"]
    assert said["web"].lines == ["inactive"]
    assert [line.split()[0] for line in said["failed"].lines] == [SERVICE]
    assert any(WEB in line and "/content" in line for line in said["journal"].lines), said[
        "journal"
    ]
    assert said["stamp"].lines == []
