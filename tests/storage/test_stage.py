"""Stages one at a time, by the command and by the files in hooks/bootc, on real stores."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from installer_plugin.errors import ConfigError
from installer_plugin.events import Events
from installer_plugin.hooks.phases import OUR_STAGES, VERIFY_STAGE, Phase
from installer_plugin.hooks.running import Facts, run_phase
from installer_plugin.pipeline import Stage
from installer_plugin.process.runner import Runner
from installer_plugin.request import Context, Request
from installer_plugin.state.run_stage import hook_state, note_overridden, run_stage, stage_calls
from installer_plugin.state.state_directory import StateDirectory
from tests.support.disks import FsKind, LoopFsFactory
from tests.support.formats import assert_as_described
from tests.support.hooked import Hooked, Said
from tests.support.images import REPOSITORY, ImageSources
from tests.support.product import Lab, document, listing, product

RECEIPT = "ostree/bootc/bound-images.json"
STAGES = tuple(Stage)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A run of stages on one state directory."""

    lab: Lab
    state: Path
    root: Path

    def __call__(
        self, stage: str, *args: str | os.PathLike[str], ok: int = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        argv = ("stage", stage, "--state", self.state, *args)
        return product(*argv, env={**self.lab.source.env, **env}, ok=(ok,))

    def upto(self, last: Stage) -> None:
        """Run all stages up to this one."""
        self("discover", "--source", self.root, "--target", self.lab.target)
        for stage in STAGES[1 : STAGES.index(last) + 1]:
            self(stage)

    def error(
        self, stage: str, *args: str | os.PathLike[str], ok: int = 2, **env: str
    ) -> dict[str, Any]:
        """Run a stage that fails and return its one problem."""
        seen = document(self(stage, *args, "--format=json", ok=ok, **env))
        assert seen["exit_code"] == ok
        (problem,) = seen["problems"]
        assert isinstance(problem, dict)
        return problem


@pytest.fixture
def line(lab: Lab, image_sources: ImageSources, tmp_path: Path) -> Line:
    """Two images to be bound, nothing done yet."""
    root = lab.root(image_sources.app_b.name, image_sources.web_by_digest)
    return Line(lab=lab, state=tmp_path / "state", root=root)


def _receipt(target: Path) -> dict[str, Any]:
    value = json.loads((target / RECEIPT).read_text())
    assert isinstance(value, dict)
    return value


# --- the whole line --------------------------------------------------------------------------


def test_stages_do_what_copy_does(line: Line, image_sources: ImageSources, tmp_path: Path) -> None:
    line.upto(Stage.RECORD)
    line.lab.run("verify", line.lab.target)
    other = tmp_path / "other"
    other.mkdir()
    line.lab.run("copy", line.root, other)
    first, second = _receipt(line.lab.target), _receipt(other)
    for receipt in (first, second):
        receipt.pop("created")
    assert first == second
    assert not line.lab.unknown(image_sources.app_b.name, image_sources.web_by_digest)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_files_for_other_runners_install_on_a_real_file_system(
    line: Line, image_sources: ImageSources, loop_fs: LoopFsFactory, kind: FsKind
) -> None:
    """The runner is a shell loop: the target is known from post-install on, read-only in verify."""
    disk = loop_fs(kind)
    runner = (
        'set -e\ncd /\nfor hook in "$HOOKS/$1.d"/*; do\n'
        '    case $hook in *.pyc) continue ;; esac\n    "$hook" "$1"\ndone\n'
    )
    env = {
        **line.lab.source.env,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOOKS": str(REPOSITORY / "hooks/bootc"),
        "BOUND_IMAGES_STATE": str(line.state),
        "BOUND_IMAGES_SOURCE": str(line.root),
        "BOUND_IMAGES_TARGET": "",
    }

    def phase(name: Phase) -> None:
        subprocess.run(
            ("unshare", "--mount", "sh", "-c", runner, "sh", name),
            env={**os.environ, **env}, check=True,
        )  # fmt: skip

    phase(Phase.PRE_INSTALL)
    assert {path.name for path in disk.mount.iterdir()} <= {"lost+found"}
    env["BOUND_IMAGES_TARGET"] = str(disk.mount)
    phase(Phase.POST_INSTALL)
    phase(Phase.VERIFY)
    line.lab.run("verify", disk.mount)
    references = {image["reference"] for image in _receipt(disk.mount)["images"]}
    assert references == {image_sources.app_b.name, image_sources.web_by_digest}


def test_verification_reads_a_read_only_target(line: Line, loop_fs: LoopFsFactory) -> None:
    disk = loop_fs()
    line("discover", "--source", line.root)
    for stage in ("resolve", "preflight"):
        line(stage)
    line("copy", "--target", disk.mount)
    line("label")
    disk.remount(read_only=True)
    line("verify")
    assert "cannot be written" in line.error("record", ok=5)["message"]
    disk.remount(read_only=False)
    line("record")
    line.lab.run("verify", disk.mount)


def test_files_for_other_runners_are_our_stages_and_run_as_they_are() -> None:
    for phase, names in OUR_STAGES.items():
        folder = REPOSITORY / f"hooks/bootc/{phase}.d"
        files = sorted(folder.iterdir()) if names else []
        assert tuple(file.name for file in files) == names
        for file in files:
            assert file.stat().st_mode & 0o777 == 0o755
            lines = file.read_text().splitlines()
            assert lines[0] == "#!/bin/sh"
            assert len(lines) <= 10
            assert f" stage {file.name.partition('-')[2]} " in lines[-1]
            subprocess.run(("sh", "-n", file), check=True)


def test_each_stage_has_a_document(line: Line, image_sources: ImageSources) -> None:
    line("discover", "--source", line.root, "--target", line.lab.target)
    for stage in STAGES:
        seen = document(line(stage, "--format=json"))
        assert seen["schema"] == f"bootc-bound-images/stage-{stage}/2"
        assert seen["source"] == str(line.root)
        assert json.loads((line.state / f"{stage}.json").read_text()) == seen
        if stage not in {Stage.LABEL, Stage.RECORD}:
            references = [image["reference"] for image in seen["images"]]
            assert references == [image_sources.app_b.name, image_sources.web_by_digest]


# --- order -----------------------------------------------------------------------------------


def test_stage_before_its_time_is_a_usage_error(line: Line) -> None:
    for before, stage in itertools.pairwise(STAGES):
        problem = line.error(stage)
        assert problem["subject"] == f"stage {stage}"
        assert problem["message"].startswith(f"comes after stage {before}, which has not run")
        assert f"stage {before} --state" in problem["hint"]
        options = ("--source", line.root, "--target", line.lab.target)
        line(before, *(options if before is Stage.DISCOVER else ()))


def test_stage_that_runs_again_asks_for_all_after_it(line: Line) -> None:
    line.upto(Stage.VERIFY)
    line("copy")
    assert "comes after stage verify" in line.error("record")["message"]


def test_discover_again_keeps_the_request_and_forgets_the_rest(line: Line) -> None:
    line.upto(Stage.PREFLIGHT)
    line("discover")
    assert "comes after stage resolve" in line.error("preflight")["message"]
    line("resolve")


def test_unknown_stage_is_a_usage_error(line: Line) -> None:
    assert "'report' is not one of" in line("report", ok=2).stderr


# --- the request -----------------------------------------------------------------------------


def test_first_stage_needs_a_source(line: Line) -> None:
    assert line.error("discover")["subject"] == "--source"


def test_options_belong_to_the_first_stage(line: Line) -> None:
    line.upto(Stage.RESOLVE)
    problem = line.error("preflight", "--engine=skopeo", "--jobs=1")
    assert problem["subject"] == "--engine, --jobs"
    assert "belongs to stage discover" in problem["message"]
    line("preflight", BOUND_IMAGES_STAGE_ENGINE="skopeo")


def test_options_of_the_first_stage_hold_for_all(line: Line, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    line(
        "discover", "--source", line.root, "--target", line.lab.target, "--engine=skopeo",
        "--receipt", copy, "--jobs=1",
    )  # fmt: skip
    for stage in STAGES[1:]:
        line(stage)
    assert {image["engine"] for image in json.loads(copy.read_text())["images"]} == {"skopeo"}


def test_target_is_asked_for_when_it_is_needed(line: Line, tmp_path: Path) -> None:
    line("discover", "--source", line.root)
    line("resolve")
    line("preflight")
    assert "--target DIR" in line.error("copy")["hint"]
    line("copy", "--target", line.lab.target)
    line("label", "--target", line.lab.target)
    other = tmp_path / "other"
    error = line.error("verify", "--target", other)
    assert error["message"] == f"is {other}, but was {line.lab.target} for an earlier stage"


def test_paths_mean_the_same_in_another_working_directory(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line.root.parent)
    line("discover", "--source", line.root.name, "--target", line.lab.target.name)
    monkeypatch.chdir("/")
    for stage in STAGES[1:]:
        line(stage)
    line.lab.run("verify", line.lab.target)


def test_variables_stand_for_options_where_there_is_no_request_yet(line: Line) -> None:
    env = {
        "BOUND_IMAGES_STATE": str(line.state),
        "BOUND_IMAGES_SOURCE": str(line.root),
        **line.lab.source.env,
    }
    product("stage", "discover", env=env)
    other = env | {"BOUND_IMAGES_SOURCE": "/nowhere"}
    product("stage", "discover", env=other)
    product("stage", "resolve", env=other)


def test_state_directory_of_others_is_refused(line: Line) -> None:
    line.upto(Stage.DISCOVER)
    line.state.chmod(0o777)
    assert "others can write it" in line.error("resolve")["message"]
    line.state.chmod(0o700)
    os.chown(line.state, 1000, 0)
    assert "belongs to user 1000" in line.error("resolve")["message"]


# --- what changes meanwhile --------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.PREFLIGHT, Stage.COPY])
def test_declaration_that_changes_meanwhile_is_refused(
    line: Line, image_sources: ImageSources, stage: Stage
) -> None:
    line.upto(STAGES[STAGES.index(stage) - 1])
    unit = line.root / "usr/share/containers/systemd/0.image"
    unit.write_text(f"[Image]\nImage={image_sources.app_a.name}\n")
    seen = document(line(stage, "--format=json", ok=4))
    messages = {problem["subject"]: problem["message"] for problem in seen["problems"]}
    assert messages[image_sources.app_b.name].startswith("is not declared now, was ")
    assert "was not declared at stage" in messages[image_sources.app_a.name]
    assert list(line.lab.target.iterdir()) == []


def test_verification_expects_what_is_declared_by_then(
    line: Line, image_sources: ImageSources
) -> None:
    line.upto(Stage.LABEL)
    unit = line.root / "usr/share/containers/systemd/0.image"
    unit.write_text(f"[Image]\nImage={image_sources.app_a.name}\n")
    assert image_sources.app_a.name in line.error("verify", ok=6)["message"]


def test_verification_reads_the_disk(line: Line, image_sources: ImageSources) -> None:
    line.upto(Stage.LABEL)
    victim = next(
        path
        for path in (line.lab.store / "overlay").glob("*/diff/**/*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 100
    )
    content = bytearray(victim.read_bytes())
    content[50] ^= 1
    victim.write_bytes(content)
    seen = document(line("verify", "--format=json", ok=6))
    assert victim.name in str(seen["problems"])
    assert "comes after stage verify" in line.error("record")["message"]
    assert not (line.lab.target / RECEIPT).exists()


def test_store_that_changes_after_verification_is_not_recorded(line: Line) -> None:
    line.upto(Stage.VERIFY)
    records = line.lab.store / "overlay-images/images.json"
    records.write_text(records.read_text() + "\n")
    assert "other records than when it was verified" in line.error("record", ok=6)["message"]
    assert not (line.lab.target / RECEIPT).exists()
    line("verify")
    line("record")


@pytest.mark.parametrize("file", ["copy.json", "request.json", "verify.json", "receipt.json"])
def test_damaged_state_is_an_error_with_a_way_on(line: Line, file: str) -> None:
    line.upto(Stage.VERIFY)
    (line.state / file).write_text("{")
    stage = "record" if file in ("verify.json", "receipt.json") else "verify"
    line.error(stage)


# --- failures and nothing to do ----------------------------------------------------------------


def test_wrong_declaration_and_missing_image_have_their_own_exit_codes(line: Line) -> None:
    (line.root / "usr/share/containers/systemd/0.image").write_text(
        "[Image]\nImage=localhost/no:1\n"
    )
    line("discover", "--source", line.root)
    assert line.error("resolve", ok=4)["subject"] == "localhost/no:1"
    (line.root / "usr/share/containers/systemd/0.image").write_text("[Image]\n")
    line("discover", "--source", line.root, ok=3)


def test_without_bound_images_every_stage_says_so(line: Line) -> None:
    root = line.lab.bind({})
    line("discover", "--source", root, "--target", line.lab.target)
    for stage in STAGES[1:]:
        assert line(stage).stdout == "no bound images declared\n"
    assert list(line.lab.target.iterdir()) == []
    line("discover", "--source", root, "--require-bound-images", ok=3)


def test_dry_run_goes_through_all_stages_and_changes_nothing(line: Line) -> None:
    before = listing(line.lab.target)
    line("discover", "--source", line.root, "--target", line.lab.target, "--dry-run")
    said = [line(stage).stdout for stage in STAGES[1:]]
    assert f"would be copied to {line.lab.store}; nothing was changed" in said[2]
    assert said[-1] == "dry run: stage record has done nothing\n"
    assert listing(line.lab.target) == before


# --- with hooks around them --------------------------------------------------------------------


@dataclass(frozen=True)
class Installation:
    """A host in this process that runs phases."""

    hooked: Hooked
    state: StateDirectory
    context: Context
    facts: Facts

    def run(self, *phases: Phase, unsafe: bool = False) -> None:
        plans = {phase: self.hooked.plan(phase, unsafe=unsafe) for phase in Phase}
        note_overridden(self.state, tuple(plans.values()))
        calls = stage_calls(self.state, self.context)
        around = self.hooked.around(facts=self.facts, state=lambda: hook_state(self.state))
        for phase in phases:
            run_phase(plans[phase], calls, around)


@pytest.fixture
def installation(line: Line, monkeypatch: pytest.MonkeyPatch) -> Installation:
    env: Mapping[str, str] = line.lab.source.env
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    said = Said()
    state = StateDirectory.open(line.state)
    state.write_request(Request(source=str(line.root), target=line.lab.target))
    root = line.lab.directory / "hooks-root"
    root.mkdir()
    return Installation(
        hooked=Hooked(root, said),
        state=state,
        context=Context(Runner(), Events([said]), env),
        facts=Facts(state_dir=line.state, source=str(line.root), target=line.lab.target),
    )


PHASES = (Phase.PRE_INSTALL, Phase.POST_INSTALL, Phase.VERIFY)


def test_phases_install_and_hooks_see_what_is_known(
    installation: Installation, line: Line, image_sources: ImageSources, tmp_path: Path
) -> None:
    for number in (5, 15, 25, 35):
        hook = f"cat >{tmp_path}/{number}"
        installation.hooked(f"{number:02}-see", hook, phase=Phase.PRE_INSTALL)
    installation.hooked("55-see", f"cat >{tmp_path}/55", phase=Phase.VERIFY)
    installation.run(*PHASES)
    line.lab.run("verify", line.lab.target)
    seen = {n: json.loads((tmp_path / str(n)).read_text()) for n in (5, 15, 25, 35, 55)}
    assert seen[5]["request"]["source"] == str(line.root)
    assert [n for n in seen if seen[n]["bound"] is None] == [5]
    assert [n for n in seen if seen[n]["resolved"] is None] == [5, 15]
    assert [n for n in seen if seen[n]["copied"] is None] == [5, 15, 25, 35]
    assert_as_described("hook-state", seen[55])
    ids = [image["image_id"] for image in seen[55]["verified"]]
    assert ids == [image_sources.app_b.id, image_sources.web.id]


def test_stage_that_a_hook_replaces_by_the_command_is_recorded_as_ours(
    installation: Installation, line: Line
) -> None:
    source = REPOSITORY / "hooks/bootc/post-install.d/20-copy"
    # Hooks have an environment of their own: neither this PATH nor this store is in it.
    store = [f"export {name}={value}" for name, value in line.lab.source.env.items()]
    where = "\n".join((*store, f"PATH={Path(sys.executable).parent}:$PATH", ""))
    script = source.read_text().replace("exec ", f"{where}exec unshare --mount ")
    installation.hooked("20-copy").write_text(script)
    installation.run(*PHASES)
    assert {image["engine"] for image in _receipt(line.lab.target)["images"]} == {"direct"}


def test_stage_that_a_hook_replaces_is_verified_all_the_same(
    installation: Installation, line: Line, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    ready.mkdir()
    line.lab.run("copy", line.root, ready)
    hook = installation.hooked("20-copy", f'cp -a {ready}/. "$BOUND_IMAGES_TARGET"')
    (ready / RECEIPT).unlink()
    installation.run(*PHASES)
    assert {image["engine"] for image in _receipt(line.lab.target)["images"]} == {f"hook {hook}"}


def test_stage_that_a_hook_replaces_and_that_does_nothing_is_refuted(
    installation: Installation,
) -> None:
    installation.hooked("20-copy", "exit 0")
    installation.hooked.mask("30-label")
    with pytest.raises(Exception, match=r"cannot be opened as a store|no image has the name"):
        installation.run(*PHASES)


def test_without_verification_there_is_no_receipt(installation: Installation, line: Line) -> None:
    installation.hooked.mask(VERIFY_STAGE, phase=Phase.VERIFY)
    installation.run(*PHASES, unsafe=True)
    assert not (line.lab.target / RECEIPT).exists()
    assert "nothing was verified, so no receipt is written" in installation.hooked.said.by("record")


def test_nothing_says_what_to_verify_when_all_before_is_masked(
    installation: Installation,
) -> None:
    for name in ("20-resolve", "30-preflight"):
        installation.hooked.mask(name, phase=Phase.PRE_INSTALL)
    for name in ("20-copy", "30-label"):
        installation.hooked.mask(name)
    with pytest.raises(ConfigError, match="comes after stage resolve"):
        installation.run(*PHASES)


def test_stage_without_a_request_is_out_of_order(
    tmp_path: Path, installation: Installation
) -> None:
    state = StateDirectory.open(tmp_path / "new")
    assert hook_state(state)["request"] is None
    with pytest.raises(ConfigError, match="comes after stage discover"):
        run_stage(Stage.RESOLVE, state, installation.context)
