"""The fixtures are what they say, seen by the machine's podman and by that of Debian 13."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support import crafted, tricky
from tests.support.commands import CommandError, run
from tests.support.debian import QUADLET, DebianRoot
from tests.support.disks import MKFS, FsKind, LoopFsFactory
from tests.support.images import ImageSources
from tests.support.leftovers import SESSION_VARIABLE, Machine, leftovers
from tests.support.sources import SourceRootBuilder
from tests.support.stores import StoredImage
from tests.support.waiting import wait_until


def _diff(sources: ImageSources, image: StoredImage) -> Path:
    """Find the top layer's tree of an image in the store."""
    records = json.loads((sources.store.root / "overlay-images/images.json").read_text())
    (layer,) = (str(record["layer"]) for record in records if record["id"] == image.id)
    return sources.store.root / "overlay" / layer / "diff"


def _names(sources: ImageSources) -> list[str]:
    return [
        *(image.name for image in sources.images()),
        *(name for image in sources.images() for name in image.repo_digests),
        *(image.id for image in sources.images()),
        sources.web_by_digest,
        f"{sources.registry}/team/multi@{sources.multi_list_digest}",
    ]


def test_store_resolves_every_name_digest_and_id(image_sources: ImageSources) -> None:
    missing = [name for name in _names(image_sources) if not image_sources.store.exists(name)]
    assert missing == []
    assert not image_sources.store.exists("localhost/absent:1")


def test_debian_podman_finds_the_same_images_in_an_additional_store(
    image_sources: ImageSources, debian_root: DebianRoot
) -> None:
    script = (
        "for name; do podman --root /run/empty --runroot /run/r --storage-opt "
        'additionalimagestore=/store image exists "$name" || echo "$name"; done'
    )
    names = [*_names(image_sources), "localhost/absent:1"]
    ro = {"/store": image_sources.store.root}
    done = debian_root.run(("sh", "-c", script, "sh", *names), ro=ro)
    assert done.stdout.split() == ["localhost/absent:1"]


def test_debian_root_has_podman_5_and_stays_as_it_is(debian_root: DebianRoot) -> None:
    version = debian_root.run(("podman", "--version")).stdout.split()[-1]
    assert version.startswith("5.")
    debian_root.run(("sh", "-c", "echo changed > /etc/changed; mkdir /new"))
    assert not (debian_root.root / "etc/changed").exists()
    assert not (debian_root.root / "new").exists()
    assert list(debian_root.scratch.iterdir()) == []


def test_debian_root_uses_the_machine_s_devices_and_cannot_replace_them(
    debian_root: DebianRoot,
) -> None:
    script = "echo x >/dev/null; mv /dev/null /dev/gone; touch /dev/new; ls /dev"
    there = debian_root.run(("sh", "-c", script)).stdout.split()
    assert "null" in there
    assert not {"gone", "new"} & set(there)


def test_debian_podman_describes_an_image_of_bootc_storage(
    image_sources: ImageSources, debian_root: DebianRoot
) -> None:
    done = debian_root.run(
        ("podman", "--storage-opt", "additionalimagestore=/usr/lib/bootc/storage",
         "image", "inspect", "--format={{.Id}} {{.Digest}}", image_sources.extra.name),
        ro={"/usr/lib/bootc/storage": image_sources.extra_store.root},
    )  # fmt: skip
    assert done.stdout.split() == [image_sources.extra.id, image_sources.extra.digest]


def test_debian_quadlet_reads_a_source_root(
    debian_root: DebianRoot, source_root: SourceRootBuilder
) -> None:
    root = source_root({"app.container": "[Container]\nImage=localhost/app-a:1\n"})
    units = root / "usr/share/containers/systemd"
    done = debian_root.run(
        (QUADLET, "-dryrun"), ro={"/units": units}, env={"QUADLET_UNIT_DIRS": "/units"}
    )
    assert "---app.service---" in done.stdout
    assert "localhost/app-a:1" in done.stdout


def test_apps_share_the_base_layer(image_sources: ImageSources) -> None:
    (base,) = image_sources.base.diff_ids
    for app in (image_sources.app_a, image_sources.app_b):
        assert app.diff_ids[0] == base
        assert len(app.diff_ids) == 2


def test_web_came_compressed_and_has_both_names(image_sources: ImageSources) -> None:
    store = image_sources.store
    manifest = store.root / "overlay-images" / image_sources.web.id / "manifest"
    layers = json.loads(manifest.read_text())["layers"]
    assert all(layer["mediaType"].endswith("gzip") for layer in layers)
    seen = json.loads(store.podman("images", "--format=json", "--filter=reference=*/team/web"))
    assert {name for image in seen for name in image["Names"]} == {
        image_sources.web.name,
        image_sources.web_by_digest,
    }


def test_pinned_has_no_tag(image_sources: ImageSources) -> None:
    store = image_sources.store
    seen = json.loads(store.podman("images", "--format=json", "--filter=reference=*/team/pinned"))
    assert [image["Names"] for image in seen] == [[image_sources.pinned.name]]
    assert "@sha256:" in image_sources.pinned.name


def test_multi_knows_its_list_and_its_own_manifest(image_sources: ImageSources) -> None:
    repository = f"{image_sources.registry}/team/multi"
    assert f"{repository}@{image_sources.multi_list_digest}" in image_sources.multi.repo_digests
    assert len(image_sources.multi.repo_digests) == 2
    raw = image_sources.store.skopeo(
        "inspect", "--raw", "--tls-verify=false", f"docker://{repository}:1"
    )
    assert len(json.loads(raw)["manifests"]) == 2


def test_local_list_is_a_record_without_layers(image_sources: ImageSources) -> None:
    records = json.loads((image_sources.store.root / "overlay-images/images.json").read_text())
    (record,) = (r for r in records if image_sources.local_list in r.get("names", ()))
    assert "layer" not in record


def test_extra_is_only_in_its_own_store(image_sources: ImageSources) -> None:
    assert image_sources.extra_store.exists(image_sources.extra.name)
    assert not image_sources.store.exists(image_sources.extra.name)
    found = image_sources.store.run(
        ("podman", "--storage-opt", f"additionalimagestore={image_sources.extra_store.root}",
         "image", "exists", image_sources.extra.name),
    )  # fmt: skip
    assert found.returncode == 0


def test_app_a_has_the_tricky_files(image_sources: ImageSources) -> None:
    top = _diff(image_sources, image_sources.app_a)
    assert os.getxattr(top / "data/opaque", "trusted.overlay.opaque") == b"y"
    whiteout = (top / "etc/removed").lstat()
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0
    opt = top / "opt"
    assert os.getxattr(opt / "capable", "security.capability") == tricky.CAPABILITY
    assert os.getxattr(opt / "user-xattr", "user.note") == b"binary \x00\xff value"
    assert stat.S_IMODE((opt / "setuid").stat().st_mode) == 0o4755
    assert (opt / "hard-1").stat().st_nlink == 3
    assert (opt / "sparse").stat().st_blocks * 512 < tricky.SPARSE_SIZE
    assert (opt / "sparse").stat().st_size == tricky.SPARSE_SIZE
    assert (opt / "fifo").is_fifo()
    assert (opt / "null").is_char_device()
    assert (opt / "block").is_block_device()
    assert (opt / os.fsdecode(tricky.NON_UTF8_NAME)).is_file()
    assert len(tricky.LONG_PATH) > 255
    assert (top / tricky.LONG_PATH).is_file()
    assert (opt / "links/absolute").readlink() == Path("/etc/os-release")


def test_crafted_keeps_what_only_a_hand_written_tar_has(image_sources: ImageSources) -> None:
    upper = _diff(image_sources, image_sources.crafted)
    (lower,) = image_sources.store.root.glob("overlay/*/diff/etc/precise")
    assert lower.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert os.getxattr(lower.parent / "capable", "security.capability") == tricky.CAPABILITY
    assert (lower.parent / "large-owner").stat().st_uid == 3_000_000_000
    assert (lower.parent / os.fsdecode(tricky.NON_UTF8_NAME)).is_file()
    assert (upper / "usr/bin/first").stat().st_nlink == 2
    assert os.getxattr(upper / "etc/opaque", "trusted.overlay.opaque") == b"y"
    assert image_sources.crafted.diff_ids == tuple(
        crafted.diff_id(crafted.layer_tar(entries)) for entries in (crafted.LOWER, crafted.UPPER)
    )


def test_exports_hold_the_images_they_name(image_sources: ImageSources) -> None:
    skopeo = image_sources.store.skopeo
    config = json.loads(skopeo("inspect", "--config", image_sources.oci))
    assert tuple(config["rootfs"]["diff_ids"]) == image_sources.app_a.diff_ids
    config = json.loads(skopeo("inspect", "--config", image_sources.oci_archive))
    assert tuple(config["rootfs"]["diff_ids"]) == image_sources.app_b.diff_ids
    digest = skopeo("inspect", "--format={{.Digest}}", image_sources.dir)
    assert digest == image_sources.web.digest


def test_machine_store_is_never_touched(image_sources: ImageSources) -> None:
    machine = Path("/var/lib/containers")
    before = sorted(machine.rglob("*"))
    image_sources.store.skopeo("inspect", image_sources.store.ref(image_sources.web.name))
    assert sorted(machine.rglob("*")) == before


@pytest.mark.parametrize("kind", list(MKFS))
def test_loop_fs_is_mounted_and_can_be_read_only(kind: FsKind, loop_fs: LoopFsFactory) -> None:
    disk = loop_fs(kind)
    assert disk.kind == kind
    (disk.mount / "file").write_text("kept")
    os.sync()
    snapshot = disk.snapshot(disk.image.with_suffix(".copy"))
    disk.remount(read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (disk.mount / "file").write_text("lost")
    disk.remount(read_only=False)
    (disk.mount / "later").touch()
    if kind != "btrfs":  # one kernel does not mount two btrfs with the same identity
        copy = loop_fs.attach(snapshot)
        assert (copy.mount / "file").read_text() == "kept"
        assert not (copy.mount / "later").exists()


def test_source_root_binds_units_by_default_and_links_on_demand(
    source_root: SourceRootBuilder,
) -> None:
    root = source_root({"a.image": "[Image]\n", "a.image.d/10.conf": "[Image]\n", "b.kube": ""})
    links = root / "usr/lib/bootc/bound-images.d"
    assert {link.name: str(link.readlink()) for link in links.iterdir()} == {
        "a.image": "/usr/share/containers/systemd/a.image"
    }
    other = source_root({"/etc/file": "text"}, links={"b.image": "/nowhere"})
    assert (other / "etc/file").read_text() == "text"
    assert (other / "usr/lib/bootc/bound-images.d/b.image").is_symlink()


def test_leftovers_names_mount_loop_and_process(loop_fs: LoopFsFactory, tmp_path: Path) -> None:
    before = Machine.now()
    disk = loop_fs("ext4")
    with subprocess.Popen(("sleep", "60"), env={**os.environ, SESSION_VARIABLE: "mine"}) as process:
        # Until then it is on its way from fork to exec.
        wait_until(Path(f"/proc/{process.pid}/environ").read_bytes, "its start")
        found = leftovers(before, "mine", (tmp_path,), alone=False)
        process.kill()
    assert [line.split()[0] for line in found] == ["loop", "mount", "process"]
    assert str(disk.image) in found[0]
    assert str(disk.mount) in found[1]
    assert str(process.pid) in found[2]


def test_a_failing_command_says_what_it_printed() -> None:
    with pytest.raises(CommandError, match=r"exit code 3: sh -c(?s:.*)reason"):
        run(("sh", "-c", "echo reason >&2; exit 3"))
