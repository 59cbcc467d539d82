"""Tests of the test equipment in vm-tests, which is not a package and has its own import path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "vm-tests"))
