"""The stand-in reads declarations as bootc does, inside their root."""

from pathlib import Path

import pytest
from standin.bound import bound_images, parse_ini
from standin.inroot import resolve_in_root
from standin.process import InstallError

from tests.support.sources import SourceRootBuilder


@pytest.mark.parametrize(
    ("units", "links", "expected"),
    [
        ({}, {}, []),
        ({"a.image": "[Image]\nImage=quay.io/a:1\n"}, None, ["quay.io/a:1"]),
        ({"a.container": "[Container]\nImage=quay.io/a%%b:1#c\n"}, None, ["quay.io/a%b:1"]),
        (
            {"a.image": "[Image]\nImage=x\nImage=quay.io/a:2 ; why\n"},
            {"other.image": "/usr/share/../share/containers/systemd/a.image"},
            ["quay.io/a:2"],
        ),
    ],
    ids=["none", "image", "container", "last key, comment, dots"],
)
def test_images(
    units: dict[str, str],
    links: dict[str, str] | None,
    expected: list[str],
    source_root: SourceRootBuilder,
) -> None:
    assert bound_images(source_root(units, links=links)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Image]\n", "Missing Image field"),
        ("[Image]\nImage=a\nAuthFile=\n", "AuthFile is not supported"),
        ("[Image]\nImage=a:%i\n", "specifiers are not supported"),
        ("[Image]\nImage=a%\n", "Unterminated %"),
        ("[Image\nImage=a\n", "Incorrect section syntax at line 1"),
        ("[Image]\nImage=a \\\n  --flag\n", "Incorrect syntax at line 3"),
        ("[Image]\n=a\n", "Key is empty at line 2"),
    ],
)
def test_refusals(text: str, message: str, source_root: SourceRootBuilder) -> None:
    with pytest.raises(InstallError, match=message):
        bound_images(source_root({"a.image": text}))


def test_dangling_link_and_extension(source_root: SourceRootBuilder) -> None:
    with pytest.raises(InstallError, match="No such file"):
        bound_images(source_root({}, links={"a.image": "/absent.image"}))
    pod = {"a.pod": "/usr/share/containers/systemd/a.pod"}
    with pytest.raises(InstallError, match=r"Invalid file extension: a\.pod"):
        bound_images(source_root({"a.pod": "[Pod]\n"}, links=pod))


def test_sections_merge() -> None:
    assert parse_ini("x=1\n[A]\ny=2\n[B]\n[A]\nz=3\n") == {
        ("", "x"): "1",
        ("A", "y"): "2",
        ("A", "z"): "3",
    }


def test_links_stay_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/file").write_text("inside")
    (tmp_path / "up").symlink_to("../../../../usr")
    (tmp_path / "absolute").symlink_to("/up/file")
    assert resolve_in_root(tmp_path, "/absolute") == tmp_path / "usr/file"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        resolve_in_root(tmp_path, "loop")
