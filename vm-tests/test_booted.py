"""bootc on a running system that we installed: what it fetches, keeps and removes, we agree with."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import guest
import pytest
from container import Container
from guest import FULL, Answer
from machine import Drive
from osroot import declare, import_image
from scene import (
    STORE,
    UNITS_OF_APPS,
    WEB,
    WORKER,
    Scene,
    build_app,
    build_apps,
    os_with,
    product_files,
)

from tests.support.commands import run
from tests.support.registry import serve
from tests.support.stores import Store, make_store

pytestmark = [pytest.mark.slow, pytest.mark.bootc]

ADDED = "registry.example/added:1"
WORKER_UNIT = {"worker.image": f"[Image]\nImage={WORKER}\n"}
# What each image of the OS binds: the next one other images than the first, the last one fewer.
BINDS = {
    "1": UNITS_OF_APPS,
    "2": {**WORKER_UNIT, "added.image": f"[Image]\nImage={ADDED}\n"},
    "3": WORKER_UNIT,
}
PORT = 5000
REGISTRY_CONF = {
    "/etc/containers/registries.conf.d/loopback.conf": (
        "[[registry]]\n"
        'prefix = "registry.example"\n'
        f'location = "127.0.0.1:{PORT}"\n'
        "insecure = true\n"
    )
}
BASE = "localhost/base:1"
SECONDS = 1800

VERIFY = "PYTHONPATH=/run/check python3 -m installer_plugin verify /"
STORED = (
    "python3 -c 'import json; print(*(n for i in json.load(open(\"/sysroot/"
    f'{STORE}/overlay-images/images.json")) for n in i["names"]), sep="\\n")\''
)
STATUS = "bootc status --json"
# The guest is powered off without a shutdown, which would do that.
FINALIZE = (
    "systemctl start ostree-finalize-staged.service && "
    "systemctl stop ostree-finalize-staged.service && ! test -e /run/ostree/staged-deployment"
)
NEXT = (
    "mkdir /run/next && mount /dev/vdc /run/next && "
    "{ setsid /run/next/registry serve /run/next/config.yml >/run/registry.log 2>&1 & } && "
    f"n=0; until busybox wget -q -O /dev/null http://127.0.0.1:{PORT}/v2/; do "
    "n=$((n + 1)); [ $n -lt 120 ] || { cat /run/registry.log; exit 1; }; sleep 1; done"
)
RECORDS = f"/sysroot/{STORE}/overlay-images/images.json"
LOSE = (
    "mount -o remount,rw /sysroot && "
    f"cp -a {RECORDS} /run/images.json && "
    "python3 -c 'import json, sys; f = sys.argv[1]; records = json.load(open(f)); "
    f'json.dump([r for r in records if "{ADDED}" not in r["names"]], open(f, "w"))\' {RECORDS}'
)
FIND_AGAIN = f"cp -a /run/images.json {RECORDS}"
VERIFICATION_FAILED = 6


def switch_to(number: str) -> str:
    """bootc's command for another image of the OS."""
    return f"bootc switch --transport oci /run/next/oci:{number}"


@dataclass(frozen=True, slots=True)
class Running:
    """A system that is booted again and again, and the disk with what it may switch to."""

    stage: Scene
    disk: Path
    next: Path

    def boot(self, questions: Mapping[str, str]) -> dict[str, Answer]:
        """Boot it as a whole, ask, and keep what it writes."""
        program = guest.script({"next": NEXT, **questions})
        drives = [Drive(self.disk, writable=True), Drive(self.next)]
        machine = self.stage.machine(
            drives, program, how=FULL, files=product_files(), mebibytes=2048
        )
        with self.stage.clock.step("whole boot"), machine:
            said = guest.answers(machine.finish(SECONDS))
        wrong = {
            name: answer.text
            for name, answer in said.items()
            if answer.code != (VERIFICATION_FAILED if name.endswith("_lost") else 0)
        }
        assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())
        return said


@pytest.fixture
def running(system: Path, stage: Scene, stores: Path) -> Running:
    """Installed by the image itself, while bootc copies."""
    base = stores / "booted"
    store = build_apps(make_store(base), base)
    import_image(store, system, declare(base / "nothing-more", {}), BASE)
    images = {number: build_os(store, base, number) for number in BINDS}
    root = os_with(system, stage.folder / "os", BINDS["1"])
    for name, text in REGISTRY_CONF.items():
        (root / name[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / name[1:]).write_text(text)
    container = Container(
        root=root, name=name_of("1"), image_id=images["1"], store=store, reads_gpt=stage.host.reads_gpt
    )  # fmt: skip
    disk = stage.new_disk()
    with stage.clock.step("install"):
        argv = ("python3", "-m", "installer_plugin", "install", *stage.to_disk(disk))
        container.command(stage.folder, argv).run()
    with stage.clock.step("images to switch to"):
        following = make_next(store, stage.folder)
    return Running(stage, disk, following)


def name_of(number: str) -> str:
    """An image of the OS, in the store."""
    return f"localhost/os-{number}:1"


def build_os(store: Store, base: Path, number: str) -> str:
    """An image of the OS with its units in a layer of its own; returns its ID."""
    context = base / f"context-{number}"
    made = declare(context, {**BINDS[number], **REGISTRY_CONF})
    (context / "Containerfile").write_text(f"FROM {BASE}\nCOPY {made.name} /\n")
    store.podman("build", "-q", "--isolation=chroot", "-t", name_of(number), str(context))
    return store.image(name_of(number)).id


def make_next(store: Store, folder: Path) -> Path:
    """A disk with the other images of the OS, and a registry with what they bind."""
    tree = folder / "next"
    tree.mkdir()
    for number in ("2", "3"):
        # Layers as they are in the store, so that bootc knows those that it has.
        store.skopeo(
            "copy", "--quiet", "--dest-oci-accept-uncompressed-layers",
            store.ref(name_of(number)), f"oci:{tree}/oci:{number}",
        )  # fmt: skip
    build_app(store, folder / "added", ADDED, "busybox cat /content")
    with serve(tree) as address:
        plain = f"docker://{address}/{ADDED.partition('/')[2]}"
        store.skopeo("copy", "--quiet", "--dest-tls-verify=false", store.ref(ADDED), plain)
    program = shutil.which("docker-registry") or shutil.which("registry")
    assert program
    shutil.copy(program, tree / "registry")
    (tree / "config.yml").write_text(
        "version: 0.1\n"
        "storage: {filesystem: {rootdirectory: /run/next/data}}\n"
        f"http: {{addr: '127.0.0.1:{PORT}'}}\n"
    )
    disk = folder / "next.img"
    with disk.open("wb") as file:
        file.truncate(2 << 30)
    run(("mkfs.ext4", "-q", "-d", tree, disk))
    shutil.rmtree(tree)
    return disk


def booted_image(answer: Answer) -> str:
    """The image that `bootc status` says is running."""
    text = answer.text[answer.text.index("{") :]
    image = json.loads(text)["status"]["booted"]["image"]["image"]["image"]
    return str(image)


def test_bootc_switches_cleans_up_and_rolls_back(running: Running) -> None:
    """bootc switches, cleans up and rolls back: verify agrees at each step"""
    said = running.boot(
        {
            "status": STATUS,
            "images": "bootc image list",
            "verify": VERIFY,
            "switch": switch_to("2"),
            "verify_staged": VERIFY,
            "stored": STORED,
            "lose": LOSE,
            "verify_lost": VERIFY,
            "find": FIND_AGAIN,
            "verify_found": VERIFY,
            "finalize": FINALIZE,
        }
    )
    assert booted_image(said["status"]) == name_of("1")
    assert WEB in said["images"].text
    assert WORKER in said["images"].text
    assert "2 images verified" in said["verify"].text
    assert "3 images verified" in said["verify_staged"].text
    assert sorted(said["stored"].lines) == sorted((WEB, WORKER, ADDED))
    assert ADDED in said["verify_lost"].text

    said = running.boot(
        {
            "status": STATUS,
            "cleanup": "bootc internals cleanup",
            "stored": STORED,
            "verify": VERIFY,
            "switch": switch_to("3"),
            "verify_staged": VERIFY,
            "finalize": FINALIZE,
        }
    )
    assert booted_image(said["status"]).endswith(":2")
    # The one to roll back to declares it.
    assert sorted(said["stored"].lines) == sorted((WEB, WORKER, ADDED))

    said = running.boot(
        {
            "status": STATUS,
            "cleanup": "bootc internals cleanup",
            "stored": STORED,
            "verify": VERIFY,
            "rollback": "bootc rollback",
            "verify_rolled_back": VERIFY,
        }
    )
    assert booted_image(said["status"]).endswith(":3")
    assert sorted(said["stored"].lines) == sorted((WORKER, ADDED))
    assert WEB in said["verify"].text, "what has gone is named"

    said = running.boot({"status": STATUS, "stored": STORED, "verify": VERIFY})
    assert booted_image(said["status"]).endswith(":2")
    assert sorted(said["stored"].lines) == sorted((WORKER, ADDED))
