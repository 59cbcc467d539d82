"""Values that a shell is offered, as the completion scripts ask for them."""

import json
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from click.shell_completion import FishComplete

from installer_plugin.block.partition_names import partition_names
from installer_plugin.cli import completion
from installer_plugin.cli.program import program
from installer_plugin.errors import DataError
from installer_plugin.storage.source.stored_names import image_names

DISK = {"DEVTYPE": "disk", "DEVNAME": "vdz"}
ROOT = {"DEVTYPE": "partition", "DEVNAME": "vdz2", "PARTN": "2", "PARTNAME": "root"}
NAMELESS = {"DEVTYPE": "partition", "DEVNAME": "vdz3", "PARTN": "3"}
OTHER = {"DEVTYPE": "partition", "DEVNAME": "vdy1", "PARTN": "1", "PARTNAME": "root"}


def write(file: Path, fields: Mapping[str, str]) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{name}={value}\n" for name, value in fields.items()))


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """As the kernel has it: a directory a device."""
    for path, fields in {"vdz": DISK, "vdz2": ROOT, "vdz3": NAMELESS, "vdy1": OTHER}.items():
        write(tmp_path / path / "uevent", fields)
    return tmp_path


def test_all_partitions_have_names_and_devices(sysfs: Path) -> None:
    assert partition_names(sysfs) == ("root", "/dev/vdy1", "/dev/vdz2", "/dev/vdz3")


def test_partition_that_is_gone_is_not_offered(sysfs: Path) -> None:
    (sysfs / "vdz2/uevent").unlink()
    (sysfs / "vdz2/uevent").symlink_to("gone")
    assert partition_names(sysfs) == ("root", "/dev/vdy1", "/dev/vdz3")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default store, with two images."""
    store = tmp_path / "graph"
    for name in ("images", "layers"):
        (store / f"overlay-{name}").mkdir(parents=True)
    images = [
        {"id": f"{i:064d}", "digest": f"sha256:{i:064d}", "names": names, "layer": f"{i:064d}"}
        for i, names in enumerate(
            (["localhost/worker:2"], ["localhost/web:1", "localhost/web:2"], [])
        )
    ]
    (store / "overlay-images/images.json").write_text(json.dumps(images))
    (store / "overlay-layers/layers.json").write_text("[]")
    conf = tmp_path / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{store}"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
    return store


def test_names_of_all_images_of_all_stores(store: Path, tmp_path: Path) -> None:
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.mkdir()
    expected = ("localhost/web:1", "localhost/web:2", "localhost/worker:2")
    assert image_names([absent, empty, store, store]) == expected


def offered(line: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Ask as a shell does; return the type and value of each answer."""
    monkeypatch.setenv("COMP_WORDS", f"bootc-bound-images {line}")
    monkeypatch.setenv("COMP_CWORD", line.rpartition(" ")[2])
    complete = FishComplete(program, {}, "bootc-bound-images", "_X")
    args, incomplete = complete.get_completion_args()
    return [(item.type, item.value) for item in complete.get_completions(args, incomplete)]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("check containers-storage:localhost/we", ["localhost/web:1", "localhost/web:2"]),
        ("list containers-storage:localhost/wo", ["localhost/worker:2"]),
        ("lock containers-storage:absent", []),
    ],
)
@pytest.mark.usefixtures("store")
def test_source_in_a_store(line: str, values: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [("plain", f"containers-storage:{value}") for value in values]
    assert offered(line, monkeypatch) == expected


def test_source_is_a_directory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered("copy ", monkeypatch) == [("plain", "containers-storage:"), ("dir", "")]
    assert offered("copy /sr", monkeypatch) == [("dir", "")]


def test_store_has_its_forms_and_the_default(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [
        ("plain", form) for form in ("oci:", "oci-archive:", "dir:", "docker-archive:", "ssh://")
    ]
    assert offered("copy --store ", monkeypatch) == [*forms, ("plain", str(store)), ("dir", "")]
    assert offered("copy --store=oci", monkeypatch) == [*forms[:2], ("dir", "")]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("oci:", ["oci:layout/"]),
        ("oci:l", ["oci:layout/"]),
        ("oci:layout/", ["oci:layout/inner/"]),
        ("oci-archive:", ["oci-archive:file.tar", "oci-archive:layout/"]),
        ("oci-archive:{cwd}/f", ["oci-archive:{cwd}/file.tar"]),
        ("dir:absent/x", []),
    ],
)
def test_store_goes_on_with_a_path(
    word: str, values: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/layout/inner").mkdir(parents=True)
    cwd = tmp_path / "here"
    (cwd / "file.tar").touch()
    monkeypatch.chdir(cwd)
    found = offered(f"check --store {word.format(cwd=cwd)}", monkeypatch)
    assert found == [("plain", value.format(cwd=cwd)) for value in values]


def test_configuration_that_cannot_be_read_offers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "storage.conf").write_text("[storage\n")
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    assert offered("check containers-storage:", monkeypatch) == []


def test_store_that_cannot_be_read_offers_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "overlay-images/images.json").write_text("damaged")
    with pytest.raises(DataError):
        image_names([store])
    assert offered("check containers-storage:", monkeypatch) == []


def test_partition_is_one_that_is_there(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = partition_names(sysfs)
    monkeypatch.setattr("installer_plugin.block.partition_names.partition_names", lambda: names)
    assert offered("copy / /dev/vdz --root-partition /dev/vdz", monkeypatch) == [
        ("plain", "/dev/vdz2"), ("plain", "/dev/vdz3"),
    ]  # fmt: skip


def test_everything_that_is_typed_again_and_again_is_completed() -> None:
    """Each SOURCE, --store and --root-partition, in whatever command it is."""
    wanted = {
        "source": completion.sources, "store": completion.stores,
        "root_partition": completion.partitions,
    }  # fmt: skip
    context = click.Context(program)
    commands = {name: program.get_command(context, name) for name in program.list_commands(context)}
    found = {
        (name, parameter.name): parameter._custom_shell_complete
        for name, command in commands.items()
        for parameter in (command.params if command else ())
        if parameter.name in wanted and isinstance(parameter, click.Option | click.Argument)
    }
    missing = [key for key, complete in found.items() if complete is not wanted[str(key[1])]]
    assert missing == []
    assert len(found) > len(commands)
