"""Builds the wheel and the sdist: a build backend (PEP 517, PEP 660) of the standard library.

The distributions that this program is built on have backends that read different dialects of
`pyproject.toml` (a licence expression is an error to Debian 12's, a licence table to the newest), and
EL 9 has none for its Python 3.12. What they would do for a pure Python package is little.
"""

from backend.hooks import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]
