"""Benchmarks: bound images on a target by several ways, side by side in one run.

Installations use the equipment in vm-tests, which is not a package and has its own import path.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "vm-tests"))
