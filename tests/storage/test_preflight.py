"""Stage preflight on real targets: everything that is wrong is known, at once, and nothing changes."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from installer_plugin.errors import Problem
from installer_plugin.lockfile import lock_images
from installer_plugin.model import ImageId, Layer, ResolvedImage, SourceKind
from installer_plugin.process.pool import Crew
from installer_plugin.process.runner import Runner
from installer_plugin.stages import preflight as stage
from installer_plugin.stages.preflight import (
    Plan,
    bootc_findings,
    check_space,
    check_target,
    check_tools,
    preflight,
)
from installer_plugin.stages.resolve import resolve
from installer_plugin.storage.base import EngineChoice
from installer_plugin.storage.engine.select import (
    Selected,
    Surroundings,
    required_tools,
    select_engines,
)
from installer_plugin.storage.engine.skopeo import SkopeoEngine
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.local import open_local_stores
from installer_plugin.storage.store.target_store import TargetStore, find_target_store
from tests.support.commands import run
from tests.support.disks import LoopFsFactory
from tests.support.images import ImageSources
from tests.support.product import Lab, records
from tests.support.values import bound, diff_id, digest, hexa, resolved


def _store(base: Path) -> TargetStore:
    base.mkdir(exist_ok=True)
    return find_target_store(base)


def _images(sources: ImageSources, *names: str) -> tuple[ResolvedImage, ...]:
    with open_local_stores([sources.store.root], RegistriesConf(aliases={})) as stores:
        return resolve([bound(name) for name in names], [stores]).images


def _plan(*images: ResolvedImage, target: TargetStore, scratch: Path | None = None) -> Plan:
    skopeo = SkopeoEngine((), Runner())
    return Plan(
        images=images,
        selected=tuple(Selected(image, skopeo) for image in images),
        target=target,
        scratch=(scratch or target.physical_root,),
    )


CREW = Crew(Runner())
"""Has too little to do to start processes."""


def _said(problems: Iterator[Problem] | tuple[Problem, ...]) -> str:
    return "\n".join(f"{problem} [{problem.hint}]" for problem in problems)


def _large(size: int, entries: int = 0, reference: str = "x:1") -> ResolvedImage:
    layer = Layer(diff_id=diff_id(reference), size=size, entries=entries)
    return resolved(reference, layers=(layer,))


# --- go ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", list(EngineChoice))
def test_healthy_plan_has_no_problem_and_changes_nothing(
    choice: EngineChoice, image_sources: ImageSources, tmp_path: Path
) -> None:
    images = _images(image_sources, image_sources.app_a.name, image_sources.web_by_digest)
    target = _store(tmp_path / "target")
    surroundings = Surroundings(
        (image_sources.store.root,), signatures=False, crew=CREW, runner=Runner()
    )
    selected = select_engines(choice, images, surroundings)
    locked = {entry.reference: entry for entry in lock_images(images)}
    plan = Plan(
        images=images, selected=selected, target=target, scratch=(tmp_path,), lock=locked,
        direct_only=choice is EngineChoice.DIRECT,
    )  # fmt: skip
    assert preflight(plan, CREW, Runner()).problems == ()
    assert list((tmp_path / "target").iterdir()) == []


def test_nothing_to_copy_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert preflight(Plan(images=()), CREW, Runner()).problems == ()
    assert required_tools(()) == ()


# --- room -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_target_that_is_too_small_is_told(
    kind: str, loop_fs: LoopFsFactory, tmp_path: Path
) -> None:
    disk = loop_fs("btrfs", 128 << 20) if kind == "btrfs" else loop_fs("ext4", 32 << 20)
    target = _store(disk.mount)
    plan = _plan(_large(200 << 20), target=target, scratch=tmp_path)
    (problem,) = check_space(plan, target)
    assert problem.subject == str(disk.mount)
    assert "MiB free, the bound images need 202 MiB" in problem.message
    assert tuple(check_space(_plan(_large(8 << 20), target=target, scratch=tmp_path), target)) == ()


def test_target_with_too_few_inodes_is_told(loop_fs: LoopFsFactory, tmp_path: Path) -> None:
    disk = loop_fs("ext4", 32 << 20)
    target = _store(disk.mount)
    free = os.statvfs(disk.mount).f_favail
    plan = _plan(_large(1024, entries=free + 1), target=target, scratch=tmp_path)
    assert f"has {free} free inodes, the bound images need {free + 1}" in _said(
        check_space(plan, target)
    )
    few = _plan(_large(1024, entries=100), target=target, scratch=tmp_path)
    assert tuple(check_space(few, target)) == ()


def test_file_system_without_a_number_of_inodes_has_enough(
    loop_fs: LoopFsFactory, tmp_path: Path
) -> None:
    target = _store(loop_fs("btrfs", 512 << 20).mount)
    plan = _plan(_large(1024, entries=10_000), target=target, scratch=tmp_path)
    assert tuple(check_space(plan, target)) == ()


def test_scratch_that_is_too_small_is_told_with_every_place(
    loop_fs: LoopFsFactory, tmp_path: Path
) -> None:
    small = loop_fs("ext4", 32 << 20).mount
    target = _store(tmp_path / "target")
    plan = replace(_plan(_large(100 << 20), target=target), scratch=(small, small / "absent"))
    (problem,) = check_space(plan, target)
    assert problem.subject == "scratch directory"
    assert f"{small} has " in problem.message
    assert f"{small}/absent has 0 B free, the largest image needs 200 MiB" in problem.message
    assert "--scratch" in problem.hint
    assert tuple(check_space(replace(plan, scratch=(small, tmp_path)), target)) == ()


def test_layers_that_are_there_need_no_room(
    image_sources: ImageSources, loop_fs: LoopFsFactory
) -> None:
    (image,) = _images(image_sources, image_sources.web.name)
    disk = loop_fs("ext4", 32 << 20)
    target = _store(disk.mount)
    target.graph_root.parent.mkdir(parents=True)
    shutil.copytree(image_sources.extra_store.root, target.graph_root, symlinks=True)
    os.sync()
    free = os.statvfs(disk.mount)
    (disk.mount / "filler").write_bytes(bytes(free.f_bfree * free.f_frsize - (2 << 20)))
    assert "the bound images need" in _said(check_space(_plan(image, target=target), target))
    with open_local_stores([image_sources.extra_store.root], RegistriesConf(aliases={})) as stores:
        present = resolve([bound(image_sources.extra.name)], [stores]).images
    assert tuple(check_space(_plan(*present, target=target), target)) == ()


# --- the target -------------------------------------------------------------------------------


def test_read_only_target_is_told(loop_fs: LoopFsFactory, tmp_path: Path) -> None:
    disk = loop_fs("ext4")
    disk.remount(read_only=True)
    problems = tuple(check_target(_store(disk.mount)))
    disk.remount(read_only=False)
    (problem,) = problems
    assert "is read-only" in problem.message
    assert problem.hint == "mount it read-write"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("overlay-layers/layers.json", "[{", "is not JSON"),
        ("overlay-images/images.json", '[{"id":"../x"}]', "expected an ID"),
        ("overlay-layers/layers.json", "[]", "is missing, expected since"),
        ("libpod/bolt_state.db", "x", "libpod/bolt_state.db"),
    ],
    ids=["layers", "images", "chain", "foreign-database"],
)
def test_damaged_target_store_is_told(
    file: str, content: str, message: str, image_sources: ImageSources, tmp_path: Path
) -> None:
    target = _store(tmp_path / "target")
    target.graph_root.parent.mkdir(parents=True)
    shutil.copytree(image_sources.extra_store.root, target.graph_root, symlinks=True)
    (target.graph_root / file).parent.mkdir(exist_ok=True)
    (target.graph_root / file).write_text(content)
    assert message in _said(check_target(target))


def test_store_that_is_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "ostree/bootc").mkdir(parents=True)
    (tmp_path / "ostree/bootc/storage").touch()
    target = find_target_store(tmp_path)
    (problem,) = check_target(target)
    assert "cannot be opened as a store" in problem.message
    assert f"remove {target.graph_root}" in problem.hint


# --- the lock file ----------------------------------------------------------------------------


def test_image_that_is_not_the_locked_one_is_told_with_its_declaration() -> None:
    same, other, absent = resolved("a:1"), resolved("b:1"), resolved("c:1")
    moved = replace(other, image_id=ImageId(hexa("moved")))
    lock = {entry.reference: entry for entry in lock_images([same, other])}
    plan = Plan(images=(same, moved, absent), lock=lock)
    first, second = preflight(plan, CREW, Runner()).problems
    assert (first.subject, second.subject) == ("b:1", "c:1")
    assert f"its image ID is {hexa('moved')}, the lock file demands" in first.message
    assert "the lock file does not have it" in second.message
    assert "bootc-bound-images lock" in first.hint
    assert "app.container:2" in first.where


# --- tools ------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is the whole PATH, with a shell for the scripts in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def _tool(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo skopeo version 1.9.0", None),
        ("echo skopeo version 1.20.0-dev commit: abc", None),
        ("echo skopeo version 2.0", None),
        ("echo skopeo version 1.8.9", "is version '1.8.9', expected 1.9 or later"),
        ("echo skopeo version 0.1.41", "is version '0.1.41', expected 1.9 or later"),
        ("echo something else", "is version 'something else', expected 1.9 or later"),
        ("echo broken >&2; exit 7", "skopeo failed with exit code 7: broken"),
        ("kill -9 $$", "skopeo was ended by SIGKILL"),
    ],
    ids=["oldest", "newer", "next", "older", "much-older", "no-version", "fails", "crashes"],
)
def test_version_of_a_tool_is_asked_for(script: str, message: str | None, tools: Path) -> None:
    _tool(tools, "skopeo", script)
    problems = tuple(check_tools(("skopeo",), Runner()))
    assert [problem.message for problem in problems] == ([message] if message else [])


def test_all_missing_tools_are_told(tools: Path) -> None:
    first, second = check_tools(("podman", "sync"), Runner())
    assert (first.subject, second.subject) == ("podman", "sync")
    assert first.message == "not found in PATH, expected it there"
    assert "apt-get install podman" in first.hint


def test_tools_are_those_of_the_engines_that_are_used(image_sources: ImageSources) -> None:
    images = _images(image_sources, image_sources.app_a.name)
    surroundings = Surroundings(
        (image_sources.store.root,), signatures=False, crew=CREW, runner=Runner()
    )
    remote = replace(images[0], source=replace(images[0].source, kind=SourceKind.SSH))

    def needed(choice: EngineChoice, *chosen: ResolvedImage) -> set[str]:
        return set(required_tools(select_engines(choice, chosen, surroundings)))

    assert "skopeo" not in needed(EngineChoice.DIRECT, *images)
    assert "podman" in needed(EngineChoice.PODMAN, *images)
    assert "skopeo" in needed(EngineChoice.SKOPEO, *images)
    assert {"podman", "skopeo", "ssh", "sync"} <= needed(EngineChoice.AUTO, remote)


# --- all of it --------------------------------------------------------------------------------


def test_all_problems_are_told_at_once(
    loop_fs: LoopFsFactory, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    disk = loop_fs("ext4", 32 << 20)
    disk.remount(read_only=True)
    monkeypatch.setenv("PATH", str(tools))
    image = _large(200 << 20)
    plan = replace(_plan(image, target=_store(disk.mount)), lock={})
    said = _said(preflight(plan, CREW, Runner()).problems)
    monkeypatch.undo()
    disk.remount(read_only=False)
    for part in (
        "skopeo: not found",
        "does not have it",
        "is read-only",
        "need 202 MiB",
        "scratch",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("reference", "manifests", "kind", "compressed", "code"),
    [
        ("x:1", ("one",), SourceKind.CONTAINERS_STORAGE, True, None),
        ("x:1", ("list", "one"), SourceKind.CONTAINERS_STORAGE, True, "bootc-loses-digest"),
        (f"x@{digest('one')}", ("one",), SourceKind.CONTAINERS_STORAGE, True, "bootc-cannot-copy-pinned"),
        (f"x@{digest('one')}", ("one",), SourceKind.CONTAINERS_STORAGE, False, None),
        (f"x@{digest('one')}", ("one",), SourceKind.DIR, True, None),
    ],
    ids=["tag", "list", "pinned-compressed", "pinned", "layout"],
)  # fmt: skip
def test_what_bootc_alone_would_do_is_a_finding(
    reference: str,
    manifests: tuple[str, ...],
    kind: SourceKind,
    code: str | None,
    *,
    compressed: bool,
) -> None:
    image = resolved(reference, manifests=manifests, kind=kind, compressed=compressed)
    assert [finding.code for _, finding in bootc_findings([image])] == ([code] if code else [])


def test_real_tools_are_new_enough() -> None:
    assert tuple(check_tools(tuple(stage.MINIMUM_VERSIONS), Runner())) == ()
    assert stage.tool_version("skopeo", Runner()) in run(("skopeo", "--version")).stdout


# --- the source's layers ------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "direct", "skopeo", "podman"])
@pytest.mark.parametrize(
    "part", ["overlay/{}/diff", "overlay/{}", "overlay-layers/{}.tar-split.gz"]
)
def test_part_that_a_source_layer_lacks_is_known_before_copying(
    part: str, engine: str, lab: Lab, image_sources: ImageSources
) -> None:
    store = lab.directory / "damaged"
    run(("cp", "--archive", image_sources.store.root, store))
    web = records(store, "images")[image_sources.web.id]
    gone = store / part.format(web["layer"])
    run(("rm", "--recursive", gone))
    argv = (lab.root(image_sources.web.name), "--store", store, "--engine", engine)
    lab.run("check", *argv, ok=4)
    done = lab.run("copy", argv[0], lab.target, *argv[1:], ok=4)
    assert str(gone) in done.stderr
    assert "pull it again" in done.stderr
    assert list(lab.target.iterdir()) == []
