"""The programs that build packages, as one who does not know them calls them."""

import shutil
from pathlib import Path

import pytest

from tests.support.commands import run

PACKAGING = Path(__file__).parents[2] / "packaging"
BUILDERS = sorted(path.name for path in PACKAGING.glob("build-*"))


@pytest.fixture
def builders(tmp_path: Path) -> Path:
    """All that they are made of, where what they write by mistake is seen."""
    copy = tmp_path / "project"
    shutil.copytree(PACKAGING, copy / "packaging", symlinks=True)
    for name in ("installer_plugin", "pyproject.toml", "hooks"):
        (copy / name).symlink_to(PACKAGING.parent / name)
    return copy


@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("--nonsense", 2)])
@pytest.mark.parametrize("name", BUILDERS)
def test_word_that_is_not_a_directory_is_not_taken_for_one(
    name: str, word: str, code: int, builders: Path
) -> None:
    before = sorted(builders.rglob("*"))
    done = run((builders / "packaging" / name, word), cwd=builders, ok=(code,))
    assert f"usage: {name} " in (done.stderr if code else done.stdout)
    made = [path for path in sorted(builders.rglob("*")) if path not in before]
    assert [path for path in made if "__pycache__" not in path.parts] == []


def test_each_kind_of_package_has_its_builder() -> None:
    assert BUILDERS == [
        "build-deb",
        "build-manual",
        "build-rpm",
        "build-single-file",
        "build-wheel",
    ]
