"""What is kept between two stages: requests and images as JSON and back, and the directory."""

import copy
import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from installer_plugin.errors import ConfigError, DataError
from installer_plugin.fields import Fields, Json
from installer_plugin.image_json import copied_json, parse_copied
from installer_plugin.model import (
    BoundImage,
    CopiedImage,
    Layer,
    Location,
    ResolvedImage,
    SourceKind,
    SourceLocation,
    UnitKind,
    parse_diff_id,
    parse_image_id,
    parse_manifest_digest,
)
from installer_plugin.pipeline import Stage
from installer_plugin.request import Request
from installer_plugin.state import codec
from installer_plugin.state.paths import with_absolute_paths
from installer_plugin.state.state_directory import StateDirectory
from installer_plugin.storage.base import Backend, EngineChoice

SHA = "sha256:" + "ab" * 32
FULL = Request(
    source="/src",
    stores=("/a", "oci:/b"),
    target=Path("/t"),
    backend=Backend.COMPOSEFS,
    allow_other_architecture=True,
    no_space_check=True,
    engine=EngineChoice.SKOPEO,
    lock=Path("/l"),
    scratch=Path("/s"),
    receipts=(Path("/r"),),
    receipt_source="containers-storage:localhost/os:1",
    require_bound_images=True,
    dry_run=True,
    jobs=3,
    fetched=Path("/f"),
)
IMAGE = CopiedImage(
    resolved=ResolvedImage(
        bound=BoundImage(
            kind=UnitKind.IMAGE,
            location=Location(link="l", unit="u", line=2),
            reference="q.io/x:1",
            names=("q.io/x:1", "x"),
            bootc_name="q.io/x:1",
        ),
        names=("q.io/x:1", "x", "localhost/x"),
        source=SourceLocation(kind=SourceKind.OCI, store="/s", item="i"),
        image_id=parse_image_id("cd" * 32),
        digest=parse_manifest_digest(SHA),
        manifest_digests=(parse_manifest_digest(SHA),),
        layers=(Layer(diff_id=parse_diff_id(SHA), size=5, entries=2),),
        compressed=True,
    ),
    engine="direct",
    already_there=True,
    refusal="why",
)


@pytest.mark.parametrize("request_", [FULL, Request()], ids=["full", "empty"])
def test_request_comes_back_whole(request_: Request) -> None:
    data = json.loads(json.dumps(codec.request_json(request_)))
    assert codec.parse_request(Fields(data, "f")) == request_
    assert data.keys() == {field.name for field in fields(Request)}


def test_full_request_differs_from_the_default_everywhere() -> None:
    """So that a field that is forgotten would be seen above."""
    assert all(getattr(FULL, f.name) != getattr(Request(), f.name) for f in fields(Request))


def test_copied_image_comes_back_whole() -> None:
    assert parse_copied(Fields(json.loads(json.dumps(copied_json(IMAGE))), "f")) == IMAGE


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("declaration",), None),
        (("declaration", "kind"), "pod"),
        (("declaration",), []),
        (("declaration", "line"), True),
        (("declaration", "names"), None),
        (("declaration", "bootc_name"), 1),
        (("names",), "x"),
        (("names",), [1]),
        (("found_in", "kind"), "nowhere"),
        (("image_id",), "../x"),
        (("digest",), None),
        (("manifest_digests",), ["x"]),
        (("layers",), [3]),
        (("layers",), [{"diff_id": "x"}]),
        (("layers", 0, "size"), "5"),
        (("compressed",), 1),
        (("engine",), None),
    ],
    ids=str,
)
def test_image_that_is_damaged_is_refused(path: tuple[str | int, ...], value: object) -> None:
    data = copy.deepcopy(json.loads(json.dumps(copied_json(IMAGE))))
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(DataError, match=r"^f"):
        parse_copied(Fields(data, "f"))


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("storage", "/here/storage"),
        ("/abs", "/abs"),
        ("oci:lay", "oci:/here/lay"),
        ("oci-archive:a.tar", "oci-archive:/here/a.tar"),
        ("q.io/x:1=dir:d", "q.io/x:1=dir:/here/d"),
        ("containers-storage:s", "/here/s"),
        ("[overlay@/g+/r]", "/g"),
        ("ssh://root@host", "ssh://root@host"),
    ],
)
def test_stores_mean_the_same_everywhere(
    store: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = with_absolute_paths(Request(stores=(store,)))
    assert made.stores == (expected.replace("/here", str(tmp_path)),)
    assert with_absolute_paths(made) == made


def test_paths_of_a_request_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = Request(
        source="src", target=Path("t"), lock=Path("l"), scratch=Path("s"), receipts=(Path("r"),)
    )
    made = with_absolute_paths(given)
    assert made == replace(
        given,
        source=str(tmp_path / "src"),
        target=tmp_path / "t",
        lock=tmp_path / "l",
        scratch=tmp_path / "s",
        receipts=(tmp_path / "r",),
    )
    image = Request(source="containers-storage:q.io/os:1")
    assert with_absolute_paths(image) == image


def test_store_that_is_none_is_the_callers_error() -> None:
    with pytest.raises(ConfigError):
        with_absolute_paths(Request(stores=("nothing:here",)))


# --- the directory -------------------------------------------------------------------------------


def test_directory_is_made_for_us_alone(tmp_path: Path) -> None:
    StateDirectory.open(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def _foreign(path: Path) -> None:
    path.mkdir()
    os.chown(path, 1000, 0)


def _writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_foreign, "belongs to user 1000, expected 0"),
        (_writable, "has the mode 0770: others can write it"),
        (lambda path: path.symlink_to("/"), "is a link"),
        (Path.touch, "cannot be used as a state directory: File exists"),
        (lambda path: path.parent.rmdir(), "cannot be used as a state directory: No such file"),
    ],
    ids=["foreign", "writable", "link", "file", "no-parent"],
)
def test_directory_that_is_not_ours_alone_is_refused(
    make: "object", message: str, tmp_path: Path
) -> None:
    path = tmp_path / "above" / "state"
    path.parent.mkdir()
    assert callable(make)
    make(path)
    with pytest.raises(ConfigError, match=message):
        StateDirectory.open(path)


def test_stage_that_runs_again_forgets_what_came_after(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path)
    for stage in Stage:
        state.write(stage, {"schema": f"bootc-bound-images/stage-{stage}/2"})
    state.write_receipt("x")
    state.write_whole({"layer": True})
    state.forget(Stage.RECORD)
    assert state.read_receipt() == b"x"
    state.forget(Stage.COPY)
    left = [stage for stage in Stage if state.has(stage)]
    assert left == [Stage.DISCOVER, Stage.RESOLVE, Stage.PREFLIGHT]
    with pytest.raises(ConfigError):
        state.read_receipt()
    assert state.whole() == {"layer": True}
    state.forget(Stage.PREFLIGHT)
    assert state.whole() == {}


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"schema": "other"}', "[" * 100_000, '{"schema":"bootc-bound-images/request/1"}'],
    ids=["empty", "array", "schema", "deep", "fields"],
)
def test_damaged_request_is_an_error_with_a_way_on(tmp_path: Path, content: str) -> None:
    (tmp_path / "request.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        StateDirectory.open(tmp_path).read_request()
    (problem,) = caught.value.problems
    assert problem.message.startswith("is damaged: ")
    assert "stage discover" in problem.hint


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path)
    assert state.read_request() is None
    assert state.overridden() == {}
    state.write_request(FULL)
    state.write_overridden({Stage.COPY: Path("/hook")})
    document: Json = {"schema": "bootc-bound-images/stage-copy/2", "images": []}
    state.write(Stage.COPY, document)
    assert state.read_request() == FULL
    assert state.overridden()["copy"] == "/hook"
    assert state.read(Stage.COPY).data == document


def test_place_that_cannot_be_written_is_the_callers_error(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path / "state")
    state.path.rmdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        state.write_request(FULL)
