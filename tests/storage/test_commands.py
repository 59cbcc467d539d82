"""The command line as a user meets it: words, documents, exit codes, signals, and files that are
not what they should be.
"""

import base64
import json
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click import Context, Option

from installer_plugin.cli.program import program
from tests.support.commands import run, unshared
from tests.support.crafted import Entry, layer_tar, write_layout
from tests.support.formats import assert_as_described
from tests.support.images import ImageSources
from tests.support.leftovers import SESSION_VARIABLE, _processes
from tests.support.product import COMMAND, Lab, document, listing, records
from tests.support.stores import Store, make_store
from tests.support.waiting import wait_until

PROGRAM = Path(sys.executable).with_name("bootc-bound-images")
SUBCOMMANDS = ("list", "check", "copy", "verify", "lock")


@pytest.fixture
def root(image_sources: ImageSources, lab: Lab) -> Path:
    """A source root that binds two images, one of them pinned."""
    return lab.root(image_sources.app_b.name, image_sources.web_by_digest)


def _argv(command: str, root: Path, lab: Lab) -> tuple[str | Path, ...]:
    """A call of the command that works on a target which has been copied to."""
    places: Mapping[str, tuple[str | Path, ...]] = {
        "list": (root,),
        "check": (root, "--target", lab.target),
        "copy": (root, lab.target),
        "verify": (lab.target,),
        "lock": (root, "-o", lab.directory / "lock.json"),
    }
    return (command, *places[command])


# --- what is printed ---------------------------------------------------------------------------


def test_list_shows_kind_place_and_reference(
    root: Path, image_sources: ImageSources, lab: Lab
) -> None:
    head, first, second = lab.run("list", root).stdout.splitlines()
    assert head.split() == ["KIND", "DECLARED", "IN", "IMAGE"]
    assert first.split() == [
        "image", "usr/share/containers/systemd/0.image:2", image_sources.app_b.name,
    ]  # fmt: skip
    assert second.split()[-1] == image_sources.web_by_digest


def test_check_shows_what_would_be_copied(
    root: Path, image_sources: ImageSources, lab: Lab
) -> None:
    *table, total = lab.run("check", root).stdout.splitlines()
    assert table[0].split() == ["IMAGE", "ID", "LAYERS", "SIZE", "IMAGE"]
    assert table[1].split()[0] == image_sources.app_b.id[:12]
    assert total.startswith("2 images, 3 layers, ")
    assert "MiB" in total


def test_copy_and_verify_say_what_was_proven(root: Path, lab: Lab) -> None:
    for argv in (("copy", root, lab.target), ("verify", lab.target)):
        said = lab.run(*argv).stdout.splitlines()[-1]
        assert said.startswith("2 images verified on ")
        assert "content" in said
        assert "metadata" in said


def test_lock_is_printed_or_written(root: Path, image_sources: ImageSources, lab: Lab) -> None:
    file = lab.directory / "lock.json"
    printed = lab.run("lock", root).stdout
    said = lab.run("lock", root, "--output", file).stdout
    assert said == f"2 bound images locked in {file}\n"
    assert file.read_text() == printed
    locked = {entry["reference"]: entry["image_id"] for entry in json.loads(printed)["images"]}
    assert locked == {
        image_sources.app_b.name: image_sources.app_b.id,
        image_sources.web_by_digest: image_sources.web.id,
    }


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_json_is_one_document_with_a_versioned_schema(
    command: str, root: Path, image_sources: ImageSources, lab: Lab
) -> None:
    lab.run("copy", "--quiet", root, lab.target)
    seen = document(lab.run(*_argv(command, root, lab), "--format=json"))
    version = 1 if command == "lock" else 2
    assert seen["schema"] == f"bootc-bound-images/{command}/{version}"
    assert seen["source"] == str(lab.target if command == "verify" else root)
    if command == "lock":
        assert seen["count"] == 2
        return
    images = {image["reference"]: image for image in seen["images"]}
    assert images.keys() == {image_sources.app_b.name, image_sources.web_by_digest}
    if command != "list":
        image = images[image_sources.web_by_digest]
        assert image["image_id"] == image_sources.web.id
        assert image["digest"] == image_sources.web.digest
        assert image["size"] > 1 << 20


@pytest.mark.parametrize("command", ["list", "check", "copy"])
def test_findings_are_for_people_on_stderr_and_in_the_document(
    command: str, image_sources: ImageSources, lab: Lab
) -> None:
    argv = _argv(command, lab.root("crafted:1"), lab)
    told = lab.run(*argv)
    assert "[short-name]" in told.stderr
    assert "consequence: " in told.stderr
    done = lab.run(*argv, "--format=json")
    seen = document(done)
    findings = seen["images"][0]["findings"] if command == "list" else seen["findings"]
    assert "short-name" in {finding["code"] for finding in findings}
    assert "[short-name]" not in done.stderr


def test_error_is_a_document_for_programs_and_text_for_people(lab: Lab) -> None:
    done = lab.run("copy", "--format=json", lab.root("localhost/absent:1"), lab.target, ok=4)
    seen = document(done)
    assert seen["schema"] == "bootc-bound-images/error/1"
    assert seen["exit_code"] == 4
    (problem,) = seen["problems"]
    assert problem["subject"] == "localhost/absent:1"
    assert problem["hint"] == "podman pull localhost/absent:1"
    assert f"error: localhost/absent:1 ({problem['where']}): {problem['message']}" in done.stderr
    assert "  hint: podman pull localhost/absent:1" in done.stderr


def test_text_errors_leave_stdout_empty(lab: Lab) -> None:
    assert lab.run("check", lab.root("localhost/absent:1"), ok=4).stdout == ""


def test_progress_fd_gets_json_lines(root: Path, lab: Lab) -> None:
    file = lab.directory / "progress"
    redirect = ("sh", "-c", 'file=$1; shift; exec "$@" 3>"$file"', "sh", file)
    argv = (*COMMAND, "copy", "--quiet", "--progress-fd=3", root, lab.target)
    done = run(unshared((*redirect, *argv)), env=lab.source.env)
    assert "copy:" not in done.stderr
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert {event["schema"] for event in events} == {"bootc-bound-images/progress/2"}
    assert {event["type"] for event in events} >= {"step", "progress"}
    stages = list(dict.fromkeys(event["stage"] for event in events))
    expected = ["discover", "resolve", "preflight", "copy", "verify"]
    assert [stage for stage in stages if stage in expected] == expected
    for stage in ("copy", "verify"):
        last = [e for e in events if e["type"] == "progress" and e["stage"] == stage][-1]
        assert last["done"] == last["total"] > 0
        assert_as_described("progress", last)


def test_progress_on_stderr_is_plain_lines_without_a_terminal(root: Path, lab: Lab) -> None:
    said = lab.run("copy", root, lab.target).stderr
    assert "\x1b" not in said
    assert "\r" not in said
    assert re.search(
        r"^copy: localhost/app-b:1: copying 1\.\d\d MiB with direct$", said, re.MULTILINE
    )


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_quiet_shows_no_progress(command: str, root: Path, lab: Lab) -> None:
    lab.run("copy", "--quiet", root, lab.target)
    said = lab.run(*_argv(command, root, lab), "--quiet", "--format=json").stderr
    assert said == ""


@pytest.mark.parametrize("command", ["", *SUBCOMMANDS])
def test_help_is_there(command: str, lab: Lab) -> None:
    said = lab.run(*filter(None, [command]), "--help").stdout
    assert said.startswith("Usage: ")
    assert ("Exit codes:" in said) == (not command)


def test_program_completes_commands_in_the_shell() -> None:
    env = {
        "_BOOTC_BOUND_IMAGES_COMPLETE": "bash_complete",
        "COMP_WORDS": "bootc-bound-images ver",
        "COMP_CWORD": "1",
    }
    assert run((PROGRAM,), env=env).stdout == "plain,verify\n"


# --- what is touched, and from where options come ----------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_dry_run_touches_nothing(form: str, root: Path, lab: Lab) -> None:
    before = listing(lab.target)
    done = lab.run("copy", "--dry-run", f"--format={form}", root, lab.target)
    assert listing(lab.target) == before
    if form == "json":
        seen = document(done)
        assert (len(seen["planned"]), seen["images"]) == (2, [])
    else:
        assert done.stdout.endswith(f"would be copied to {lab.store}; nothing was changed\n")


def test_dry_run_finds_what_a_run_would_stumble_over(lab: Lab) -> None:
    lab.run("copy", "--dry-run", lab.root("localhost/absent:1"), lab.target, ok=4)


@pytest.mark.parametrize("engine", ["direct", "skopeo", "podman"])
def test_options_have_environment_names(engine: str, root: Path, lab: Lab) -> None:
    variables = {"BOUND_IMAGES_COPY_ENGINE": engine, "BOUND_IMAGES_COPY_FORMAT": "json"}
    done = lab.run("copy", root, lab.target, env=variables)
    assert {image["engine"] for image in document(done)["images"]} == {engine}


def test_environment_name_of_every_option_is_the_option_as_written() -> None:
    context = Context(program)
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert command
        for option in command.params:
            if isinstance(option, Option) and option.name != "help":
                written = (each.removeprefix("--").replace("-", "_") for each in option.opts)
                assert option.name in written, f"{command.name} {option.opts}"


def test_option_wins_over_its_environment_name(root: Path, lab: Lab) -> None:
    argv = ("copy", "--engine=direct", "--format=json", root, lab.target)
    done = lab.run(*argv, env={"BOUND_IMAGES_COPY_ENGINE": "podman"})
    assert {image["engine"] for image in document(done)["images"]} == {"direct"}


USAGE: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no-such-command": (("paste",), "No such command"),
    "no-such-option": (("list", "--frobnicate"), "No such option"),
    "no-target": (("copy", "/"), "Missing argument 'TARGET'"),
    "no-such-engine": (("copy", "--engine=rsync", "/", "/mnt"), "'rsync' is not one of"),
    "no-such-backend": (("verify", "--backend=zfs", "/mnt"), "'zfs' is not one of"),
    "no-such-format": (("list", "--format=xml"), "'xml' is not one of"),
    "jobs-zero": (("verify", "--jobs=0", "/mnt"), "0 is not in the range"),
    "closed-progress-fd": (("list", "--progress-fd=77"), "77 is not an open file descriptor"),
    "absent-source": (("list", "/nowhere"), "/nowhere"),
    "file-as-source": (("list", "/etc/hostname"), "/etc/hostname"),
    "absent-target": (("verify", "/nowhere"), "/nowhere"),
    "absent-lock": (("verify", "--lock=/nowhere.json", "/mnt"), "/nowhere.json"),
    "absent-receipt": (("verify", "--receipt=/nowhere.json", "/mnt"), "/nowhere.json"),
    "absent-store": (("check", "/mnt", "--store=/nowhere"), "/nowhere"),
    "strange-store": (("check", "/mnt", "--store=ftp:x"), "ftp:x"),
    "absent-image-as-source": (("list", "containers-storage:localhost/absent:1"), "absent:1"),
    "no-reference-as-source": (("list", "containers-storage:A B"), "A B"),
    "absent-scratch": (("check", "--scratch=/nowhere", "/mnt"), "/nowhere"),
}


@pytest.mark.parametrize(("argv", "told"), USAGE.values(), ids=USAGE)
def test_wrong_usage_is_exit_code_2(argv: tuple[str, ...], told: str, lab: Lab) -> None:
    done = lab.run(*argv, ok=2)
    assert told in done.stderr
    assert done.stdout == ""


def test_wrong_environment_is_named(root: Path, lab: Lab) -> None:
    done = lab.run("copy", root, lab.target, ok=2, env={"BOUND_IMAGES_COPY_ENGINE": "rsync"})
    assert "'rsync' is not one of" in done.stderr


# --- files that are not what they should be ----------------------------------------------------


GARBAGE = {
    "binary": bytes(range(256)) * 4,
    "cut-json": b'[{"id": "',
    "other-json": b'{"a": [1, {"b": null}]}',
    "deep-json": b"[" * 100_000,
}


@pytest.fixture
def damageable(image_sources: ImageSources, lab: Lab) -> Lab:
    """A lab whose store has one image and may be damaged."""
    store = make_store(lab.directory / "damageable")
    run(("cp", "-a", f"{image_sources.extra_store.root}/.", store.root))
    return replace(lab, source=store)


def _image(store: Path) -> str:
    (image,) = (id_ for id_, record in records(store, "images").items() if record.get("names"))
    return image


def _config(store: Path) -> Path:
    image = _image(store)
    key = base64.b64encode(f"sha256:{image}".encode()).decode()
    return store / f"overlay-images/{image}/={key}"


def _top_layer(store: Path) -> str:
    return str(records(store, "images")[_image(store)]["layer"])


SOURCE_FILES: Mapping[str, Callable[[Path], Path]] = {
    "images.json": lambda store: store / "overlay-images/images.json",
    "layers.json": lambda store: store / "overlay-layers/layers.json",
    "manifest": lambda store: store / "overlay-images" / _image(store) / "manifest",
    "config": _config,
    "tar-split": lambda store: store / f"overlay-layers/{_top_layer(store)}.tar-split.gz",
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("file", SOURCE_FILES)
def test_damaged_source_store_is_named_and_the_target_left_alone(
    file: str, garbage: str, damageable: Lab
) -> None:
    SOURCE_FILES[file](damageable.source.root).write_bytes(GARBAGE[garbage])
    before = listing(damageable.target)
    root = damageable.root("localhost/extra:1")
    done = damageable.run("copy", root, damageable.target, ok=4)
    assert str(damageable.source.root) in done.stderr
    assert "hint: " in done.stderr
    assert listing(damageable.target) == before


@pytest.mark.parametrize("file", ["images.json", "layers.json"])
def test_empty_records_are_an_empty_store_as_they_are_for_podman(
    file: str, damageable: Lab
) -> None:
    SOURCE_FILES[file](damageable.source.root).write_bytes(b"")
    root = damageable.root("localhost/extra:1")
    done = damageable.run("copy", root, damageable.target, ok=4)
    assert str(damageable.source.root) in done.stderr
    assert list(damageable.target.iterdir()) == []


@pytest.mark.parametrize(("engine", "code"), [("direct", 6), ("skopeo", 5), ("podman", 5)])
def test_damaged_layer_is_never_proven(engine: str, code: int, damageable: Lab) -> None:
    store = damageable.source.root
    path = store / f"overlay/{_top_layer(store)}/diff/bin/busybox"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    root = damageable.root("localhost/extra:1")
    done = damageable.run("copy", f"--engine={engine}", root, damageable.target, ok=code)
    assert "localhost/extra:1" in done.stderr
    assert not (damageable.target / "ostree/bootc/bound-images.json").exists()
    damageable.run("verify", "--source", root, damageable.target, ok=6)


def _copied(lab: Lab) -> Lab:
    lab.run("copy", lab.root("localhost/extra:1"), lab.target)
    return lab


@pytest.mark.parametrize("garbage", ["binary", "cut-json", "other-json", "deep-json"])
@pytest.mark.parametrize("kind", ["lock", "receipt", "own-receipt"])
def test_garbage_lock_or_receipt_is_named(kind: str, garbage: str, damageable: Lab) -> None:
    own = damageable.target / "ostree/bootc/bound-images.json"
    file = own if kind == "own-receipt" else damageable.directory / "file.json"
    _copied(damageable)
    file.write_bytes(GARBAGE[garbage])
    options = () if kind == "own-receipt" else (f"--{kind}={file}",)
    done = damageable.run("verify", *options, damageable.target, ok=2)
    assert done.stderr.startswith(f"error: {file}: ")


WRONG_ENTRIES: Mapping[str, tuple[str, str, object]] = {
    "lock-reference": ("lock", "reference", 7),
    "lock-id": ("lock", "image_id", "sha256:short"),
    "lock-digest": ("lock", "digest", None),
    "receipt-reference": ("receipt", "reference", ""),
    "receipt-names": ("receipt", "names", [None]),
    "receipt-digests": ("receipt", "manifest_digests", "sha256:0"),
}


@pytest.mark.parametrize(("kind", "key", "value"), WRONG_ENTRIES.values(), ids=WRONG_ENTRIES)
def test_wrong_entry_of_a_lock_or_receipt_is_named(
    kind: str, key: str, value: object, damageable: Lab
) -> None:
    files = {name: damageable.directory / f"{name}.json" for name in ("lock", "receipt")}
    root = damageable.root("localhost/extra:1")
    damageable.run("copy", "--receipt", files["receipt"], root, damageable.target)
    damageable.run("lock", root, "-o", files["lock"])
    content = json.loads(files[kind].read_text())
    content["images"][0][key] = value
    files[kind].write_text(json.dumps(content))
    done = damageable.run("verify", f"--{kind}={files[kind]}", damageable.target, ok=2)
    assert done.stderr.startswith(f"error: {files[kind]}: images[0]: ")


def test_lock_that_lacks_an_image_is_no_proof_of_it(root: Path, lab: Lab) -> None:
    lock = lab.directory / "lock.json"
    lab.run("lock", root, "-o", lock)
    content = json.loads(lock.read_text())
    del content["images"][1]
    lock.write_text(json.dumps(content))
    done = lab.run("check", "--lock", lock, root, ok=4)
    assert "the lock file does not have it" in done.stderr


@pytest.mark.parametrize("garbage", ["binary", "cut-json", "deep-json"])
@pytest.mark.parametrize("variable", ["CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"])
def test_garbage_configuration_is_named(variable: str, garbage: str, root: Path, lab: Lab) -> None:
    file = lab.directory / "garbage.conf"
    file.write_bytes(GARBAGE[garbage])
    done = lab.run("copy", root, lab.target, ok=2, env={variable: str(file)})
    assert f"error: {file}: is not TOML" in done.stderr
    assert list(lab.target.iterdir()) == []


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_unit_is_named(garbage: str, root: Path, lab: Lab) -> None:
    name = "usr/share/containers/systemd/1.image"
    (root / name).write_bytes(GARBAGE[garbage])
    done = lab.run("copy", root, lab.target, ok=3)
    assert name in done.stderr
    assert done.stderr.count("error:") == 1
    assert list(lab.target.iterdir()) == []


# --- receipts ----------------------------------------------------------------------------------


def test_receipt_is_the_same_bytes_for_the_same_facts(root: Path, lab: Lab) -> None:
    other = lab.directory / "receipt.json"
    written = []
    for number in range(2):
        target = lab.directory / f"target-{number}"
        target.mkdir()
        argv = ("copy", "--receipt", other, root, target)
        lab.run(*argv, env={"SOURCE_DATE_EPOCH": "1700000000"})
        written += [other.read_bytes(), (target / "ostree/bootc/bound-images.json").read_bytes()]
    assert len(set(written)) == 1
    receipt = json.loads(written[0])
    assert receipt["schema"] == "bootc-bound-images/receipt/2"
    assert receipt["created"] == "2023-11-14T22:13:20Z"
    assert receipt["source"] == str(root)


def test_receipt_says_where_each_image_was_declared_and_what_was_proven(
    root: Path, image_sources: ImageSources, lab: Lab
) -> None:
    lab.run("copy", root, lab.target)
    receipt = json.loads((lab.target / "ostree/bootc/bound-images.json").read_text())
    entry = next(e for e in receipt["images"] if e["reference"] == image_sources.web_by_digest)
    assert entry["declaration"] == {
        "link": "usr/lib/bootc/bound-images.d/1.image",
        "file": "usr/share/containers/systemd/1.image",
        "line": 2,
        "kind": "image",
        "names": [image_sources.web_by_digest],
        "bootc_name": image_sources.web_by_digest,
    }
    assert entry["image_id"] == image_sources.web.id
    assert [layer["diff_id"] for layer in entry["layers"]] == list(image_sources.web.diff_ids)
    assert entry["engine"] == "direct"
    assert {"content", "metadata"} <= set(entry["verified"])


@pytest.mark.parametrize("epoch", ["yesterday", "1_700_000_000", "+5", "-1", " 7 ", "1.5"])
def test_date_that_is_none_is_wrong_usage_before_anything_is_copied(
    epoch: str, root: Path, lab: Lab
) -> None:
    env = {"SOURCE_DATE_EPOCH": epoch}
    lab.run("check", root, ok=2, env=env)
    done = lab.run("copy", root, lab.target, ok=2, env=env)
    assert f"SOURCE_DATE_EPOCH: is {epoch!r}, expected seconds since 1970" in done.stderr
    assert list(lab.target.iterdir()) == []


@pytest.mark.parametrize("place", ["absent/r.json", "file/r.json", "/proc/r.json"])
def test_receipt_that_cannot_be_written_is_known_before_anything_is_copied(
    place: str, root: Path, lab: Lab
) -> None:
    (lab.directory / "file").touch()
    receipt = lab.directory / place
    done = lab.run("copy", root, lab.target, "--receipt", receipt, ok=4)
    assert f"error: {receipt}: the receipt cannot be written" in done.stderr
    assert list(lab.target.iterdir()) == []


def test_receipt_that_is_a_directory_is_wrong_usage(root: Path, lab: Lab) -> None:
    done = lab.run("copy", root, lab.target, "--receipt", lab.directory, ok=2)
    assert f"'{lab.directory}' is a directory" in done.stderr
    assert list(lab.target.iterdir()) == []


# --- signals -----------------------------------------------------------------------------------


LARGE = "localhost/large:1"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with an image that takes a while to copy."""
    base = tmp_path_factory.mktemp("large")
    store = make_store(base / "store")
    source = random.Random(1)  # noqa: S311 - the same in every run
    noise = b"".join(source.randbytes(64 << 20) for _ in range(5))
    write_layout(base / "layout", "1", [layer_tar([Entry(name="noise", content=noise)])])
    store.skopeo("copy", "--quiet", f"oci:{base}/layout:1", store.ref(LARGE))
    return store


@contextmanager
def _mounts_of(pid: int) -> Iterator[Callable[[], str]]:
    """Look into the mount namespace of a process, also when the process has gone."""
    held = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    try:
        argv = ("nsenter", f"--mount=/proc/{os.getpid()}/fd/{held}", "cat", "/proc/self/mountinfo")
        yield lambda: run(argv).stdout
    finally:
        os.close(held)


def _copies(engine: str, mark: str, target: Path) -> bool:
    """Whether copying has begun: by a tool, or into a scratch directory beside the store."""
    if engine == "direct":
        return any(target.rglob("bound-images-scratch-*"))
    return any(f" {engine} " in line for line in _processes(mark))


def _wait_for_words(process: subprocess.Popen[str], words: str) -> None:
    """Return when a process that copies has said so."""
    assert process.stderr is not None
    while words not in (said := process.stderr.readline()):
        assert said, "it ended before it copied"


def test_signal_that_is_ignored_from_the_start_stays_ignored(large: Store, lab: Lab) -> None:
    """As nohup(1) has it, and a shell's background jobs."""
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *COMMAND)
    with subprocess.Popen(
        unshared((*ignoring, "copy", lab.root(LARGE), lab.target)), env={**os.environ, **large.env},
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        _wait_for_words(process, "copying 320 MiB")
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "1 image verified" in out


_INTERRUPTED_WHILE_LOADING = """
import os, signal, sys
from installer_plugin.cli import main
_, module, number, *words = sys.argv
def hear(event, arguments):
    if event == "import" and arguments[0] == module:
        os.kill(os.getpid(), int(number))
sys.addaudithook(hear)
main(words)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
@pytest.mark.parametrize("module", ["click", "installer_plugin.cli.output"])
def test_program_that_is_interrupted_while_it_loads_says_so(
    module: str, number: signal.Signals, lab: Lab
) -> None:
    python = (sys.executable, "-c", _INTERRUPTED_WHILE_LOADING)
    done = run((*python, module, str(int(number)), "verify", lab.target), ok=(130,))
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"interrupted by {number.name}: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
@pytest.mark.parametrize("engine", ["direct", "skopeo"])
def test_interrupted_copy_ends_cleanly_and_can_be_run_again(
    engine: str, number: signal.Signals, large: Store, lab: Lab
) -> None:
    mark = uuid.uuid4().hex
    root = lab.root(LARGE)
    argv = ("copy", f"--engine={engine}", root, lab.target)
    env = {**os.environ, **large.env, SESSION_VARIABLE: mark}
    with subprocess.Popen(
        unshared((*COMMAND, *argv)), env=env, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        _wait_for_words(process, f"copying 320 MiB with {engine}")
        with _mounts_of(process.pid) as mounts:
            before = mounts()
            wait_until(lambda: _copies(engine, mark, lab.target))
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            assert _processes(mark) == []
            assert set(mounts().splitlines()) <= set(before.splitlines())
    assert process.returncode == 130, err
    assert out == ""
    # The tool may have ended while the signal was on its way; then later stages have spoken too.
    stages = ("copy: ", "label: ", "verify: ")
    (line,) = [line for line in err.splitlines() if not line.startswith(stages)]
    assert line.startswith(f"interrupted by {number.name}: ")
    again = replace(lab, source=large)
    again.run(*argv)
    again.run("verify", lab.target)
    assert list(lab.target.rglob("bound-images-scratch-*")) == []
