"""`containers-storage:REFERENCE` as a source: the stored image's files, mounted for nobody else."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.files.scratch import PREFIX
from installer_plugin.process.runner import Runner
from installer_plugin.stages.discover import discover
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.local import open_local_stores
from installer_plugin.storage.source.overlay_mount import mounted_layers
from installer_plugin.storage.store.records import LayerRecord
from tests.support.commands import run, unshared
from tests.support.sources import SourceRootBuilder
from tests.support.stores import Store, make_store
from tests.support.waiting import wait_until

REFERENCE = "localhost/os:1"
CONTAINER = "[Container]\nImage=quay.io/team/web:1\n"
IMAGE = "[Image]\nImage=localhost/app:1\nImageTag=localhost/other:1\n"


def _mounts() -> str:
    return run(("cut", "-d", " ", "-f4-", "/proc/self/mountinfo")).stdout


@pytest.fixture
def root(source_root: SourceRootBuilder) -> Path:
    return source_root({"web.container": CONTAINER, "app.image": IMAGE, "unbound.d/x": ""})


@pytest.fixture
def store(root: Path, tmp_path: Path) -> Store:
    """A store with an OS image in two layers: the upper one takes a file away, and adds one."""
    store = make_store(tmp_path / "os")
    (root / "usr/share/containers/systemd/gone.image").write_text(IMAGE)
    (root / "usr/lib/bootc/bound-images.d/gone.image").symlink_to("/absent")
    os_image = f"FROM scratch\nCOPY {root.name} /\n"
    (root.parent / "Containerfile").write_text(os_image)
    ignored = "\n".join(("*", f"!{root.name}", "!late.container"))
    (root.parent / ".containerignore").write_text(ignored)
    build = ("build", "--quiet", "--isolation=chroot", "--layers")
    store.podman(*build, "--tag=localhost/os-base:1", str(root.parent))
    (root / "usr/share/containers/systemd/gone.image").unlink()
    (root / "usr/lib/bootc/bound-images.d/gone.image").unlink()
    script = (
        "set -e\ncontainer=$(buildah from --pull-never localhost/os-base:1)\n"
        'tree=$(buildah mount "$container")\n'
        'cd "$tree/usr" && rm share/containers/systemd/gone.image lib/bootc/bound-images.d/gone.image\n'
        "cd /\n"
        'buildah umount "$container"\n'
        f'buildah commit --quiet --rm "$container" {REFERENCE}\n'
    )
    store.run(("sh", "-c", script))
    return store


def _layers(store: Store) -> tuple[tuple[Path, LayerRecord], ...]:
    with open_local_stores([store.root], RegistriesConf(aliases={})) as stores:
        layers = stores.image_layers(REFERENCE)
    assert layers is not None
    return layers


def _cli(*args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "installer_plugin", *args)


def test_stored_image_gives_the_list_of_its_directory(store: Store, root: Path) -> None:
    before = _mounts()
    lists = [
        run(unshared(_cli("list", "--format=json", source)), env=store.env).stdout.replace(
            source, "SOURCE"
        )
        for source in (str(root), f"containers-storage:{REFERENCE}")
    ]
    assert lists[0] == lists[1]
    assert "quay.io/team/web:1" in lists[0]
    assert "gone" not in lists[0]
    assert _mounts() == before
    assert list(store.settings.glob(f"{PREFIX}*")) == []


def test_image_is_read_through_a_descriptor_alone(store: Store, root: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = _mounts()
    with mounted_layers(_layers(store), "os", scratch, Runner()) as mounted:
        assert _mounts() == before
        assert list((scratch / "mounted").iterdir()) == []
        with Rootfs.open(root) as plain:
            assert discover(mounted).images == discover(plain).images
        with pytest.raises(OSError, match="Read-only"):
            os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=mounted._fd))
    shutil.rmtree(scratch)
    assert _mounts() == before


def test_kill_leaves_no_mount_and_no_process(store: Store, tmp_path: Path) -> None:
    """The scratch directory stays, for the next run to remove."""
    script = (
        "import sys, time, tempfile, pathlib\n"
        "from installer_plugin.process.runner import Runner\n"
        "from installer_plugin.files import scratch\n"
        "from installer_plugin.storage.source import overlay_mount as mounted\n"
        "from tests.storage.test_overlay_mount import _layers, Store\n"
        "base = pathlib.Path(sys.argv[1])\n"
        "store = Store(root=base / 'root', runroot=base / 'run', settings=base / 'settings')\n"
        "with scratch.scratch_directory(pathlib.Path(sys.argv[2])) as place:\n"
        "    with mounted.mounted_layers(_layers(store), 'os', place, Runner()) as root:\n"
        "        print(root.list('usr/lib/bootc'), flush=True)\n"
        "        time.sleep(600)\n"
    )
    before = _mounts()
    argv = (sys.executable, "-c", script, str(store.root.parent), str(tmp_path))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "('bound-images.d',)\n"
        process.send_signal(signal.SIGKILL)
    assert _mounts() == before
    (left,) = tmp_path.glob(f"{PREFIX}*")
    shutil.rmtree(left)
    shutil.rmtree(store.root)  # would be busy if something were mounted on it


def test_kill_while_mounting_leaves_no_mount_and_no_process(store: Store, tmp_path: Path) -> None:
    argv = _cli("list", f"containers-storage:{REFERENCE}")
    before = _mounts()
    for step in range(8):
        with subprocess.Popen(
            argv,
            env={**os.environ, **store.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            wait_until(lambda: list(store.settings.glob(f"{PREFIX}*")), "its scratch directory")
            time.sleep(0.02 * step)
            process.send_signal(signal.SIGKILL)
    wait_until(lambda: not _holders(store), "the end of all processes")
    assert _mounts() == before
    run(argv, env=store.env)
    assert list(store.settings.glob(f"{PREFIX}*")) == []


def _holders(store: Store) -> list[str]:
    """Processes that have something of the store's scratch directory in their command."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{store.settings}/{PREFIX}" in text:
            found.append(text)
    return found


def test_image_that_is_absent_is_told_with_the_stores(store: Store) -> None:
    done = run(_cli("list", "containers-storage:localhost/absent:1"), env=store.env, ok=(2,))
    assert f"is in none of {store.root}" in done.stderr
    assert "podman pull localhost/absent:1" in done.stderr


def test_image_is_told_to_be_absent_where_there_is_no_store(store: Store, tmp_path: Path) -> None:
    conf = tmp_path / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{tmp_path}/absent"\n')
    env = {**store.env, "CONTAINERS_STORAGE_CONF": str(conf)}
    done = run(_cli("list", "containers-storage:localhost/absent:1"), env=env, ok=(2,))
    assert "cannot be looked for: no local store is here" in done.stderr


def test_layer_that_is_gone_is_a_data_error(store: Store, tmp_path: Path) -> None:
    layers = _layers(store)
    shutil.rmtree(store.root / "overlay" / layers[-1][1].id / "diff")
    with (
        pytest.raises(DataError, match="is missing, expected a layer's directory"),
        mounted_layers(layers, "os", tmp_path, Runner()),
    ):
        pytest.fail("was entered")


@pytest.mark.parametrize("place", ["overlay", "overlay/ID", "overlay/ID/diff"])
@pytest.mark.parametrize("kind", ["link", "link within", "file", "fifo"])
def test_store_that_leads_elsewhere_is_not_mounted(
    kind: str, place: str, store: Store, tmp_path: Path
) -> None:
    """What is behind a link would be read as the OS image's own files."""
    layers = _layers(store)
    path = store.root / place.replace("ID", layers[0][1].id)
    moved = path.with_name("moved") if kind == "link within" else tmp_path / "moved"
    path.rename(moved)
    if kind == "file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(moved.name if kind == "link within" else moved)
    expected = {"file": "regular file", "fifo": "fifo"}.get(kind, "symbolic link")
    with (
        pytest.raises(DataError, match=f"is a {expected}, expected a layer's directory"),
        mounted_layers(layers, "os", tmp_path, Runner()),
    ):
        pytest.fail("was entered")


def test_directory_of_the_machine_is_not_read_as_the_os_image(store: Store, tmp_path: Path) -> None:
    layers = _layers(store)
    outside = tmp_path / "host"
    links = outside / "diff/usr/lib/bootc/bound-images.d"
    links.mkdir(parents=True)
    (links / "secret.image").symlink_to("/etc/secret")
    folder = store.root / "overlay" / layers[-1][1].id
    shutil.rmtree(folder)
    folder.symlink_to(outside)
    done = run(_cli("list", "containers-storage:localhost/os:1"), env=store.env, ok=(2,))
    assert "secret" not in done.stdout + done.stderr
    assert f"{folder}: is a symbolic link" in done.stderr


@pytest.mark.parametrize("damage", ["incomplete", "composefs-data"])
def test_layer_that_is_no_tree_is_not_mounted(damage: str, store: Store, tmp_path: Path) -> None:
    layers = _layers(store)
    if damage == "incomplete":
        layers = tuple((root, replace(layer, incomplete=True)) for root, layer in layers)
    else:
        (store.root / "overlay" / layers[0][1].id / damage).mkdir()
    message = "was left incomplete|is stored as composefs objects"
    with (
        pytest.raises(DataError, match=message),
        mounted_layers(layers, "os", tmp_path, Runner()),
    ):
        pytest.fail("was entered")


@pytest.mark.parametrize(
    "character", [",", ":", '"', "\\"], ids=["comma", "colon", "quote", "slash"]
)
def test_scratch_path_that_mount_would_misread_is_refused(
    character: str, store: Store, tmp_path: Path
) -> None:
    scratch = tmp_path / f"a{character}b"
    scratch.mkdir()
    with (
        pytest.raises(DataError, match="mount options cannot carry"),
        mounted_layers(_layers(store), "os", scratch, Runner()),
    ):
        pytest.fail("was entered")


def test_scratch_place_may_be_two_overlays_deep(store: Store, tmp_path: Path) -> None:
    """As in a container whose host's root is an overlay, too: the kernel stacks no third one."""
    script = (
        "place=$1; shift\nfor i in 1 2; do\n"
        'mkdir -p "$place/$i/m"; mount -t tmpfs tmpfs "$place/$i"\n'
        'mkdir "$place/$i/u" "$place/$i/w" "$place/$i/l" "$place/$i/m"\n'
        "lower=$place/$i/l; [ $i = 1 ] || lower=$place/1/m\n"
        'mount -t overlay overlay -o "lowerdir=$lower,upperdir=$place/$i/u,workdir=$place/$i/w" '
        '"$place/$i/m"\ndone\nexport TMPDIR="$place/2/m"\nexec "$@"\n'
    )
    place = tmp_path / "deep"
    argv = _cli("list", f"containers-storage:{REFERENCE}")
    done = run(unshared((place, *argv), prelude=script), env={**store.env, "TMPDIR": ""})
    assert "quay.io/team/web:1" in done.stdout
