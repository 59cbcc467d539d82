"""`image-builder ARGS...` as a whole, with stand-ins for image-builder and osbuild."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scene import APP, OTHER, SMALL
from tests.hosts.image_builder.conftest import (
    BUILD,
    GONE,
    NO_BOOTC,
    NONE,
    OLD,
    OLD_PINNED,
    OS,
    WRONG,
    Built,
)
from tests.support.osbuild_sandbox import STAGE, make_library
from tests.support.product import document, product
from tests.support.stores import copy_store

pytestmark = pytest.mark.real
REPOSITORY = Path(__file__).parents[3]
RECEIPT = ".bound-images.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A machine with image-builder and osbuild."""

    directory: Path
    built: Built

    @property
    def programs(self) -> Path:
        return self.directory / "programs"

    @property
    def output(self) -> Path:
        return self.directory / "out"

    def env(self) -> dict[str, str]:
        return {
            **self.built.store.env,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "STANDIN_LIBRARY": str(self.directory / "lib"),
            "STANDIN_RECORD": str(self.directory / "record.json"),
            "TMPDIR": str(self.directory / "tmp"),
        }

    def build(
        self,
        *words: str,
        own: Sequence[str] = (),
        ok: int = 0,
        env: Mapping[str, str] | None = None,
        verb: str = "image-builder",
    ) -> subprocess.CompletedProcess[str]:
        library = ("--osbuild-libdir", str(self.directory / "lib"))
        call = (verb, *library, *own, *words)
        done = product(*call, env={**self.env(), **(env or {})}, ok=(ok,))
        assert list((self.directory / "tmp").glob("*scratch*")) == []
        return done

    def disk(
        self,
        image: str,
        *words: str,
        kind: str = "raw",
        own: Sequence[str] = (),
        ok: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Build a disk of an image."""
        line = ("build", kind, "--bootc-ref", image, "--output-dir", str(self.output), *words)
        return self.build(*line, own=own, ok=ok, env=env)

    @property
    def record(self) -> dict[str, Any]:
        """What osbuild was given."""
        value = json.loads((self.directory / "record.json").read_bytes())
        assert isinstance(value, dict)
        return value

    def was_built(self) -> bool:
        return (self.directory / "record.json").exists()


def put(folder: Path, name: str, module: str) -> None:
    program = folder / name
    # -S: of the standard library and ours alone, and not measured.
    python = f"{sys.executable} -S -m tests.hosts.image_builder.{module}"
    env = f"PYTHONPATH={REPOSITORY}:{REPOSITORY}/vm-tests STANDIN_NAME={name}"
    program.write_text(f'#!/bin/sh\n{env} exec {python} "$@"\n')
    program.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, built: Built) -> Pipeline:
    machine = Pipeline(directory=tmp_path, built=built)
    for folder in (machine.programs, tmp_path / "tmp"):
        folder.mkdir()
    put(machine.programs, "image-builder", "standin_builder")
    put(machine.programs, "bootc-image-builder", "standin_builder")
    put(machine.programs, "osbuild", "standin_osbuild")
    make_library(tmp_path / "lib", None, stage=False)
    return machine


def require_proven(machine: Pipeline, disk: Path, *images: str) -> None:
    receipt = json.loads(disk.with_name(disk.name + RECEIPT).read_text())
    assert sorted(each["reference"] for each in receipt["images"]) == sorted(images)
    assert all("content" in each["verified"] for each in receipt["images"])
    assert str(machine.directory) not in json.dumps(receipt)
    product("verify", disk, env={})


def test_the_disk_has_the_images_that_its_system_declares(machine: Pipeline) -> None:
    done = machine.disk(OS)
    assert "mode: stage (the build root has a Python for our stage)" in done.stderr
    assert f"monitor: stage {STAGE}" in done.stdout
    assert "osbuild: True" in done.stdout
    assert f"receipt: {machine.output}/small.raw{RECEIPT}\n" in done.stdout
    require_proven(machine, machine.output / "small.raw", APP, OTHER, SMALL)


@pytest.mark.parametrize(
    ("image", "kind"), [(OS, "qcow2"), (OS, "vmdk"), (OLD, "qcow2"), (OLD_PINNED, "qcow2")]
)
def test_other_formats_are_opened_and_proven_as_well(
    image: str, kind: str, machine: Pipeline
) -> None:
    machine.disk(image, kind=kind)
    disk = machine.output / f"small.{kind}"
    assert disk.with_name(disk.name + RECEIPT).exists()
    product("verify", disk, env={})


def test_what_osbuild_is_given_is_what_image_builder_gave(machine: Pipeline) -> None:
    machine.disk(OS)
    assert machine.record["argv"][:1] == ["--libdir"]
    assert machine.record["argv"][2:] == [
        "--store", str(machine.output / "store"), "--output-directory", str(machine.output),
        "--cache-max-size=21474836480", "-", "--export", "image",
        "--monitor=JSONSeqMonitor", "--monitor-fd=3", "--json",
    ]  # fmt: skip
    kept = (machine.output / "small.osbuild-manifest.json").read_text()
    assert STAGE not in kept
    assert STAGE in machine.record["manifest"]


def test_without_us_the_same_line_fails_as_it_does_for_everybody(machine: Pipeline) -> None:
    argv = ("image-builder", "build", "raw", "--bootc-ref", OS, "--output-dir", str(machine.output))
    done = subprocess.run(
        ("unshare", "--mount", *argv),
        env={**os.environ, **machine.env()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "'overlay' not found as a supported filesystem" in done.stderr


def test_the_images_are_those_of_the_os_image_not_of_the_build_container(
    machine: Pipeline,
) -> None:
    machine.disk(OS, "--bootc-build-ref", BUILD)
    require_proven(machine, machine.output / "small.raw", APP, OTHER, SMALL)


def test_another_build_containers_images_do_not_come_onto_the_disk(machine: Pipeline) -> None:
    done = machine.disk(NONE, f"--bootc-build-ref={BUILD}")
    assert "no bound images declared" in done.stdout
    assert (machine.output / "small.raw").exists()
    assert not (machine.output / f"small.raw{RECEIPT}").exists()


@pytest.mark.parametrize(
    ("image", "mode", "images"),
    [(OLD, "stock", (APP, SMALL)), (OLD_PINNED, "after", None)],
)
def test_an_older_build_root_is_served_in_another_way(
    image: str, mode: str, images: tuple[str, ...] | None, machine: Pipeline
) -> None:
    done = machine.disk(image)
    assert f"mode: {mode} (the build root has no Python 3.11 or later" in done.stderr
    assert STAGE not in machine.record["manifest"]
    disk = machine.output / "small.raw"
    product("verify", disk, env={})
    if images:
        require_proven(machine, disk, *images)


@pytest.mark.parametrize("when", ["stage", "stock", "after"])
def test_every_mode_can_be_asked_for(when: str, machine: Pipeline) -> None:
    done = machine.disk(OS, own=("--when", when))
    assert f"mode: {when} (as asked for)" in done.stderr
    require_proven(machine, machine.output / "small.raw", APP, OTHER, SMALL)


def test_a_result_can_be_read_by_programs(machine: Pipeline) -> None:
    done = machine.disk(OS, own=("--format", "json"))
    found = json.loads(done.stdout[done.stdout.index('{\n  "schema"') :])
    assert found["schema"] == "bootc-bound-images/image-builder/2"
    (export,) = found["exports"]
    assert export["path"] == str(machine.output / "small.raw")
    assert export["receipt"] == str(machine.output / f"small.raw{RECEIPT}")
    assert {image["reference"] for image in export["images"]} == {APP, OTHER, SMALL}


def test_two_builds_of_one_image_have_one_receipt(machine: Pipeline) -> None:
    receipts = []
    for when in ("stage", "stage", "after"):
        machine.disk(OS, own=("--when", when))
        receipts.append((machine.output / f"small.raw{RECEIPT}").read_bytes())
    assert receipts[0] == receipts[1]
    assert receipts[0] == receipts[2]


@pytest.mark.parametrize(
    ("kind", "own", "later"),
    [
        ("raw", (), True),
        ("qcow2", (), True),
        ("gce", (), False),
        ("raw", ("--verify-again",), False),
    ],
)
def test_content_is_read_once_from_the_last_form_that_can_be_opened(
    kind: str, own: Sequence[str], machine: Pipeline, *, later: bool
) -> None:
    machine.disk(OS, kind=kind, own=own)
    assert ('"content"' in machine.record["manifest"]) is later


def test_what_happens_to_a_disk_behind_our_stage_is_found(machine: Pipeline) -> None:
    file = next(machine.built.store.root.glob("overlay/*/diff/app/5/5"))
    done = machine.disk(OS, ok=6, env={"STANDIN_DAMAGE": str(file)})
    assert "app/5/5" in done.stderr
    require_set_aside(machine, done)


def require_set_aside(machine: Pipeline, done: subprocess.CompletedProcess[str]) -> None:
    disk = machine.output / "small.raw"
    assert f"{disk} was renamed to small.raw.unproven: do not use it" in done.stderr
    assert (
        "hint: build it again; if that does not help, the store's image is damaged" in done.stderr
    )
    assert (machine.output / "small.raw.unproven").exists()
    assert not disk.exists()
    assert not disk.with_name(disk.name + RECEIPT).exists()


@pytest.mark.parametrize(
    ("own", "code"),
    [
        (("--when=stage",), 6),
        (("--when=after",), 6),
        (("--when=stage", "--verify-again"), 7),  # osbuild's failure, in the log
        (("--when=after", "--verify-again"), 6),
    ],
)
def test_a_damaged_image_fails_the_build_in_every_mode(
    own: Sequence[str], code: int, machine: Pipeline, tmp_path: Path
) -> None:
    store = copy_store(machine.built.store.root, tmp_path / "damaged")
    file = next(store.root.glob("overlay/*/diff/app/5/5"))
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    mine = replace(machine, built=replace(machine.built, store=store))
    done = mine.disk(OS, own=own, ok=code)
    assert "app/5/5" in done.stderr
    if code == 6:
        require_set_aside(mine, done)
    else:
        assert list(mine.output.glob("small.raw*")) == []


def test_what_cannot_be_opened_is_said_and_not_taken_for_proven(machine: Pipeline) -> None:
    done = machine.disk(OS, kind="gce")
    path = machine.output / "small.tar.gz"
    assert f"{path}: a gzip file is not opened: its images were proven" in done.stderr
    assert f"{path}: not opened (a gzip file); proven while it was built" in done.stdout


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("gce", "the export 'gce' is an archive, which cannot be opened"),
        ("vmdk", "the export 'vmdk' is a compressed vmdk file, which cannot be written in place"),
    ],
)
def test_what_cannot_be_filled_afterwards_is_refused_before_it_is_built(
    kind: str, said: str, machine: Pipeline
) -> None:
    done = machine.disk(OLD, kind=kind, ok=4)
    assert done.stderr.count(said) == 1
    assert done.stderr.count("hint: use a build container with Python 3.11 or later") == 1
    assert "osbuild is not started: the errors at the end say why" in done.stderr
    assert not machine.was_built()


def test_the_older_command_line_works_alike(machine: Pipeline) -> None:
    words = ("--type", "raw", "--output", str(machine.output), OS)
    machine.build(*words, verb="bootc-image-builder")
    require_proven(machine, machine.output / "image/disk.raw", APP, OTHER, SMALL)


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("describe", "qcow2", "--distro", "x"),
        ("--output-dir", "build", "manifest", "raw", "--bootc-ref", OS),
        (),
    ],
)
def test_calls_that_make_no_disk_are_passed_through(
    words: tuple[str, ...], machine: Pipeline
) -> None:
    done = machine.build(*words)
    assert done.stdout.split() == ["image-builder", *words]


def test_a_dry_run_builds_nothing(machine: Pipeline) -> None:
    done = machine.disk(OS, own=("--dry-run",))
    assert "would be on the disk; nothing was built" in done.stdout
    assert not machine.was_built()
    assert not machine.output.exists()


@pytest.mark.parametrize(
    ("image", "code", "said"),
    [
        (GONE, 4, ("localhost/gone:1", "localhost/gone:2")),
        (WRONG, 3, ("%n",)),
        (NO_BOOTC, 3, ("expected a bootc OS image",)),
        ("localhost/nowhere:1", 2, ("localhost/nowhere:1: is in none of",)),
        ("UPPER", 2, ("UPPER",)),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(
    image: str, code: int, said: tuple[str, ...], machine: Pipeline
) -> None:
    done = machine.disk(image, ok=code)
    assert all(text in done.stderr for text in said), done.stderr
    assert "hint:" in done.stderr
    assert not machine.was_built()
    assert not machine.output.exists()


def test_a_root_without_room_is_refused_with_the_option_that_helps(machine: Pipeline) -> None:
    done = machine.disk(OS, ok=4, env={"STANDIN_ROOT_SECTORS": "1024"})
    assert "in a root of 512 KiB" in done.stderr
    assert "hint: add --image-size " in done.stderr
    assert not machine.was_built()


def test_a_type_that_is_no_disk_is_an_error_that_says_so(machine: Pipeline) -> None:
    done = machine.disk(OS, kind="bootc-generic-iso", ok=2)
    assert "it makes no disk of a bootc image" in done.stderr
    assert not machine.was_built()


@pytest.mark.parametrize("tool", ["image-builder", "osbuild"])
def test_a_missing_program_is_one_clear_error(tool: str, machine: Pipeline) -> None:
    (machine.programs / tool).unlink()
    done = machine.disk(OS, ok=4)
    assert f"error: {tool}: is not in PATH" in done.stderr
    assert f"hint: install {tool}" in done.stderr
    assert not machine.output.exists()


def test_a_library_that_is_none_is_one_clear_error(machine: Pipeline) -> None:
    (machine.directory / "lib/stages").rmdir()
    done = machine.disk(OS, ok=4)
    assert "expected osbuild's library directory" in done.stderr


def test_a_builder_that_calls_no_osbuild_guarantees_nothing(machine: Pipeline) -> None:
    done = machine.disk(OS, "--skip-osbuild", ok=7)
    assert "without having called osbuild through PATH: nothing is guaranteed" in done.stderr


@pytest.mark.parametrize(
    ("sent", "said"),
    [("echo nothing", "<stdin>: is not JSON"), ("cat /dev/null", "<stdin>: is not JSON")],
)
def test_what_a_builder_sends_in_the_place_of_a_manifest_reaches_no_osbuild(
    sent: str, said: str, machine: Pipeline
) -> None:
    sends = f"#!/bin/sh\n{sent} | osbuild --output-directory {machine.output} -\n"
    (machine.programs / "image-builder").write_text(sends)
    done = machine.disk(OS, ok=2)
    assert said in done.stderr
    assert not machine.was_built()


def test_a_failing_build_is_the_builders_failure(machine: Pipeline) -> None:
    (machine.programs / "osbuild").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho broken >&2\nexit 1\n'
    )
    done = machine.disk(OS, ok=7)
    assert "broken" in done.stderr
    assert "image-builder build: failed with exit code 1" in done.stderr


def test_a_manifest_is_rewritten_for_those_who_keep_manifests(machine: Pipeline) -> None:
    machine.disk(
        OS, own=("--verify-again",)
    )  # nobody of ours reads what osbuild makes of a kept one
    kept = machine.output / "small.osbuild-manifest.json"
    shown = product("osbuild-manifest", "--dry-run", kept, env=machine.env())
    assert f'+                    "type":"{STAGE}"' in shown.stdout or STAGE in shown.stdout
    assert shown.stdout.startswith("--- ")
    new = machine.directory / "new.json"
    product("osbuild-manifest", "-o", new, kept, env=machine.env())
    assert new.read_text() == machine.record["manifest"]
    printed = product("osbuild-manifest", kept, env=machine.env())
    assert printed.stdout == new.read_text()
    again = product("osbuild-manifest", new, env=machine.env(), ok=(2,))
    assert "was rewritten already" in again.stderr
    whole = document(
        product("osbuild-manifest", "--inline-program", "--format=json", kept, env=machine.env())
    )
    assert "org.osbuild.inline" in json.loads(whole["manifest"])["sources"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nothing", "is not JSON"),
        (b'{"version": "2", "pipelines": []}', "has no stage org.osbuild.bootc.install-to-file"),
        (b" " * 50_000_000, "has more than 33554432 bytes, expected an osbuild manifest"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_manifest_leaves_nothing_behind(
    content: bytes | None, said: str, machine: Pipeline
) -> None:
    file, new = machine.directory / "m.json", machine.directory / "new.json"
    if content is not None:
        file.write_bytes(content)
    done = product("osbuild-manifest", "-o", new, file, env=machine.env(), ok=(2,))
    assert said in done.stderr
    assert "hint:" in done.stderr
    assert not new.exists()
