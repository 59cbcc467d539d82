"""The product inside of a guest: as an installer, and as a unit at boot."""

import stat
from pathlib import Path

import guest
import osroot
import pytest
from command import REPOSITORY, STANDIN
from diskimage import boot_entry, file_system, mounted, partitions
from guest import FULL, MICRO
from machine import Drive, GuestError
from proof import assert_runs_bound_images
from scene import (
    IN_STORE,
    STORE,
    UNITS_OF_APPS,
    WEB,
    WORKER,
    Scene,
    bind_units,
    os_with,
    product_files,
)
from test_boot import flip_a_byte

from tests.support.commands import run

pytestmark = pytest.mark.slow

USAGE = 2
PRODUCT = "python3 -m installer_plugin"
BOUND_STORE = "--store /usr/lib/bootc/storage"
TARGET = "/dev/vdc"
TO_TARGET = f"to-disk --wipe --filesystem=ext4 {TARGET}"
# Without udev nothing loads the module when a loop device is asked for.
SETUP = "modprobe loop; export PATH=/run/micro/standin:$PATH PYTHONPATH=/run/micro; "
INSTALL_SECONDS = 600

SMALL = "/run/micro/small"
AS_SMALL = f"{SETUP} export STANDIN_CONTAINER_ROOT={SMALL}; "
INSTALLATIONS = {
    "install": f"{AS_SMALL} {PRODUCT} install --source-root {SMALL} {BOUND_STORE} {TO_TARGET}",
    # Nobody unmounts or freezes the target here, and the kernel does not write by itself what has
    # waited for some seconds: that it is on the disk is all ours.
    "copy": (
        f"{AS_SMALL} bootc install {TO_TARGET} --bound-images=skip && "
        "echo 0 >/proc/sys/vm/dirty_writeback_centisecs && "
        f"mkdir /run/target && mount -o commit=600 {TARGET}3 /run/target && "
        f"{PRODUCT} copy {BOUND_STORE} {SMALL} /run/target"
    ),
}


IN_GUEST_STANDIN = pytest.mark.standin(
    "the guest installs a directory that plays a container, which only the stand-in takes"
)


@IN_GUEST_STANDIN
@pytest.mark.parametrize("way", INSTALLATIONS)
def test_power_cut_after_success(way: str, good_disk: Path, stage: Scene) -> None:
    """the power fails right after success was reported: the disk verifies"""
    target = stage.new_disk("target.img")
    files = files_with_small_os(stage)
    # A guest that came to its end would flush everything before it powers off.
    program = guest.script({"install": INSTALLATIONS[way], "never": "sleep infinity"})
    drives = [Drive(good_disk), Drive(target, writable=True)]
    machine = stage.machine(drives, program, how=MICRO, files=files)
    with stage.clock.step("install in the guest"), machine:
        machine.await_line("=install", INSTALL_SECONDS)
        machine.cut_power()
    assert "=install 0" in machine.said().splitlines(), machine.said()
    replay_journal(target)
    boot_entry(target, stage.folder)
    assert "2 images verified" in stage.verify(target, ok=0).stdout


def files_with_small_os(stage: Scene) -> dict[str, Path]:
    """For a guest that installs: the product, the stand-in and an OS that takes no time."""
    small = osroot.small_root(stage.folder / "small")
    bind_units(small, UNITS_OF_APPS)
    return {**product_files(), "small": small, "standin": STANDIN}


def replay_journal(disk: Path) -> None:
    """As the first boot would: a file system that nobody unmounted is not opened for reading."""
    with mounted(disk, writable=True):
        pass


# The running system is the image, without what was mounted over it and what ostree made of /etc.
ENCRYPTED_INSTALLATION = (
    f"{SETUP} mkdir /run/image && mount --bind / /run/image && "
    "mount -t tmpfs tmpfs /run/image/usr/etc && "
    "export STANDIN_CONTAINER_ROOT=/run/image STANDIN_LUKS_PASSPHRASE=$(cat passphrase) && "
    f"{PRODUCT} install --source-root /run/image {BOUND_STORE} --passphrase-file passphrase "
    f"{TO_TARGET}"
)
ROOMY_MEBIBYTES = 2560
"""The image is unpacked in memory."""


@pytest.mark.standin("bootc encrypts for a TPM only, which the guest does not have")
def test_encrypted_root(good_disk: Path, stage: Scene) -> None:
    """LUKS2: installed, opened, proven, booted by its passphrase alone"""
    right, wrong = stage.folder / "right", stage.folder / "wrong"
    right.write_text("correct horse")
    wrong.write_text("battery staple")
    target = stage.new_disk("target.img")
    files = {**product_files(), "standin": STANDIN, "passphrase": right, "wrong": wrong}
    verify = f"{SETUP} {PRODUCT} verify {TARGET} --passphrase-file"
    questions = {
        "install": ENCRYPTED_INSTALLATION,
        "verify": f"{verify} passphrase",
        "wrong": f"{verify} wrong",
    }
    drives = [Drive(good_disk), Drive(target, writable=True)]
    program = guest.script(questions)
    machine = stage.machine(drives, program, how=MICRO, files=files, mebibytes=ROOMY_MEBIBYTES)
    with stage.clock.step("install in the guest"), machine:
        said = guest.answers(machine.finish(INSTALL_SECONDS))
    assert said["install"].code == 0, said["install"].text
    assert said["verify"].code == 0, said["verify"].text
    assert "2 images verified" in said["verify"].text
    assert said["wrong"].code == USAGE, said["wrong"].text
    assert file_system(target, partitions(target)["root"]) == "crypto_LUKS"

    root = {"root": "lsblk --noheadings --output=TYPE $(findmnt -no SOURCE /sysroot)"}
    said = assert_runs_bound_images(stage, target, root, {"passphrase": right})
    assert said["root"].lines == ["crypt"], said["root"].text

    with pytest.raises(GuestError, match="the passphrase does not open"):
        stage.boot(target, {"never": "true"}, files={"passphrase": wrong})


# The volume is there before bootc runs, which makes none itself.
ON_A_VOLUME = {
    "prepare": (
        "export DM_DISABLE_UDEV=1 && modprobe dm_mod && "
        f"printf 'label: gpt\\ntype=lvm\\n' | sfdisk --quiet {TARGET} && "
        f"pvcreate {TARGET}1 && vgcreate system {TARGET}1 && "
        "lvcreate --extents=100%FREE --name=root system && mkfs.ext4 -q -L root /dev/system/root && "
        "mkdir /run/target && mount /dev/system/root /run/target"
    ),
    "install": (
        f"{AS_SMALL} {PRODUCT} install --source-root {SMALL} {BOUND_STORE} "
        "to-filesystem /run/target"
    ),
    "close": "umount /run/target && DM_DISABLE_UDEV=1 vgchange --activate=n system",
    "verify": f"{SETUP} {PRODUCT} verify {TARGET}",
    "left": "lsblk --noheadings --raw --output=TYPE /dev/vdc",
}


@IN_GUEST_STANDIN
def test_logical_volume(good_disk: Path, stage: Scene) -> None:
    """a volume of LVM: installed to, then found on its disk and proven"""
    drives = [Drive(good_disk), Drive(stage.new_disk("target.img"), writable=True)]
    program = guest.script(ON_A_VOLUME)
    machine = stage.machine(drives, program, how=MICRO, files=files_with_small_os(stage))
    with stage.clock.step("install in the guest"), machine:
        said = guest.answers(machine.finish(INSTALL_SECONDS))
    failed = {name: answer.text for name, answer in said.items() if answer.code != 0}
    assert not failed
    assert "2 images verified" in said["verify"].text
    assert said["left"].lines == ["disk", "part"], "the volume is active still"


def test_store_survives_its_use(good_disk: Path, stage: Scene) -> None:
    """after podman has run containers from it, the store verifies and runs"""
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


SERVICE = "bound-images-verify.service"
IN_GUEST = Path("usr/lib/systemd/system")
# Only the binary directories of the guest's PATH; python3 finds the product beside itself.
PROGRAM = """\
#!/usr/bin/python3
from installer_plugin.cli import main

main()
"""


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
    "proven": "cat /var/lib/bootc-bound-images/proven.json",
}


def test_service_verifies_at_boot(os_with_service: Path, stage: Scene) -> None:
    """our unit verifies at boot: a unit with a flipped byte does not start"""
    disk = stage.new_disk()
    stage.install(os_with_service, disk)
    said = stage.boot(disk, QUESTIONS, how=FULL)
    assert said["verify"].lines == ["active"], said["journal"].text
    assert said["web"].lines == ["active"], said["failed"].text
    assert said["stamp"].lines == ["proven.json"]
    with mounted(disk) as root:
        (deployment,) = (root / "ostree/deploy").glob("*/deploy/*.[0-9]")
    assert f'"{deployment.name}"' in said["proven"].text

    with mounted(disk, writable=True) as root:
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
