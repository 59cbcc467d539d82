"""The stand-in for `bootc install` does to disks and bound images what bootc does."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import osroot
import pytest

from tests.support.commands import run, unshared
from tests.support.disks import FsKind, LoopFsFactory
from tests.support.images import ImageSources
from tests.support.kernel import HIDE_DEVICE_MAPPER
from tests.support.stores import Store, make_store
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real

BOOTC = Path(__file__).parents[2] / "vm-tests/standin/bootc"
DISK_BYTES = 1 << 30  # an ESP of 512 MiB, and a root that xfs accepts
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
STORE = "ostree/bootc/storage"
TO_DISK = ("install", "to-disk", "--via-loopback", "--wipe", "--filesystem=ext4")


def unit(image: str) -> str:
    return f"[Image]\nImage={image}\n"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    image = tmp_path / "disk.img"
    with image.open("wb") as sparse:
        sparse.truncate(DISK_BYTES)
    return image


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A small root that plays `/`, without bound images."""
    return osroot.small_root(tmp_path / "container")


def bind(container: Path, *images: str) -> None:
    """Bind images in a root, by an absolute link each."""
    folder = container / "usr/share/containers/systemd"
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        (folder / f"{number}.image").write_text(unit(image))
        link = container / f"usr/lib/bootc/bound-images.d/{number}.image"
        link.symlink_to(f"/usr/share/containers/systemd/{number}.image")


def bootc(
    *argv: str | Path,
    root: Path,
    store: Store | None = None,
    env: Mapping[str, str] | None = None,
    ok: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    settings = {
        "STANDIN_CONTAINER_ROOT": str(root),
        **(store.env if store else {}),
        **(env or {}),
    }
    return run(unshared((BOOTC, *argv)), env=settings, ok=ok)


def beginning(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(1 << 20)


def partitions(disk: Path) -> dict[str, dict[str, str | int]]:
    table = json.loads(run(("sfdisk", "--json", disk)).stdout)["partitiontable"]
    return {entry["name"]: entry for entry in table["partitions"]}


@contextmanager
def root_of(disk: Path) -> Iterator[Path]:
    """The root partition, mounted read-only."""
    root = partitions(disk)["root"]
    offset, size = int(root["start"]) * 512, int(root["size"]) * 512
    point = disk.with_suffix(".mnt")
    point.mkdir(exist_ok=True)
    options = f"ro,loop,offset={offset},sizelimit={size}"
    run(("mount", "-o", options, disk, point))
    try:
        yield point
    finally:
        run(("umount", point))


def stored_names(physical_root: Path) -> list[str]:
    """Names in the target's store; podman makes the list only when there is an image."""
    records = physical_root / STORE / "overlay-images/images.json"
    if not records.exists():
        return []
    return [name for image in json.loads(records.read_text()) for name in image.get("names", [])]


# --- to-disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_disk_has_bootcs_layout_a_deployment_and_an_empty_store(
    kind: FsKind, disk: Path, container: Path
) -> None:
    argv = ("install", "to-disk", "--via-loopback", f"--filesystem={kind}", "--karg=quiet")
    bootc(*argv, "--target-imgref=quay.io/team/os:1", disk, root=container)
    table = partitions(disk)
    assert list(table) == ["BIOS-BOOT", "EFI-SYSTEM", "root"]
    assert table["root"]["type"] == ROOT_TYPE
    with root_of(disk) as root:
        labelled = run(("findmnt", "-no", "LABEL,FSTYPE,UUID", "--mountpoint", root)).stdout.split()
        assert labelled[:2] == ["root", kind]
        (deployment,) = root.glob("ostree/deploy/default/deploy/*.0")
        assert (deployment / "usr/etc/hostname").read_text() == "small\n"
        origin = deployment.with_name(f"{deployment.name}.origin").read_text()
        assert "quay.io/team/os:1" in origin
        (entry,) = (root / "boot/loader/entries").glob("*.conf")
        assert f"root=UUID={labelled[2]} rw quiet" in entry.read_text()
        assert stored_names(root) == []
        assert (root / STORE / "overlay-images").is_dir()
        assert (root / STORE / ".bootc_labeled").is_file()


def test_stored_copies_by_name(disk: Path, container: Path, image_sources: ImageSources) -> None:
    bind(container, image_sources.web.name, image_sources.app_b.name)
    bootc(*TO_DISK, disk, root=container, store=image_sources.store)
    with root_of(disk) as root:
        assert sorted(stored_names(root)) == sorted(
            (image_sources.web.name, image_sources.app_b.name)
        )
        ids = [
            image["id"]
            for image in json.loads((root / STORE / "overlay-images/images.json").read_text())
        ]
        assert sorted(ids) == sorted((image_sources.web.id, image_sources.app_b.id))


def test_pull_needs_no_source_store(
    disk: Path, container: Path, image_sources: ImageSources, tmp_path: Path
) -> None:
    bind(container, image_sources.pinned.name)
    empty = make_store(tmp_path / "empty", registry=image_sources.registry)
    bootc(*TO_DISK, "--bound-images=pull", disk, root=container, store=empty)
    with root_of(disk) as root:
        assert stored_names(root) == [image_sources.pinned.name]


def test_skip_does_not_even_read_the_declarations(disk: Path, container: Path) -> None:
    (container / "usr/lib/bootc/bound-images.d/README").write_text("no link\n")
    bootc(*TO_DISK, "--bound-images=skip", disk, root=container)
    with root_of(disk) as root:
        assert stored_names(root) == []
        assert (root / STORE / ".bootc_labeled").is_file()


def test_digest_pinned_image_fails_after_the_wipe(
    disk: Path, container: Path, image_sources: ImageSources
) -> None:
    bind(container, image_sources.web_by_digest)
    done = bootc(*TO_DISK, disk, root=container, store=image_sources.store, ok=(1,))
    assert "Destination specifies a digest" in done.stderr
    with root_of(disk) as root:
        # The point of it: a system that boots without its image.
        assert list((root / "boot/loader/entries").glob("*.conf"))
        assert stored_names(root) == []
        assert not (root / STORE / ".bootc_labeled").exists()


def test_missing_image_is_noticed_after_the_wipe(disk: Path, container: Path) -> None:
    bind(container, "localhost/absent:1")
    with disk.open("r+b") as image:
        image.write(b"precious")
    done = bootc(*TO_DISK, disk, root=container, store=make_store(disk.with_name("s")), ok=(1,))
    assert "resolving bound image localhost/absent:1" in done.stderr
    assert "does not resolve to an image ID" in done.stderr
    assert not beginning(disk).startswith(b"precious")
    with root_of(disk) as root:
        assert not (root / "ostree").exists()


def test_unreadable_declaration_is_noticed_after_the_wipe(disk: Path, container: Path) -> None:
    (container / "usr/lib/bootc/bound-images.d/README").write_text("no link\n")
    done = bootc(*TO_DISK, disk, root=container, ok=(1,))
    assert "Not a symlink: README" in done.stderr
    assert "root" in partitions(disk)


def test_disk_in_use_is_refused_without_wipe(disk: Path, container: Path) -> None:
    run(("mkfs.ext4", "-q", "-F", disk))
    before = beginning(disk)
    argv = [word for word in TO_DISK if word != "--wipe"]
    done = bootc(*argv, disk, root=container, ok=(1,))
    assert "Detected existing ext4" in done.stderr
    assert beginning(disk) == before


def test_loop_device_without_partition_scanning(disk: Path, container: Path) -> None:
    device = run(("losetup", "--find", "--show", disk)).stdout.strip()
    try:
        bootc("install", "to-disk", "--filesystem=ext4", device, root=container)
        assert run(("lsblk", "-rno", "NAME", device)).stdout.split() == [Path(device).name]
    finally:
        run(("losetup", "--detach", device))
    with root_of(disk) as root:
        assert (root / "ostree/repo").is_dir()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("DISK",), "Not a block device"),
        (("--via-loopback", "/dev/null"), "Not a regular file"),
        (("--via-loopback", "DISK.absent"), "No such file"),
        (("--block-setup=tpm2-luks", "--via-loopback", "DISK"), "no TPM"),
    ],
    ids=["file", "not-file", "absent", "tpm"],
)
def test_wrong_target_is_untouched(
    argv: Sequence[str], message: str, disk: Path, container: Path
) -> None:
    words = [word.replace("DISK", str(disk)) for word in argv]
    done = bootc("install", "to-disk", "--filesystem=ext4", *words, root=container, ok=(1,))
    assert message in done.stderr
    assert not any(beginning(disk))


LUKS = {"STANDIN_LUKS_PASSPHRASE": "open sesame"}


@pytest.mark.device_mapper
def test_luks(disk: Path, container: Path) -> None:
    bootc(*TO_DISK, disk, root=container, env=LUKS)
    assert list(partitions(disk)) == ["BIOS-BOOT", "EFI-SYSTEM", "boot", "root"]
    offset = int(partitions(disk)["root"]["start"]) * 512
    probe = ("blkid", "-p", "-O", str(offset), "-o", "value", "-s", "TYPE", disk)
    assert run(probe).stdout.strip() == "crypto_LUKS"


def test_luks_where_the_kernel_cannot(disk: Path, container: Path) -> None:
    argv = unshared((BOOTC, *TO_DISK, disk), prelude=f'{HIDE_DEVICE_MAPPER}exec "$@"\n')
    done = run(argv, env={"STANDIN_CONTAINER_ROOT": str(container), **LUKS}, ok=(1,))
    assert "device mapper" in done.stderr
    assert not any(beginning(disk))


# --- sources ---------------------------------------------------------------------------------


def test_source_image_does_not_decide_about_bound_images(
    disk: Path, container: Path, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    declared = osroot.declare(tmp_path / "declared", {"app.image": unit("localhost/absent:1")})
    osroot.import_image(store, container, declared)
    source = f"--source-imgref=containers-storage:{osroot.IMAGE}"
    bootc(*TO_DISK, source, disk, root=container, store=store)
    with root_of(disk) as root:
        (deployment,) = root.glob("ostree/deploy/default/deploy/*.0")
        assert (deployment / "usr/lib/bootc/bound-images.d/app.image").is_symlink()
        assert stored_names(root) == []


def test_image_of_the_running_container_is_the_source(
    disk: Path, container: Path, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    image = osroot.import_image(store, container, osroot.declare(tmp_path / "declared", {}))
    playing = tmp_path / "playing"
    playing.mkdir()
    bootc(*TO_DISK, disk, root=osroot.play_container(playing, image), store=store)
    with root_of(disk) as root:
        (origin,) = root.glob("ostree/deploy/default/deploy/*.origin")
        assert f"containers-storage:{image}" in origin.read_text()


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
def test_layers_of_any_transport_are_unpacked_over_each_other(
    transport: str, disk: Path, container: Path, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "store")
    osroot.import_image(store, container, osroot.declare(tmp_path / "declared", {}), "localhost/a")
    layered = f"{transport}:{tmp_path / 'layered'}:1"
    script = (
        "c=$(buildah from --pull-never localhost/a)\n"
        'm=$(buildah mount "$c")\n'
        'rm "$m/etc/hostname"\n'
        'echo yes >"$m/etc/added"\n'
        'buildah commit -q --rm "$c" localhost/b\n'
        'skopeo copy --quiet "$1" "$2"\n'
    )
    store.run(("sh", "-e", "-c", script, "sh", store.ref("localhost/b"), layered))
    bootc(*TO_DISK, f"--source-imgref={layered}", disk, root=container, store=store)
    with root_of(disk) as root:
        (deployment,) = root.glob("ostree/deploy/default/deploy/*.0")
        assert (deployment / "etc/added").read_text() == "yes\n"
        assert not (deployment / "etc/hostname").exists()
        assert (deployment / "etc/os-release").exists()


# --- other ways to install -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "state"),
    [(("--skip-finalize",), "rw"), ((), "ro")],
    ids=["left open", "finalized"],
)
def test_filesystem_is_finalized_unless_told_otherwise(
    extra: tuple[str, ...], state: str, loop_fs: LoopFsFactory, container: Path
) -> None:
    fs = loop_fs()
    bootc("install", "to-filesystem", *extra, fs.mount, root=container)
    options = run(("findmnt", "-no", "FS-OPTIONS", "--mountpoint", fs.mount)).stdout.split(",")
    assert options[0].strip() == state
    assert (fs.mount / STORE / ".bootc_labeled").is_file()
    bootc("install", "finalize", fs.mount, root=container)


def test_empty_mount_spec_leaves_the_root_to_the_initramfs(
    loop_fs: LoopFsFactory, container: Path
) -> None:
    fs = loop_fs()
    argv = ("install", "to-filesystem", "--root-mount-spec=", "--skip-finalize", fs.mount)
    bootc(*argv, root=container)
    (entry,) = (fs.mount / "boot/loader/entries").glob("*.conf")
    assert "root=" not in entry.read_text()


def test_filled_filesystem_needs_replace(loop_fs: LoopFsFactory, container: Path) -> None:
    fs = loop_fs()
    (fs.mount / "home").mkdir()
    (fs.mount / "home/mine").write_text("mine")
    argv = ("install", "to-filesystem", "--skip-finalize", fs.mount)
    done = bootc(*argv, root=container, ok=(1,))
    assert "Non-empty root filesystem; found 'home'" in done.stderr
    bootc(*argv, "--replace=wipe", root=container)
    assert not (fs.mount / "home").exists()


def test_existing_root_is_kept_beside_and_not_finalized(
    loop_fs: LoopFsFactory, container: Path
) -> None:
    fs = loop_fs()
    (fs.mount / "boot").mkdir()
    (fs.mount / "boot/old").write_text("old")
    (fs.mount / "mine").write_text("mine")
    bootc("install", "to-existing-root", fs.mount, root=container)
    assert (fs.mount / "mine").exists()
    assert not (fs.mount / "boot/old").exists()
    run(("touch", fs.mount / "writable"))


def test_finalize_wants_a_deployment(loop_fs: LoopFsFactory, container: Path) -> None:
    done = bootc("install", "finalize", loop_fs().mount, root=container, ok=(1,))
    assert "Failed to find deployment in" in done.stderr


def test_composefs_ignores_bound_images(disk: Path, container: Path) -> None:
    bind(container, "localhost/absent:1")
    argv = ("--composefs-backend", "--bound-images=stored")
    with disk.open("r+b") as image:
        image.truncate(2 << 30)
    bootc(*TO_DISK, *argv, disk, root=container)
    with root_of(disk) as root:
        assert (root / "ostree/bootc").readlink() == Path("../composefs/bootc")
        assert not (root / "ostree/bootc").exists()
        assert (root / "composefs").stat().st_mode & 0o7777 == 0o700
        assert list((root / "boot/loader/entries").glob("bootc_*.conf"))
        assert not (root / "ostree/repo").exists()


# --- podman as bootc calls it ----------------------------------------------------------------

RECORDER = """\
#!/bin/sh
case "$*" in
*" push "*|*" experimental-image-proxy"*|"experimental-image-proxy"*) ;;
*) exec {podman} "$@" ;;
esac
[ "$1" = image ] || exec {skopeo} "$@"
streams=$(readlink /proc/$$/fd/0 /proc/$$/fd/1)
{{ printf '%s\\n' "$@" "$streams"
test -d /proc/self/fd/3 && echo fd 3 is a directory
grep ' /run/bootc/storage ' /proc/self/mountinfo; }} >{record}
exit 7
"""


def test_push_is_found_through_path_and_sees_the_target(
    disk: Path, container: Path, image_sources: ImageSources, tmp_path: Path
) -> None:
    bind(container, image_sources.web.name)
    tool, record = _recorder(tmp_path, "podman")
    env = {"PATH": f"{tool.parent}:{os.environ['PATH']}"}
    done = bootc(*TO_DISK, disk, root=container, store=image_sources.store, env=env, ok=(1,))
    assert "exit status 7" in done.stderr
    name = image_sources.web.name
    words = record.read_text().splitlines()
    assert words[:-1] == [
        "image",
        "push",
        "--remove-signatures",
        name,
        f"containers-storage:[overlay@/run/bootc/storage+/proc/self/fd/3]{name}",
        "/dev/null",
        "/dev/null",
        "fd 3 is a directory",
    ]
    assert words[-1].split()[3:5] == ["/ostree/bootc/storage", "/run/bootc/storage"]


@pytest.mark.parametrize(("version", "code"), [("1.16.0", 1), ("1.15.2", 0)])
def test_external_tool_takes_the_place_of_podman_and_skopeo(
    version: str, code: int, disk: Path, container: Path, image_sources: ImageSources
) -> None:
    bind(container, image_sources.web.name)
    tool, record = _recorder(disk.parent, "tool")
    env = {"BOOTC_EXP_EXTERNAL_CONTAINER_TOOL": str(tool), "STANDIN_VERSION": version}
    bootc(*TO_DISK, disk, root=container, store=image_sources.store, env=env, ok=(code,))
    assert record.exists() == bool(code)


def _recorder(tmp_path: Path, name: str) -> tuple[Path, Path]:
    tool, record = tmp_path / "first" / name, tmp_path / "record"
    tool.parent.mkdir()
    podman, skopeo = (run(("which", program)).stdout.strip() for program in ("podman", "skopeo"))
    tool.write_text(RECORDER.format(podman=podman, skopeo=skopeo, record=record))
    tool.chmod(0o755)
    return tool, record


# --- what callers depend on ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("1.16.9", "--bound-images=skip"), ("1.1.2", "--skip-bound-images"), ("0.1.13", None)],
    ids=["now", "older", "before"],
)
def test_version_decides_the_spelling(version: str, accepted: str | None, container: Path) -> None:
    env = {"STANDIN_VERSION": version}
    told = bootc("--version", root=container, env=env).stdout
    assert told == f"bootc {version} (test stand-in)\n"
    text = bootc("install", "to-disk", "--help", root=container, env=env).stdout
    assert ("--bound-images" in text) == (version == "1.16.9")
    assert "--skip-bound-images" not in text
    assert "tand-in" in text
    for option in ("--bound-images=skip", "--skip-bound-images"):
        argv = ("install", "to-disk", "--filesystem=ext4", option, "/dev/null")
        code = 1 if option == accepted else 2
        bootc(*argv, root=container, env=env, ok=(code,))


@pytest.mark.parametrize(
    "step", ["resolve", "store", "deploy", "bootloader", "bound-images", "finalize"]
)
def test_failure_on_demand_closes_everything(step: str, disk: Path, container: Path) -> None:
    done = bootc(*TO_DISK, disk, root=container, env={"STANDIN_FAIL_AT": step}, ok=(1,))
    assert f"failing before {step}" in done.stderr
    with root_of(disk) as root:
        entries = list(root.glob("boot/loader/entries/*.conf"))
        assert bool(entries) == (step in ("bootloader", "bound-images", "finalize"))


def test_terminated_run_leaves_no_device(
    disk: Path, container: Path, image_sources: ImageSources, tmp_path: Path
) -> None:
    bind(container, image_sources.web.name)
    tool, _ = _recorder(tmp_path, "podman")
    hangs = tmp_path / "hangs"
    # What the tool has started has ended by then: it would keep the target busy when it is killed.
    tool.write_text(tool.read_text().replace("exit 7", f": >{hangs}\nexec sleep 60"))
    env = {
        **os.environ, **image_sources.store.env, "STANDIN_CONTAINER_ROOT": str(container),
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    with subprocess.Popen(
        (BOOTC, *TO_DISK, disk),
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        wait_until(lambda: hangs.exists() or process.poll() is not None)
        process.terminate()
        process.stdout.read()
    assert process.returncode == 143
    assert str(disk) not in run(("losetup", "--list", "--noheadings")).stdout
