"""Stands in for image-builder where it meets osbuild: PATH, the manifest on stdin, the monitor on fd 3.

What it does and in which order is image-builder's own (cmd/image-builder/build.go, bib_main.go,
pkg/osbuild/osbuild-exec.go). The manifest is one that image-builder has made, for another image.
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hosts.image_builder.shapes import DEPLOY, INSTALL, content, made, stage

EXPORTS = {"raw": "image", "qcow2": "qcow2", "vmdk": "vmdk", "gce": "gce"}
FILES = {"raw": "disk.raw", "qcow2": "disk.qcow2", "vmdk": "disk.vmdk", "gce": "image.tar.gz"}
ISOS = {"bootc-generic-iso", "bootc-installer"}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def image_of(reference: str) -> str:
    argv = ("podman", "image", "inspect", "--format", "{{.Id}}", reference)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: cannot inspect {reference}: {done.stderr}")
    return done.stdout.strip()


def _use(manifest: dict[str, Any], each: dict[str, Any], reference: str) -> None:
    key = f"sha256:{image_of(reference)}"
    each["inputs"]["images"]["references"] = {key: {"name": reference}}
    manifest["sources"]["org.osbuild.containers-storage"]["items"][key] = {}


def make_manifest(kind: str, reference: str, build: str | None) -> bytes:
    if kind in ISOS:
        return content(made(kind), None)
    manifest = made("raw-build-ref" if build else "raw")
    manifest["sources"]["org.osbuild.containers-storage"]["items"] = {}
    _use(manifest, stage(manifest, INSTALL), reference)
    _use(manifest, stage(manifest, DEPLOY, "build"), build or reference)
    if build:
        _use(manifest, stage(manifest, DEPLOY, "target"), reference)
    if size := os.environ.get("STANDIN_ROOT_SECTORS"):
        stage(manifest, "org.osbuild.sfdisk")["options"]["partitions"][3]["size"] = int(size)
    return content(manifest, None)


def run_osbuild(manifest: bytes, output: Path, export: str) -> int:
    """Run osbuild, with a pipe for its monitor as descriptor 3."""
    subprocess.run(("osbuild", "--version"), stdout=subprocess.DEVNULL, check=True)
    ends = os.pipe()
    reader, writer = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    os.dup2(writer, 3)
    argv = (
        "osbuild", "--store", str(output / "store"), "--output-directory", str(output),
        "--cache-max-size=21474836480", "-", "--export", export,
        "--monitor=JSONSeqMonitor", "--monitor-fd=3", "--json",
    )  # fmt: skip
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(3,)
    ) as run:
        os.close(3)
        os.close(writer)
        out, _ = run.communicate(manifest)
        with os.fdopen(reader) as monitor:
            records = [json.loads(line.strip("\x1e")) for line in monitor]
    for record in records:
        say(f"monitor: {record['message']}")
    say(f"osbuild: {json.loads(out or b'{}').get('success')}")
    return run.returncode


def main() -> None:
    if sys.argv[1:2] != ["build"]:
        say(" ".join(["image-builder", *sys.argv[1:]]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    parser.add_argument("kind")
    parser.add_argument("--bootc-ref", required=True)
    parser.add_argument("--bootc-build-ref")
    parser.add_argument("--output-dir", type=Path, default=Path("out"))
    parser.add_argument("--skip-osbuild", action="store_true")
    asked = parser.parse_args()
    output, kind = asked.output_dir, asked.kind
    output.mkdir(exist_ok=True)
    manifest = make_manifest(kind, asked.bootc_ref, asked.bootc_build_ref)
    (output / "small.osbuild-manifest.json").write_bytes(manifest)
    if asked.skip_osbuild:
        return
    code = run_osbuild(manifest, output, EXPORTS.get(kind, "bootiso"))
    if code:
        sys.exit(f"error: running osbuild failed: exit status {code}")
    made_file = output / EXPORTS[kind] / FILES[kind]
    shutil.move(made_file, output / f"small.{FILES[kind].partition('.')[2]}")
    made_file.parent.rmdir()
    shutil.rmtree(output / "store", ignore_errors=True)


def main_of_bib() -> None:
    """The older form: the image is a word of its own, and the file stays where osbuild has put it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--type", default="qcow2")
    parser.add_argument("--output", type=Path, default=Path())
    asked = parser.parse_args([word for word in sys.argv[1:] if word != "build"])
    manifest = make_manifest(asked.type, asked.image, None)
    asked.output.mkdir(exist_ok=True)
    (asked.output / "manifest-small.json").write_bytes(manifest)
    sys.exit(run_osbuild(manifest, asked.output, EXPORTS[asked.type]))


if __name__ == "__main__":
    if os.environ["STANDIN_NAME"] == "bootc-image-builder":
        main_of_bib()
    main()
