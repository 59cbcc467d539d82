"""What the programs say, as recorded from them, and what must not be mistaken for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.block.base import Partition, Signature
from installer_plugin.block.in_use import uses_of
from installer_plugin.block.luks import parse_tokens
from installer_plugin.block.lvm import parse_lvs
from installer_plugin.block.mountinfo import parse_mountinfo
from installer_plugin.block.mounts import (
    look_options,
    mount_options,
)
from installer_plugin.block.probe import (
    BlockNode,
    Loop,
    blkid_argv,
    parse_export,
    parse_losetup,
    parse_lsblk,
    parse_sfdisk,
    parse_signature,
)
from installer_plugin.block.udev import _decoded, partition_of
from installer_plugin.block.undo_steps import parse_steps
from installer_plugin.errors import DataError

SFDISK = """{
   "partitiontable": {
      "label": "gpt", "id": "7DF52013-6448-F54D-86C0-CE41198704E9", "device": "/dev/loop0",
      "unit": "sectors", "firstlba": 2048, "lastlba": 1228766, "sectorsize": 512,
      "partitions": [
         {"node": "/dev/loop0p2", "start": 133120, "size": 819200,
          "type": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
          "uuid": "3B2DDD10-D083-3B48-BB26-1D7A6B91328B", "name": "root"},
         {"node": "/dev/loop0p1", "start": 2048, "size": 131072,
          "type": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
          "uuid": "BE8B5C78-5383-CD4E-9A18-2725876E3881", "name": "EFI-SYSTEM"}
      ]
   }
}
"""
SFDISK_MBR = """{
   "partitiontable": {
      "label": "dos", "id": "0x1a2b3c4d", "device": "disk.img", "unit": "sectors",
      "partitions": [{"node": "disk.img1", "start": 2048, "size": 4096, "type": "83", "bootable": true}]
   }
}
"""
SFDISK_4K = """{"partitiontable": {"label": "gpt", "sectorsize": 4096, "unit": "sectors", "partitions": [
    {"node": "/dev/nvme0n1p12", "start": 256, "size": 10, "type": "X"}]}}"""
SFDISK_EMPTY = '{"partitiontable": {"label": "gpt", "unit": "sectors", "sectorsize": 512}}'

BLKID = """DEVNAME=/dev/loop0p2
LABEL=my\\ root\\$\\(x\\)
UUID=8c22fcd9-1110-4668-afb9-21fdebb128ae
VERSION=1.0
BLOCK_SIZE=1024
TYPE=ext4
USAGE=filesystem
PART_ENTRY_SCHEME=gpt
PART_ENTRY_TYPE=4f68bce3-e8cd-4db1-96e7-fbcaf984b709
"""
BLKID_TABLE = "DEVNAME=/dev/loop0\nPTUUID=7df52013-6448-f54d-86c0-ce41198704e9\nPTTYPE=gpt\n"

LOSETUP = """{
   "loopdevices": [
      {"name": "/dev/loop1", "back-maj:min": "     254:0  ", "back-ino": 10027233,
       "offset": 1048576, "autoclear": true, "ro": false},
      {"name": "/dev/loop0", "back-maj:min": "0:42", "back-ino": 5, "offset": 0,
       "autoclear": false, "ro": true}
   ]
}
"""

LSBLK = """{"blockdevices": [
  {"name": "vda", "path": "/dev/vda", "type": "disk", "mountpoints": [null], "children": [
    {"name": "vda1", "path": "/dev/vda1", "type": "part", "mountpoints": ["[SWAP]"]},
    {"name": "vda2", "path": "/dev/vda2", "type": "part", "mountpoints": ["/", "/home"]},
    {"name": "vda3", "path": "/dev/vda3", "type": "part", "mountpoints": [null], "children": [
      {"name": "luks", "path": "/dev/mapper/luks", "type": "crypt", "mountpoints": [null]}]}
  ]}
]}
"""
LSBLK_OLD = '{"blockdevices": [{"path": "/dev/sda", "type": "disk", "mountpoint": "/mnt"}]}'

LVS = """  {
      "report": [
          {
              "lv": [
                  {"vg_name":"rl", "vg_uuid":"a-b", "lv_name":"root", "lv_dm_path":"/dev/mapper/rl-root", "lv_layout":"linear"},
                  {"vg_name":"rl", "vg_uuid":"a-b", "lv_name":"pool0", "lv_dm_path":"/dev/mapper/rl-pool0", "lv_layout":"thin,pool"},
                  {"vg_name":"rl", "vg_uuid":"a-b", "lv_name":"thin", "lv_dm_path":"/dev/mapper/rl-thin", "lv_layout":"thin,sparse"}
              ]
          }
      ]
  }
"""  # noqa: E501 - recorded


def test_sfdisk_gpt() -> None:
    first, second = parse_sfdisk(SFDISK, "x")
    assert (first.number, first.start, first.size) == (1, 1 << 20, 64 << 20)
    assert first.name == "EFI-SYSTEM"
    assert second == Partition(
        number=2,
        start=65 << 20,
        size=400 << 20,
        type_id="4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        name="root",
    )
    assert str(second) == "partition 2 'root'"


def test_sfdisk_other_tables() -> None:
    (mbr,) = parse_sfdisk(SFDISK_MBR, "x")
    assert (mbr.number, mbr.start, mbr.type_id, mbr.name) == (1, 1 << 20, "83", "")
    (large,) = parse_sfdisk(SFDISK_4K, "x")
    assert (large.number, large.start, large.size) == (12, 1 << 20, 40960)
    assert parse_sfdisk(SFDISK_EMPTY, "x") == ()


def test_blkid_values_are_unescaped() -> None:
    assert parse_export(BLKID)["LABEL"] == "my root$(x)"
    assert parse_signature(BLKID) == Signature(
        kind="ext4", label="my root$(x)", uuid="8c22fcd9-1110-4668-afb9-21fdebb128ae"
    )


@pytest.mark.parametrize("text", ["", BLKID_TABLE, "garbage", "=\n=x\n"])
def test_blkid_without_content(text: str) -> None:
    assert parse_signature(text) is None


def test_blkid_looks_at_a_part_of_a_disk() -> None:
    argv = blkid_argv(Path("/dev/x"), Partition(number=1, start=5, size=7))
    assert argv == (
        "blkid", "--probe", "--offset", "5", "--size", "7", "--output", "export", "/dev/x",
    )  # fmt: skip


def test_losetup() -> None:
    assert parse_losetup(LOSETUP) == (
        Loop(device=Path("/dev/loop1"), disk=os.makedev(254, 0), inode=10027233, offset=1 << 20),
        Loop(device=Path("/dev/loop0"), disk=os.makedev(0, 42), inode=5, offset=0),
    )
    assert parse_losetup("") == ()


def test_loop_device_that_is_just_being_detached_is_none() -> None:
    text = LOSETUP.replace(
        '"loopdevices": [',
        """"loopdevices": [
        {"name": "/dev/loop7", "back-maj:min": null, "back-ino": null, "offset": null},""",
    )
    assert text != LOSETUP
    assert parse_losetup(text) == parse_losetup(LOSETUP)


def test_lsblk_tells_all_uses() -> None:
    (disk,) = parse_lsblk(LSBLK, "x")
    assert [node.path for node in disk.walk()][1:3] == ["/dev/vda1", "/dev/vda2"]
    told = [str(problem) for problem in uses_of((disk,))]
    assert told == [
        "/dev/vda1: is swap space in use, expected a free device",
        "/dev/vda2: is mounted on /, /home, expected a device that is not mounted",
        "/dev/vda3: is in use by /dev/mapper/luks (crypt), expected a free device",
    ]
    assert parse_lsblk(LSBLK_OLD, "x") == (
        BlockNode(path="/dev/sda", kind="disk", mount_points=("/mnt",)),
    )


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (("/a", "/a"), [("is mounted on /a", "(umount /a)")]),
        (("/a", "/a/b"), [("is mounted on /a, /a/b", "(umount /a/b /a)")]),
        (
            ("[SWAP]", "/a"),
            [("is swap space in use", "swapoff"), ("is mounted on /a", "umount /a")],
        ),
        ((), []),
    ],
)
def test_all_mounts_of_a_device_are_one_problem(
    points: tuple[str, ...], told: list[tuple[str, str]]
) -> None:
    node = BlockNode(path="/dev/sda", kind="disk", mount_points=points)
    problems = tuple(uses_of((node,)))
    assert len(problems) == len(told)
    for problem, (message, hint) in zip(problems, told, strict=True):
        assert message in problem.message
        assert hint in problem.hint


def test_lvs_leaves_out_what_only_serves_others() -> None:
    volumes = parse_lvs(LVS, "x")
    assert [str(volume) for volume in volumes] == ["volume rl/root", "volume rl/thin"]
    assert volumes[0].device == Path("/dev/mapper/rl-root")
    assert volumes[0].group_uuid == "a-b"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ('{"tokens": {"0": {"type": "systemd-tpm2"}, "1": {"type": "x"}}}', {"systemd-tpm2", "x"}),
        ('{"tokens": {}}', set()),
        ("{}", set()),
        ("[]", set()),
        ("no json", set()),
        ('{"tokens": {"0": null}}', set()),
    ],
)
def test_tokens(text: str, kinds: set[str]) -> None:
    assert parse_tokens(text) == kinds


def test_mount_options_run_nothing_and_replay_nothing() -> None:
    assert mount_options("ext4", read_only=True) == ("ro", "nosuid", "nodev", "noexec")
    assert "nouuid" in mount_options("xfs", read_only=False)
    assert "norecovery" in look_options("xfs")
    assert "noload" in look_options("ext4")


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("plain", "plain"),
        (r"my\x20root", "my root"),
        (r"\xc3\xbc", "ü"),
        ("ü", "ü"),
        (r"\x5cx", "\\x"),
    ],
)
def test_udev_names_are_decoded(text: str, decoded: str) -> None:
    assert _decoded(text) == decoded


def test_udev_properties() -> None:
    entry = Partition(number=2, start=5, size=6, type_id="from-table")
    properties = {
        "ID_PART_ENTRY_TYPE": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
        "ID_PART_ENTRY_NAME": r"my\x20root",
        "ID_FS_TYPE": "xfs",
        "ID_FS_LABEL": "r_t",
        "ID_FS_LABEL_ENC": r"r\x2ft",
        "ID_FS_UUID": "u",
    }
    found = partition_of(properties, entry)
    assert (found.number, found.start, found.size) == (2, 5, 6)
    assert found.type_id == "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
    assert found.name == "my root"
    assert found.signature == Signature(kind="xfs", label="r/t", uuid="u")
    assert partition_of({"ID_PART_ENTRY_TYPE": "0x83"}, entry).type_id == "83"
    assert partition_of({}, entry) == entry


# --- garbage -----------------------------------------------------------------------------------

PARSERS: dict[str, Callable[[str], object]] = {
    "sfdisk": lambda text: parse_sfdisk(text, "x"),
    "lsblk": lambda text: parse_lsblk(text, "x"),
    "losetup": parse_losetup,
    "lvs": lambda text: parse_lvs(text, "x"),
}
GARBAGE = (
    "no json", "[]", "null", "3", '{"a": 1}', '{"partitiontable": 3}', '{"blockdevices": 3}',
    '{"loopdevices": [3]}', '{"report": [{"lv": [null]}]}', '{"blockdevices": [{"path": 1}]}',
    '{"partitiontable": {"partitions": [{"node": "x", "start": 1, "size": 1}]}}',
    '{"partitiontable": {"partitions": [{"node": "x1", "start": "y", "size": 1}]}}',
    '{"loopdevices": [{"name": "/dev/loop0", "back-maj:min": null}]}', SFDISK[:200], LSBLK[:100],
)  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_an_error_of_ours(parser: Callable[[str], object], text: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        parser(text)


@given(st.text() | st.recursive(st.none() | st.text(), st.lists, max_leaves=5).map(str))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parser in (*PARSERS.values(), parse_export, parse_signature, parse_tokens):
        try:
            parser(text)
        except DataError:
            continue
    parse_mountinfo(text)
    try:
        parse_steps(text, "x")
    except DataError as error:
        assert "expected a step of ours" in str(error)  # noqa: PT017 - it may be none at all
