"""``tests/bench/run [--case NAME]... [--fs KIND]... [--way NAME]... [--json] [--work DIR]``."""

from __future__ import annotations

import argparse
import compileall
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import installer_plugin
from tests.bench.measure import Cost, Devices, measure
from tests.bench.ways import WAYS, Setting
from tests.bench.workloads import SMOKE, WORKLOADS, Workload, build
from tests.support.commands import run
from tests.support.disks import LoopFsFactory
from tests.support.stores import make_store

CASES = {**WORKLOADS, SMOKE.name: SMOKE}
FREE_BYTES = 4 << 30
Row = dict[str, object]


def main() -> None:
    """Run the chosen cases and print the costs and their ratios."""
    options = _options()
    rows: list[Row] = []
    # As an installed package is; PYTHONDONTWRITEBYTECODE would have every start compile everything.
    compileall.compile_dir(Path(installer_plugin.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(prefix="bound-images-bench-", dir=options.work) as work:
        for name in options.case or ["reference"]:
            with _source(CASES[name], Path(work) / name) as setting:
                for kind in options.fs or ["ext4", "xfs"]:
                    found = _costs(setting, kind, options.way or list(WAYS), Path(work))
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
    parser.add_argument("--way", action="append", choices=list(WAYS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))  # noqa: S108 - mkdtemp parent
    return parser.parse_args()


@contextmanager
def _source(work: Workload, folder: Path) -> Iterator[Setting]:
    """The source store and root of a workload; the target is filled in for each way."""
    store = make_store(folder / "store")
    images = build(work, store, folder / "build")
    root = folder / "root"
    for number, image in enumerate(images):
        unit = root / f"usr/share/containers/systemd/image-{number}.image"
        link = root / f"usr/lib/bootc/bound-images.d/image-{number}.image"
        for path in (unit, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text(f"[Image]\nImage={image}\n")
        link.symlink_to(f"/usr/share/containers/systemd/{unit.name}")
    yield Setting(
        store=store, images=images, source_root=root, target=folder, run_root=folder / "run-target"
    )
    run(("rm", "-rf", folder))


def _costs(setting: Setting, kind: str, ways: list[str], work: Path) -> dict[str, Cost]:
    costs = {}
    for way in ways:
        with tempfile.TemporaryDirectory(dir=work) as folder, ExitStack() as stack:
            make = LoopFsFactory(Path(folder), stack)
            target = make("xfs" if kind == "xfs" else "ext4", FREE_BYTES)
            scratch = make("ext4", FREE_BYTES)
            here = replace(setting, target=target.mount)
            here.target_store.mkdir(parents=True)
            names = tuple(fs.device.name for fs in (target, scratch))
            devices = Devices((target.mount, scratch.mount), names)
            env = {**setting.store.env, "TMPDIR": str(scratch.mount)}
            costs[way] = measure(WAYS[way](here), devices, env)
            if way == "ours":
                costs["second run"] = measure(WAYS[way](here), devices, env)
    return costs


def _rows(case: str, kind: str, costs: dict[str, Cost]) -> list[Row]:
    return [{"case": case, "fs": kind, "way": way, **asdict(cost)} for way, cost in costs.items()]


def _print_table(case: str, kind: str, costs: dict[str, Cost]) -> None:
    first = costs.get("bootc")
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
