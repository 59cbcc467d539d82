"""Holds the measured coverage against its floors: `python -m tests.support.coverage_gate REPORT.json`.

Run after the whole suite: a single test covers next to nothing.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGE_FLOOR = 95.0
COMPLETE = (
    "declarations/quadlet.py",
    "declarations/reference.py",
    "files/rootfs.py",
    "storage/store/records.py",
    "storage/layer/tar_split.py",
    "stages/verify.py",
)
"""What decides whether an image is trusted: every line and branch is tested."""


def shortfalls(files: Mapping[str, float], package: float) -> list[str]:
    """List what is below its floor, given per cent by file name and for the package."""
    found = []
    if package < PACKAGE_FLOOR:
        found.append(f"installer_plugin: {package:.2f} % covered, at least {PACKAGE_FLOOR:g} %")
    for name in COMPLETE:
        covered = files.get(f"installer_plugin/{name}")
        if covered is None:
            found.append(f"installer_plugin/{name}: not measured at all")
        elif covered < 100:
            found.append(f"installer_plugin/{name}: {covered:.2f} % covered, must be 100 %")
    return found


def main(report: Path) -> int:
    """Print what is missing; return the exit code."""
    measured = json.loads(report.read_text())
    files = {
        name: float(entry["summary"]["percent_covered"])
        for name, entry in measured["files"].items()
    }
    found = shortfalls(files, float(measured["totals"]["percent_covered"]))
    for line in found:
        sys.stderr.write(f"coverage: {line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
