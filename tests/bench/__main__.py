"""``tests/bench/run [--case NAME]... [--fs KIND]... [--way NAME]... [--growth] [--json]``, and more."""

from __future__ import annotations

import argparse
import compileall
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from osroot import declare

import installer_plugin
from tests.bench.growth import print_growth
from tests.bench.installs import installer
from tests.bench.measure import Cost, Devices, measure
from tests.bench.ways import INSTALLS, WAYS, Setting
from tests.bench.workloads import SMOKE, WORKLOADS, Workload, build
from tests.support.commands import run
from tests.support.disks import LoopFsFactory
from tests.support.stores import make_store

CASES = {**WORKLOADS, SMOKE.name: SMOKE}
FREE_BYTES = 6 << 30
INSTALL = "install"
Row = dict[str, object]


def main() -> None:
    """Run the chosen cases and print the costs and their ratios."""
    options = _options()
    rows: list[Row] = []
    # As an installed package is; PYTHONDONTWRITEBYTECODE would have every start compile everything.
    compileall.compile_dir(Path(installer_plugin.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(prefix="bound-images-bench-", dir=options.work) as work:
        for name in options.case or ["reference"]:
            with _source(CASES[name], Path(work) / name, options) as setting:
                for kind in options.fs or ["ext4", "xfs"]:
                    if options.growth:
                        _print_growth(name, replace(setting, kind=kind), Path(work))
                        continue
                    here = replace(setting, kind=kind)
                    found = _costs(here, _ways(options.way), Path(work))
                    rows += _rows(name, kind, found)
                    if not options.json:
                        _print_table(name, kind, found)
    if options.json:
        json.dump({"schema": "bootc-bound-images/bench/1", "rows": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--fs", action="append", choices=["ext4", "xfs"])
    parser.add_argument("--way", action="append", choices=[*WAYS, INSTALL])
    parser.add_argument("--bootc", type=Path, help="what installs, in the stand-in's place")
    parser.add_argument("--suite", default="sid", help="the Debian suite of its OS")
    parser.add_argument("--growth", action="store_true", help="what more processors would do")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))  # noqa: S108 - mkdtemp parent
    return parser.parse_args()


def _ways(names: Sequence[str] | None) -> list[str]:
    """Those that are asked for; installations are not among those that run without a word."""
    asked = names or list(WAYS)
    return [way for name in asked for way in (INSTALLS if name == INSTALL else (name,))]


@contextmanager
def _source(work: Workload, folder: Path, options: argparse.Namespace) -> Iterator[Setting]:
    """The source store and root of a workload; the target is filled in for each way."""
    store = make_store(folder / "store")
    images = build(work, store, folder / "build")
    units = {
        f"image-{number}.image": f"[Image]\nImage={image}\n" for number, image in enumerate(images)
    }
    root = declare(folder, units)
    setting = Setting(
        store=store, images=images, source_root=root, target=folder,
        run_root=folder / "run-target", kind="",
    )  # fmt: skip
    if INSTALL in (options.way or ()):
        with installer(units, folder, options.bootc, options.suite) as found:
            yield replace(setting, installer=found)
    else:
        yield setting
    run(("rm", "-rf", folder))


def _costs(setting: Setting, ways: list[str], work: Path) -> dict[str, Cost]:
    costs = {}
    commands = {**WAYS, **INSTALLS}
    for way in ways:
        with tempfile.TemporaryDirectory(dir=work) as folder, ExitStack() as stack:
            make = LoopFsFactory(Path(folder), stack)
            target = make("xfs" if setting.kind == "xfs" else "ext4", FREE_BYTES)
            scratch = make("ext4", FREE_BYTES)
            here = replace(setting, target=target.mount)
            if way in WAYS:
                here.target_store.mkdir(parents=True)
            names = tuple(fs.device.name for fs in (target, scratch))
            devices = Devices((target.mount, scratch.mount), names)
            env = {**setting.store.env, "TMPDIR": str(scratch.mount)}
            costs[way] = measure(commands[way](here), devices, env)
            if way == "ours":
                costs["second run"] = measure(commands[way](here), devices, env)
    return costs


def _print_growth(name: str, setting: Setting, work: Path) -> None:
    sys.stdout.write(f"\n{name} on {setting.kind}\n")
    with tempfile.TemporaryDirectory(dir=work) as folder, ExitStack() as stack:
        make = LoopFsFactory(Path(folder), stack)
        target = make("xfs" if setting.kind == "xfs" else "ext4", FREE_BYTES)
        print_growth(setting.store.root, setting.source_root, target.mount)


def _rows(case: str, kind: str, costs: dict[str, Cost]) -> list[Row]:
    return [{"case": case, "fs": kind, "way": way, **asdict(cost)} for way, cost in costs.items()]


def _print_table(case: str, kind: str, costs: dict[str, Cost]) -> None:
    first = costs.get("bootc") or costs.get("bootc alone")
    sys.stdout.write(
        f"\n{case} on {kind}\n{'way':12}{'wall s':>9}{'CPU s':>9}"
        f"{'MB written':>12}{'MB memory':>11}{'cores':>7}"
    )
    sys.stdout.write(f"{'wall':>8}{'CPU':>8}{'bytes':>8}   of bootc's way\n" if first else "\n")
    for way, cost in costs.items():
        sys.stdout.write(
            f"{way:12}{cost.wall:9.2f}{cost.cpu:9.2f}{cost.written / 1e6:12.1f}{cost.memory / 1e6:11.1f}"
            f"{cost.cpu / cost.wall:7.2f}"
        )
        if first:
            shares = (cost.wall / first.wall, cost.cpu / first.cpu, cost.written / first.written)
            sys.stdout.write("".join(f"{share:8.2f}" for share in shares))
        sys.stdout.write("\n")
        if cost.path:
            stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in cost.path.items())
            sys.stdout.write(f"{'':4}one after the other: {stages}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd}: {error}")
