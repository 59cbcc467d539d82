"""Tests of hosts, which use the equipment in vm-tests: that is not a package and has its own path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "vm-tests"))
