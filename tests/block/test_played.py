"""Layers and failures that not every kernel can show, with programs and libraries played.

The real ones are in test_layers.py, which needs a device mapper.
"""

import errno
import os
import struct
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_subprocess import FakeProcess

from installer_plugin.block import (
    disk_target,
    loop_ioctl,
    loops,
    lvm,
    namespace,
    root_finder,
    udev,
    undo_steps,
)
from installer_plugin.block.base import (
    LUKS,
    LVM,
    Key,
    OpenedTarget,
    OpenOptions,
    Partition,
    Signature,
    TargetDisk,
    Volume,
    root_types,
)
from installer_plugin.block.blivet import BlivetOpener
from installer_plugin.block.loop_ioctl import Backing, loop_config
from installer_plugin.block.loops import attach
from installer_plugin.block.luks import Cryptsetup, no_key, wrong_key
from installer_plugin.block.lvm import LogicalVolume
from installer_plugin.block.root_finder import Finder
from installer_plugin.block.target import make_writable, open_target
from installer_plugin.block.undo_journal import Journal
from installer_plugin.block.undo_steps import GroupStep, MappingStep
from installer_plugin.errors import ConfigError, DataError, HostError
from installer_plugin.events import Events
from installer_plugin.process.runner import Runner

ROOT_TYPE = root_types()[0][0]


class Opener:
    """Opens everything, and remembers what."""

    name = "played"

    def __init__(self, error: Exception | None = None) -> None:
        self.opened: list[str] = []
        self.error = error

    def open_luks(self, device: Path, mapping: str, key: Key) -> None:
        if self.error:
            raise self.error
        self.opened.append(f"luks {device}")

    def activate(self, group: str, members: tuple[Path, ...]) -> None:
        self.opened.append(f"lvm {group} on {' '.join(map(str, members))}")


class Reader:
    name = "played"

    def __init__(self, *partitions: Partition) -> None:
        self.partitions = partitions

    def read(self, device: Path) -> TargetDisk:
        return TargetDisk(device=device, partitions=self.partitions)


def part(number: int, kind: str, **fields: str) -> Partition:
    signature = Signature(kind=kind, label=fields.pop("label", ""))
    return Partition(number=number, start=0, size=1, signature=signature, **fields)


def volume(group: str, name: str) -> LogicalVolume:
    device = Path(f"/dev/mapper/{group}-{name}")
    return LogicalVolume(group=group, group_uuid=f"uuid-{group}", name=name, device=device)


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Finds the root of a played disk."""

    def play(
        reader: Reader,
        opener: Opener,
        *,
        contents: dict[str, str],
        volumes: Sequence[LogicalVolume] = (),
        wanted: str = "",
    ) -> tuple[Volume, Journal]:
        def content(device: Path, *others: object) -> str:
            name = "luks" if device.name.startswith("bound-images-") else device.name
            kind, _, label = contents[name].partition(" ")
            return f"TYPE={kind}\nLABEL={label}\n"

        monkeypatch.setattr(root_finder, "probe", content)
        monkeypatch.setattr(root_finder, "list_volumes", lambda *_: tuple(volumes))
        monkeypatch.setattr(
            root_finder, "partition_device", lambda disk, each, *_: Path(f"{disk}{each.number}")
        )
        journal = Journal(tmp_path, Runner())
        finder = Finder(
            subject="disk.img",
            disk=Path("/dev/vda"),
            backing=None,
            journal=journal,
            reader=reader,
            opener=lambda: opener,
            key=Key(),
        )
        return finder.find(wanted).volume, journal

    return play


def test_encrypted_root(find: Callable[..., Any]) -> None:
    opener = Opener()
    reader = Reader(part(1, "vfat"), part(2, LUKS, type_id=ROOT_TYPE))
    root, journal = find(reader, opener, contents={"luks": "ext4"})
    assert opener.opened == ["luks /dev/vda2"]
    (step,) = journal.steps
    assert isinstance(step, MappingStep)
    assert root.device == Path("/dev/mapper") / step.name
    assert root.shown == "partition 2, decrypted"


def test_volumes_of_all_members(find: Callable[..., Any]) -> None:
    opener = Opener()
    reader = Reader(part(1, "vfat"), part(2, LVM), part(3, LVM))
    contents = {"rl-root": "xfs root", "rl-swap": "swap", "rl-home": "xfs home"}
    volumes = [volume("rl", name) for name in ("home", "root", "swap")]
    root, journal = find(reader, opener, contents=contents, volumes=volumes)
    assert opener.opened == ["lvm rl on /dev/vda2 /dev/vda3"]
    assert journal.steps == [GroupStep("rl", "uuid-rl", ["/dev/vda2", "/dev/vda3"])]
    assert root.shown == "volume rl/root"


def test_volumes_in_an_encrypted_partition(find: Callable[..., Any]) -> None:
    opener = Opener()
    contents = {"luks": LVM, "rl-a": "ext4 root", "rl-b": "ext4"}
    volumes = [volume("rl", "a"), volume("rl", "b")]
    root, _ = find(Reader(part(1, LUKS)), opener, contents=contents, volumes=volumes)
    assert [each.split()[0] for each in opener.opened] == ["luks", "lvm"]
    assert root.device == Path("/dev/mapper/rl-a")


@pytest.mark.parametrize("wanted", ["rl/b", "b", "/dev/rl/b", "/dev/mapper/rl-b"])
def test_volume_can_be_chosen(wanted: str, find: Callable[..., Any]) -> None:
    contents = {"rl-a": "ext4 root", "rl-b": "ext4"}
    volumes = [volume("rl", "a"), volume("rl", "b")]
    root, _ = find(
        Reader(part(1, LVM)), Opener(), contents=contents, volumes=volumes, wanted=wanted
    )
    assert root.shown == "volume rl/b"


def test_locked_volume_is_only_a_problem_when_there_is_no_other_root(
    find: Callable[..., Any],
) -> None:
    locked = Opener(no_key("partition 1"))
    with pytest.raises(ConfigError, match="partition 1: is encrypted"):
        find(Reader(part(1, LUKS), part(2, "vfat")), locked, contents={})
    root, _ = find(Reader(part(1, LUKS), part(2, "ext4", label="root")), locked, contents={})
    assert root.shown == "partition 2"


@pytest.mark.parametrize("wanted", ["", "root"])
def test_wrong_key_is_told_where_the_root_may_be_behind_it(
    find: Callable[..., Any], wanted: str
) -> None:
    opener = Opener(wrong_key(Path("/dev/vda1"), Path("/key")))
    with pytest.raises(ConfigError, match="the key in /key does not open it"):
        find(Reader(part(1, LUKS), part(2, "vfat")), opener, contents={}, wanted=wanted)
    reader = Reader(part(1, LUKS), part(2, "ext4", label="root"))
    root, _ = find(reader, opener, contents={}, wanted=wanted)
    assert root.shown == "partition 2"


def test_partition_that_is_not_there_is_listed_once(find: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="has nothing called 'root'") as caught:
        find(Reader(part(1, LUKS)), Opener(no_key("partition 1")), contents={}, wanted="root")
    assert str(caught.value).count("partition 1") == 1


def test_what_is_wrong_with_a_key_file_is_not_swallowed(find: Callable[..., Any]) -> None:
    broken = Opener(ConfigError.of("/key", "cannot be read: Permission denied"))
    with pytest.raises(ConfigError, match="cannot be read"):
        find(Reader(part(1, LUKS), part(2, "vfat")), broken, contents={})


# --- lvm ---------------------------------------------------------------------------------------


def test_lvm_is_confined_to_the_disk() -> None:
    for argv in (
        lvm.lvs_argv(["/dev/a", "/dev/b"]),
        lvm.activate_argv("g", ["/dev/a", "/dev/b"]),
        lvm.deactivate_argv("u", ["/dev/a", "/dev/b"]),
    ):
        config = argv[argv.index("--config") + 1]
        assert config == (
            'devices { use_devicesfile=0 filter=["a|^/dev/a$|","a|^/dev/b$|","r|.*|"] }'
        )
    assert "vg_uuid=u" in lvm.deactivate_argv("u", ["/dev/a"])


def test_group_that_cannot_be_activated_is_told(fp: FakeProcess) -> None:
    fp.register(["setpriv", fp.any()], returncode=5, stderr=b"device or resource busy")
    with pytest.raises(HostError, match="volume group rl: lvm failed") as caught:
        lvm.activate("rl", [Path("/dev/a")], Runner())
    assert "active on this machine" in caught.value.problems[0].hint
    fp.register(["setpriv", fp.any()])
    lvm.activate("rl", [Path("/dev/a")], Runner())


def test_volumes_are_listed(fp: FakeProcess) -> None:
    fp.register(["lvm", "lvs", fp.any()], stdout=b'{"report": [{"lv": []}]}')
    assert lvm.list_volumes([Path("/dev/a")], Runner()) == ()


def test_group_is_deactivated_by_its_uuid(fp: FakeProcess, tmp_path: Path) -> None:
    (tmp_path / "member").touch()
    fp.register(["lvm", "vgchange", fp.any()])
    GroupStep("rl", "u-u", [str(tmp_path / "member")]).undo(Runner())
    (argv,) = fp.calls
    assert isinstance(argv, tuple)
    assert "vg_uuid=u-u" in argv
    assert "rl" not in argv


def test_mapping_is_closed_until_it_is_gone(
    fp: FakeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo_steps, "MAPPER", tmp_path)
    monkeypatch.setattr(undo_steps, "PAUSE_SECONDS", 0)
    (tmp_path / "name").touch()
    fp.register(["cryptsetup", "close", "name"], returncode=5)
    fp.register(["cryptsetup", "close", "name"], callback=lambda _: (tmp_path / "name").unlink())
    MappingStep("name").undo(Runner())
    assert fp.call_count(["cryptsetup", "close", "name"]) == 2


def test_mapping_that_stays_is_an_error(
    fp: FakeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo_steps, "MAPPER", tmp_path)
    monkeypatch.setattr(undo_steps, "PATIENCE_SECONDS", -1)
    (tmp_path / "name").touch()
    fp.register(["cryptsetup", "close", "name"])
    with pytest.raises(DataError, match="still in use"):
        MappingStep("name").undo(Runner())


# --- blivet ------------------------------------------------------------------------------------


class Blivet:
    """What we use of blivet."""

    class LUKSError(Exception):
        pass

    class LVMError(Exception):
        pass

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[object] = []
        self.error: Exception | None = None
        modules = {
            "blivet.formats": types.SimpleNamespace(get_format=self.get_format),
            "blivet.errors": types.SimpleNamespace(LUKSError=self.LUKSError),
            "blivet.devicelibs.lvm": types.SimpleNamespace(
                lvm_devices_add=lambda path: self.calls.append(f"add {path}"),
                lvm_devices_reset=lambda: self.calls.append("reset"),
                blockdev=types.SimpleNamespace(
                    LVMError=self.LVMError,
                    lvm=types.SimpleNamespace(lvs=self.lvs, lvactivate=self.lvactivate),
                ),
            ),
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    def _fail(self) -> None:
        if self.error:
            raise self.error

    def get_format(self, kind: str, **fields: object) -> object:
        self.calls.append((kind, fields))
        return types.SimpleNamespace(setup=self._fail)

    def lvs(self, group: str) -> list[object]:
        self._fail()
        names = {"root": "linear", "pool": "thin-pool", "[internal]": "linear"}
        return [types.SimpleNamespace(lv_name=n, segtype=kind) for n, kind in names.items()]

    def lvactivate(self, group: str, name: str, *, ignore_skip: bool) -> None:
        self.calls.append(f"activate {group}/{name} {ignore_skip}")


@pytest.fixture
def blivet(monkeypatch: pytest.MonkeyPatch) -> Blivet:
    return Blivet(monkeypatch)


OPENER = BlivetOpener(Cryptsetup(Runner(), read_only=False))


def test_blivet_opens_luks(blivet: Blivet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret\n")
    OPENER.open_luks(Path("/dev/x"), "name", Key(passphrase_file=tmp_path / "file"))
    OPENER.open_luks(Path("/dev/x"), "name", Key(key_file=tmp_path / "file"))
    common = {"device": "/dev/x", "name": "name", "exists": True}
    assert blivet.calls == [
        ("luks", {**common, "passphrase": "secret"}),
        ("luks", {**common, "key_file": str(tmp_path / "file")}),
    ]


@pytest.mark.parametrize(
    "said", ["Failed to activate device: Incorrect passphrase.", "Operation not permitted"]
)
def test_blivets_wrong_key_is_the_callers(said: str, blivet: Blivet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret\n")
    blivet.error = blivet.LUKSError(said)
    with pytest.raises(ConfigError, match="does not open it"):
        OPENER.open_luks(Path("/dev/x"), "name", Key(passphrase_file=tmp_path / "file"))


def test_blivets_other_failures_are_the_hosts(blivet: Blivet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret\n")
    blivet.error = blivet.LUKSError("Failed to initialize\nmore")
    with pytest.raises(HostError, match="could not open the encrypted /dev/x: Failed to init") as e:
        OPENER.open_luks(Path("/dev/x"), "name", Key(passphrase_file=tmp_path / "file"))
    assert "secret" not in str(e.value)
    blivet.error = blivet.LVMError("no such group")
    with pytest.raises(HostError, match="could not activate the volume group rl: no such"):
        OPENER.activate("rl", (Path("/dev/a"),))
    assert blivet.calls[-1] == "reset"


def test_blivet_activates_what_can_hold_a_file_system(blivet: Blivet) -> None:
    OPENER.activate("rl", (Path("/dev/a"), Path("/dev/b")))
    assert blivet.calls == ["add /dev/a", "add /dev/b", "activate rl/root True", "reset"]


def test_environment_is_ours_again_after_blivet(
    blivet: Blivet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udev, "CONTROL", tmp_path / "absent")
    for before in ("0", None):
        if before is None:
            monkeypatch.delenv("DM_DISABLE_UDEV", raising=False)
        else:
            monkeypatch.setenv("DM_DISABLE_UDEV", before)
        OPENER.activate("rl", ())
        assert os.environ.get("DM_DISABLE_UDEV") == before
    assert "activate rl/root True" in blivet.calls


# --- loop devices --------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, Runner())


@pytest.fixture
def backing(tmp_path: Path) -> Backing:
    file = tmp_path / "disk.img"
    file.write_bytes(b"x" * 8192)
    return Backing(path=file, read_only=True)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_no_loop_device_to_be_had(
    journal: Journal, backing: Backing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_ioctl, "CONTROL", Path("/nowhere"))
    with pytest.raises(HostError, match="none can be had: No such file") as caught:
        attach(backing, journal)
    assert "modprobe loop" in caught.value.problems[0].hint


def test_loop_device_that_was_free_may_be_gone(
    fp: FakeProcess, journal: Journal, backing: Backing, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[OSError | int] = [_error(errno.EBUSY), _error(errno.EBUSY), 77]

    def configure(device: Path, _: Backing) -> int:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(loops, "configure", configure)
    monkeypatch.setattr(loops, "free_number", lambda: 0)
    fp.register([fp.any()], returncode=1, occurrences=2)
    assert attach(backing, journal) == Path("/dev/loop0")
    assert journal.holds == {"/dev/loop0": 77}
    assert len(journal.steps) == 3


def test_loop_device_that_cannot_be_attached(
    journal: Journal, backing: Backing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def configure(*_: object) -> int:
        raise _error(errno.EPERM)

    monkeypatch.setattr(loops, "configure", configure)
    monkeypatch.setattr(loops, "free_number", lambda: 0)
    with pytest.raises(
        HostError, match="cannot be attached to /dev/loop0: Operation not permitted"
    ):
        attach(backing, journal)


def test_kernel_is_told_all_of_a_loop_device(backing: Backing) -> None:
    asked = replace(backing, offset=1 << 20, size=5, sector=4096)
    config = loop_config(7, asked)
    assert len(config) == 304
    assert struct.unpack_from("=II", config) == (7, 4096)
    assert struct.unpack_from("=QQ", config, 8 + 24) == (1 << 20, 5)
    assert struct.unpack_from("=I", config, 8 + 40 + 12) == (1 | 4 | 8,)
    assert loop_config(7, replace(asked, read_only=False))[60:64] == struct.pack("=I", 4 | 8)


def test_node_that_cannot_be_made(journal: Journal, tmp_path: Path) -> None:
    entry = tmp_path / "loop77"
    entry.mkdir()
    (entry / "dev").write_text("7:77\n")
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot be made") as caught:
        loops._make_node(tmp_path / "file/loop77", entry, journal)
    assert "-v /dev:/dev" in caught.value.problems[0].hint


def test_loop_device_without_a_node_gets_one(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(loops, "DEV", tmp_path)
    monkeypatch.setattr(loops, "free_number", lambda: 77)
    monkeypatch.setattr(loops, "_make_node", lambda node, *_: made.append(node))
    assert loops._free_device(journal) == tmp_path / "loop77"
    assert made == [tmp_path / "loop77"]


# --- the rest ------------------------------------------------------------------------------------


def test_program_that_is_missing_is_named(
    fp: FakeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"x" * 8192)
    monkeypatch.setattr(disk_target, "own_mounts", nullcontext)
    options = OpenOptions(state=tmp_path / "state")

    def missing(_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "losetup")

    fp.register(["losetup", fp.any()], callback=missing)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(HostError), open_target(image, options, Runner(), Events()):
        pass


def test_disk_that_cannot_be_made_writable(fp: FakeProcess) -> None:
    fp.register(["blockdev", fp.any()], returncode=1, stderr=b"Operation not permitted")
    target = OpenedTarget(named=Path("disk.img"), physical_root=Path("/x"), device=Path("/dev/x"))
    with pytest.raises(HostError, match=r"disk\.img: blockdev failed"):
        make_writable(target, Runner())


def test_kernel_that_gives_no_namespace_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.SimpleNamespace(unshare=lambda _: -1)
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: library)
    monkeypatch.setattr("ctypes.get_errno", lambda: 1)
    with pytest.raises(PermissionError), namespace.own_mounts():
        pass
