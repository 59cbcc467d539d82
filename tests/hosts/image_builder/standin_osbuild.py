"""Stands in for osbuild: builds the disk of a manifest, as far as bound images and their stages go.

Partitions and file systems are real. The install stage does what bootc does in osbuild's sandbox: it
reads the declarations of the build root, and fails if there are any (osbuild/image-builder#2681).
"""

import argparse
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hosts.image_builder.shapes import DEPLOY, INSTALL, Json, pipeline
from tests.support.commands import run
from tests.support.osbuild_sandbox import STAGE, Sandbox, arguments

SKOPEO, TARGET_STORE = "org.osbuild.skopeo", "ostree/bootc/storage"
LINKS = "usr/lib/bootc/bound-images.d"


class StageFailedError(Exception):
    """A stage has failed."""


class Build:
    """One run."""

    def __init__(self, asked: argparse.Namespace, manifest: Json) -> None:
        self.asked, self.manifest = asked, manifest
        self.work: Path = asked.store / "tmp"
        self.work.mkdir(parents=True)
        self.disk = self.work / "disk.raw"
        self.store = Path(
            run(("podman", "info", "--format", "{{.Store.GraphRoot}}")).stdout.strip()
        )
        self.metadata: Json = {}
        self.root = (0, 0)

    def say(self, message: str) -> None:
        record = json.dumps({"message": message})
        os.write(self.asked.monitor_fd, f"\x1e{record}\n".encode())

    def tree(self, name: str) -> Path:
        """The tree of a pipeline that is made of containers."""
        tree = self.work / name
        for each in pipeline(self.manifest, name)["stages"]:
            if each["type"] == DEPLOY:
                self.deploy(each, tree)
        return tree

    def deploy(self, each: Json, tree: Path) -> None:
        (image,) = each["inputs"]["images"]["references"]
        tree.mkdir(exist_ok=True)
        script = (
            'p=$(podman image mount "$1") && cp -a "$p/." "$2/" && podman image umount "$1" >&2'
        )
        run(("unshare", "--mount", "sh", "-ec", script, "sh", image.removeprefix("sha256:"), tree))
        for path in each.get("options", {}).get("exclude", ()):
            shutil.rmtree(tree / path.lstrip("/"))

    def run(self) -> None:
        build = self.tree("build")
        for each in pipeline(self.manifest, "image")["stages"]:
            kind = each["type"]
            self.say(f"stage {kind}")
            match kind:
                case "org.osbuild.truncate":
                    with self.disk.open("wb") as file:
                        file.truncate(int(each["options"]["size"]))
                case "org.osbuild.sfdisk":
                    self.partition(each["options"]["partitions"])
                case _ if kind == INSTALL:
                    with self.mounted(each) as root:
                        self.install(each, build, root)
                case _ if kind == STAGE:
                    with self.mounted(each) as root:
                        self.own(each, root)
                case _ if kind == SKOPEO:
                    with self.mounted(each) as root:
                        self.skopeo(each, root)
                case _:
                    pass  # customisations

    def partition(self, partitions: list[Json]) -> None:
        lines = [f"start={p['start']}, size={p['size']}, type={p['type']}" for p in partitions]
        script = "\n".join(["label: gpt", *lines])
        argv = ("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", self.disk)
        subprocess.run(argv, input=script.encode(), check=True)
        self.root = (partitions[3]["start"] * 512, partitions[3]["size"] * 512)
        offset, size = self.root
        options = f"offset={offset},lazy_itable_init=1"
        run(("mkfs.ext4", "-q", "-F", "-E", options, self.disk, str(size // 1024)))

    @contextmanager
    def mounted(self, each: Json) -> Iterator[Path]:
        assert next(m["target"] for m in each["mounts"] if "partition" in m) == "/"
        root = self.work / "mounts"
        root.mkdir(exist_ok=True)
        offset, size = self.root
        options = f"loop,offset={offset},sizelimit={size}"
        run(("mount", "-t", "ext4", "-o", options, self.disk, root))
        try:
            yield root
        finally:
            run(("umount", root))
            self.wait_until_detached()

    def wait_until_detached(self) -> None:
        """The kernel lets go of a loop device after its file system, and may write until then."""
        while run(("losetup", "--associated", self.disk)).stdout:
            time.sleep(0.1)

    def install(self, each: Json, build: Path, root: Path) -> None:
        links = build / LINKS
        declared = sorted(links.iterdir()) if links.is_dir() else []
        if declared:
            raise StageFailedError(
                "resolving bound image: 'overlay' not found as a supported filesystem"
            )
        (root / "ostree/repo").mkdir(parents=True)
        deployment = root / "ostree/deploy/default/deploy/0123abcd.0"
        deployment.parent.mkdir(parents=True)
        self.deploy({"inputs": each["inputs"]}, deployment)

    def own(self, each: Json, root: Path) -> None:
        library = self.asked.libdir
        if not (library / "stages" / STAGE).exists():
            raise StageFailedError(f"{library}: {STAGE}: could not find schema information")
        sandbox = Sandbox(directory=self.work / "sandbox", store=self.store, library=library)
        ended = sandbox.run(arguments(each["options"]), root)
        if ended.done.returncode:
            raise StageFailedError(ended.said)
        self.metadata = {"image": {STAGE: ended.metadata}}

    def skopeo(self, each: Json, root: Path) -> None:
        destination = each["options"]["destination"]["storage-path"].lstrip("/")
        for image, value in each["inputs"]["images"]["references"].items():
            source = f"containers-storage:{image.removeprefix('sha256:')}"
            target = (
                f"containers-storage:[overlay@{root}/{destination}+{self.work}/run]{value['name']}"
            )
            run(("unshare", "--mount", "skopeo", "copy", "--quiet", source, target))

    def damage(self, file: Path) -> None:
        """Turn a bit over on the disk, in what a file has."""
        text = file.read_bytes()
        with self.disk.open("r+b") as disk, mmap.mmap(disk.fileno(), 0) as content:
            start = end = 0
            while (place := content.find(text, start, end)) < 0:
                # Next data: most of the disk is a hole.
                start = os.lseek(disk.fileno(), end, os.SEEK_DATA)
                end = os.lseek(disk.fileno(), start, os.SEEK_HOLE)
            content[place + len(text) // 2] ^= 1

    def export(self) -> None:
        if file := os.environ.get("STANDIN_DAMAGE"):
            self.damage(Path(file))
        for name in self.asked.export:
            place = self.asked.output_directory / name
            place.mkdir()
            match name:
                case "image":
                    shutil.move(self.disk, place / "disk.raw")
                case "gce":
                    run(("tar", "-czSf", place / "image.tar.gz", "-C", self.work, "disk.raw"))
                case _:
                    (last,) = pipeline(self.manifest, name)["stages"]
                    how = last["options"]["format"].get("subformat")
                    options = ("-o", f"subformat={how}") if how else ()
                    file = place / f"disk.{name}"
                    run(("qemu-img", "convert", "-O", name, *options, self.disk, file))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="osbuild")
    parser.add_argument("manifest")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--libdir", type=Path, default=Path(os.environ["STANDIN_LIBRARY"]))
    parser.add_argument("--cache-max-size")
    parser.add_argument("--export", action="append", default=[])
    parser.add_argument("--output-directory", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--monitor")
    parser.add_argument("--monitor-fd", type=int, default=1)
    parser.add_argument("--version", action="version", version="osbuild 999")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    assert asked.manifest == "-"
    record = os.environ.get("STANDIN_RECORD")
    text = sys.stdin.read()
    if record:
        Path(record).write_text(json.dumps({"argv": sys.argv[1:], "manifest": text}))
    build = Build(asked, json.loads(text))
    result: dict[str, Any] = {"success": True}
    try:
        build.run()
        build.export()
    except StageFailedError as error:
        result["success"] = False
        sys.stderr.write(f"{error}\n")
    shutil.rmtree(build.work)
    sys.stdout.write(json.dumps({**result, "metadata": build.metadata}))
    sys.exit(0 if result["success"] else 1)


if __name__ == "__main__":
    main()
