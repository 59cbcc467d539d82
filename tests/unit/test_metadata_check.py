"""Layers against their tar headers: every defect is named with its path, sound layers have none."""

import base64
import os
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from installer_plugin.files.rootfs import Rootfs
from installer_plugin.model import DiffId
from installer_plugin.storage.layer import defects as defects_module
from installer_plugin.storage.layer.proof import LayerClaim, Reading, prove_layer
from tests.support.crafted import LOWER, UPPER, Entry, layer_tar
from tests.support.handmade import LAYER, Handmade, handmade, packed, segment, split
from tests.support.tricky import CAPABILITY

XATTR = "SCHILY.xattr."
ENTRIES = (
    Entry(name="./", type=tarfile.DIRTYPE, mode=0o755),
    Entry(name="./bin/", type=tarfile.DIRTYPE, mode=0o755),
    Entry(name="./bin/tool", content=b"tool\n" * 1000, mode=0o4755, owner=(1, 2)),
    Entry(
        name="./bin/capable",
        content=b"x",
        pax={f"{XATTR}security.capability": CAPABILITY.decode("latin-1")},
    ),
    Entry(name="./bin/other", type=tarfile.LNKTYPE, target="./bin/tool", mode=0o4755, owner=(1, 2)),
    Entry(name="./bin/link", type=tarfile.SYMTYPE, target="/bin/tool", mode=0o777),
    Entry(name="./dev/null", type=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
    Entry(name="./dev/sda", type=tarfile.BLKTYPE, device=(8, 0), mode=0o660),
    Entry(name="./dev/fifo", type=tarfile.FIFOTYPE),
    Entry(name="./etc/.wh.gone"),
    Entry(name="./opaque/.wh..wh..opq"),
    Entry(name="./empty"),
)


@pytest.fixture
def layer(tmp_path: Path) -> Handmade:
    return handmade(tmp_path, ENTRIES)


def _with(tmp_path: Path, *entries: Entry) -> Handmade:
    return handmade(tmp_path, entries)


def _file(name: str, **pax: str) -> Entry:
    return Entry(name=name, content=b"content\n", pax=pax)


def _bare(tmp_path: Path, *entries: Entry) -> Handmade:
    """A layer whose stream has the entries while its tree is empty."""
    layer = Handmade(tmp_path, layer_tar(entries))
    layer.diff.mkdir(parents=True)
    layer.tar_split.parent.mkdir()
    layer.tar_split.write_bytes(packed(split(layer.tar)))
    return layer


def _restreamed(layer: Handmade, *entries: Entry) -> Handmade:
    """The same tree with another stream."""
    again = Handmade(layer.root, layer_tar(entries))
    again.tar_split.write_bytes(packed(split(again.tar)))
    return again


@pytest.mark.parametrize("entries", [ENTRIES, LOWER, UPPER], ids=["all-kinds", "lower", "upper"])
def test_sound_layer(tmp_path: Path, entries: tuple[Entry, ...]) -> None:
    layer = handmade(tmp_path, entries)
    proof = layer.prove(drop_cache=True)
    assert proof.defects == ()
    assert proof.size == len(layer.tar)


def _rewrite(path: Path, content: bytes) -> None:
    """Write without a change of time, as a failing disk does."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(stat.S_IMODE(before.st_mode))


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _file_for_parent(diff: Path) -> None:
    (diff / "etc/gone").unlink()
    (diff / "etc").rmdir()
    (diff / "etc").touch()


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "flipped": (lambda d: _rewrite(d / "bin/tool", b"tooL\n" * 1000), "/bin/tool", "other content"),
    "shorter": (
        lambda d: _rewrite(d / "bin/tool", b"tool"), "/bin/tool", "has 4 bytes, expected 5000"
    ),
    "missing": (lambda d: (d / "bin/capable").unlink(), "/bin/capable", "is missing"),
    "mode": (lambda d: (d / "bin/tool").chmod(0o755), "/bin/tool", "mode 0755, expected 4755"),
    "mode-of-directory": (lambda d: (d / "bin").chmod(0o700), "/bin", "mode 0700, expected 0755"),
    "mode-of-device": (lambda d: (d / "dev/null").chmod(0o600), "/dev/null", "0600, expected 0666"),
    "mode-of-root": (lambda d: d.chmod(0o700), "/", "mode 0700, expected 0555 or 0755"),
    "owner-of-root": (lambda d: os.chown(d, 5, 6), "/", "belongs to 5:6, expected 0:0"),
    "owner": (lambda d: os.chown(d / "empty", 7, 0), "/empty", "belongs to 7:0, expected 0:0"),
    "owner-of-link": (
        lambda d: os.chown(d / "bin/link", 7, 0, follow_symlinks=False), "/bin/link", "7:0"
    ),
    "time": (
        lambda d: os.utime(d / "empty", (5, 5)),
        "/empty",
        "was modified 1970-01-01T00:00:05Z, expected 2017-07-14T02:40:00Z",
    ),
    "capability-gone": (
        lambda d: os.removexattr(d / "bin/capable", "security.capability"),
        "/bin/capable",
        "has security.capability not set, expected 0x0100000200040000",
    ),
    "capability-new": (
        lambda d: os.setxattr(d / "empty", "security.capability", CAPABILITY),
        "/empty",
        "expected not set",
    ),
    "attribute-of-implied": (
        lambda d: os.setxattr(d / "etc", "user.x", b"y" * 50), "/etc", "has user.x 0x7979"
    ),
    "owner-of-implied": (lambda d: os.chown(d / "dev", 5, 5), "/dev", "5:5, expected 0:0"),
    "mode-of-implied": (lambda d: (d / "dev").chmod(0o1777), "/dev", "mode 1777"),
    "link-target": (
        lambda d: _replace(d / "bin/link", lambda p: p.symlink_to("/bin/evil")),
        "/bin/link",
        "leads to '/bin/evil', expected '/bin/tool'",
    ),
    "hard-link-broken": (
        lambda d: _replace(d / "bin/other", lambda p: p.write_bytes(b"tool\n" * 1000)),
        "/bin/other",
        "is a file of its own, expected a hard link to /bin/tool",
    ),
    "device-numbers": (
        lambda d: _replace(d / "dev/null", lambda p: os.mknod(p, 0o020666, os.makedev(1, 5))),
        "/dev/null",
        "is device 1:5, expected 1:3",
    ),
    "type": (
        lambda d: _replace(d / "dev/fifo", lambda p: p.write_text("")),
        "/dev/fifo",
        "is a regular file, expected a fifo",
    ),
    "fifo-for-file": (
        lambda d: _replace(d / "bin/capable", os.mkfifo),
        "/bin/capable",
        "is a fifo, expected a regular file",
    ),
    "link-for-file": (
        lambda d: _replace(d / "bin/capable", lambda p: p.symlink_to("/etc/shadow")),
        "/bin/capable",
        "is a symbolic link, expected a regular file",
    ),
    "file-for-parent": (
        _file_for_parent, "/etc/gone", "cannot be reached: Not a directory, expected a whiteout"
    ),
    "parent-gone": (
        lambda d: (d / "bin").rename(d / "moved"),
        "/bin/tool",
        "cannot be reached: No such file or directory",
    ),
    "whiteout-gone": (
        lambda d: (d / "etc/gone").unlink(), "/etc/gone", "is missing: No such file or directory"
    ),
    "whiteout-is-file": (
        lambda d: _replace(d / "etc/gone", lambda p: p.write_text("back")),
        "/etc/gone",
        "is a regular file, expected a whiteout",
    ),
    "opaque-gone": (
        lambda d: os.removexattr(d / "opaque", "trusted.overlay.opaque"),
        "/opaque",
        "is not opaque, expected marked",
    ),
    "opaque-new": (
        lambda d: os.setxattr(d / "bin", "trusted.overlay.opaque", b"y"),
        "/bin",
        "is marked opaque, expected not",
    ),
    "opaque-root": (
        lambda d: os.setxattr(d, "trusted.overlay.opaque", b"y"), "/", "is marked opaque"
    ),
    "opaque-odd": (
        lambda d: os.setxattr(d / "bin", "trusted.overlay.opaque", b"x"), "/bin", "opaque b'x'"
    ),
    "redirect": (
        lambda d: os.setxattr(d / "bin", "trusted.overlay.redirect", b"/etc"),
        "/bin",
        "trusted.overlay.redirect",
    ),
    "extra-file": (
        lambda d: (d / "dev/extra").touch(), "/dev/extra", "is not in the image's layer"
    ),
    "extra-directory": (
        lambda d: (d / "bin/extra/inner").mkdir(parents=True),
        "/bin/extra",
        "is not in the image's layer",
    ),
    "extra-whiteout": (
        lambda d: os.mknod(d / "bin/hide", 0o020000, 0), "/bin/hide", "is not in the image's layer"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(layer: Handmade, name: str) -> None:
    damage, path, message = DAMAGES[name]
    damage(layer.diff)
    found = layer.defects()
    assert [text for where, text in found if where == path and message in text], found


def test_flipped_byte_is_the_only_defect(layer: Handmade) -> None:
    DAMAGES["flipped"][0](layer.diff)
    ((path, message),) = layer.defects()
    assert path == "/bin/tool"
    assert "the layer's tar stream hashes to sha256:" in message


HARMLESS: dict[str, Callable[[Path], object]] = {
    "nanoseconds": lambda d: os.utime(d / "empty", ns=(0, 1_500_000_000_999_999_999)),
    "time-of-directory": lambda d: os.utime(d / "bin", (5, 5)),
    "time-of-link": lambda d: os.utime(d / "bin/link", (5, 5), follow_symlinks=False),
    "label": lambda d: os.setxattr(d / "empty", "security.selinux", b"system_u:object_r:x:s0"),
    "rootless-mark": lambda d: os.setxattr(d / "empty", "user.overlay.origin", b""),
    "owner-of-whiteout": lambda d: os.chown(d / "etc/gone", 9, 9),
    "inherited-root-mode": lambda d: d.chmod(0o555),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_the_stream_does_not_bind_is_no_defect(layer: Handmade, name: str) -> None:
    HARMLESS[name](layer.diff)
    assert layer.defects() == []


def test_attribute_that_a_security_module_sets(
    layer: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "listxattr", lambda *_, **__: ["security.ima", "btrfs.compression"])
    monkeypatch.setattr(os, "getxattr", lambda *_, **__: b"value")
    # The attributes that the image does have are hidden by the pretence.
    assert [path for path, _ in layer.defects()] == ["/bin/capable", "/opaque"]


CAPABILITY_3 = CAPABILITY.replace(b"\x02", b"\x03", 1)


def test_capability_of_version_3_reads_as_version_2(tmp_path: Path) -> None:
    value = (CAPABILITY_3 + bytes(4)).decode("latin-1")
    layer = _with(tmp_path, _file("tool", **{f"{XATTR}security.capability": value}))
    seen = os.getxattr(layer.diff / "tool", "security.capability")
    assert struct.unpack_from("<I", seen)[0] >> 24 == 2
    assert layer.defects() == []


def test_capability_of_another_root_user_is_another_capability(tmp_path: Path) -> None:
    value = (CAPABILITY_3 + struct.pack("<I", 100)).decode("latin-1")
    layer = _with(tmp_path, _file("tool", **{f"{XATTR}security.capability": value}))
    assert layer.defects() == []
    os.setxattr(layer.diff / "tool", "security.capability", CAPABILITY)
    assert [path for path, _ in layer.defects()] == ["/tool"]


@pytest.mark.parametrize(
    ("header", "seen", "sound"),
    [
        ("-5", 0, True),
        ("-5", -5, True),
        ("-4.5", -5, True),
        ("-5", 7, False),
        ("99999999999", 0, True),
        ("5000000000", 2**31 - 1, True),
        ("5000000000", 2**31 - 2, False),
        ("5000000000", 0, False),
        ("9223372036854775807", 0, True),
        ("9223372036854775807", 1, False),
        ("99999999999999999999", 0, False),  # which Go does not read
    ],
)
def test_times_beyond_what_can_be_stored(
    tmp_path: Path, header: str, *, seen: int, sound: bool
) -> None:
    layer = _bare(tmp_path, Entry(name="old", content=b"x", pax={"mtime": header}))
    (layer.diff / "old").write_bytes(b"x")
    (layer.diff / "old").chmod(0o644)
    os.utime(layer.diff / "old", (seen, seen))
    assert (layer.defects() == []) is sound


def test_whiteout_that_the_same_layer_replaces(tmp_path: Path) -> None:
    layer = _with(tmp_path, _file("again"))
    assert _restreamed(layer, Entry(name=".wh.again"), _file("again")).defects() == []


def test_whiteout_below_a_whiteout_need_not_be(tmp_path: Path) -> None:
    layer = _bare(tmp_path, Entry(name="./.wh.old"), Entry(name="./old/.wh.in"))
    os.mknod(layer.diff / "old", 0o020000, 0)
    assert layer.defects() == []


def test_opaque_mark_as_an_attribute_in_the_header(tmp_path: Path) -> None:
    pax = {f"{XATTR}trusted.overlay.opaque": "y"}
    layer = _with(tmp_path, Entry(name="dir", type=tarfile.DIRTYPE, mode=0o755, pax=pax))
    assert layer.defects() == []


def test_parent_that_is_a_link(tmp_path: Path) -> None:
    layer = _with(
        tmp_path,
        Entry(name="usr", type=tarfile.DIRTYPE, mode=0o755),
        Entry(name="usr/lib", type=tarfile.DIRTYPE, mode=0o755),
        Entry(name="lib", type=tarfile.SYMTYPE, target="usr/lib"),
        _file("lib/through"),
    )
    assert (layer.diff / "usr/lib/through").is_file()
    assert layer.defects() == []


def _two_headers(tmp_path: Path, mode: int, owner: tuple[int, int] = (0, 0)) -> Handmade:
    """A file whose hard link has another header than the file itself."""
    return _with(
        tmp_path,
        Entry(name="first", content=b"x", mode=0o600),
        Entry(name="second", type=tarfile.LNKTYPE, target="first", mode=mode, owner=owner),
    )


def test_hard_links_header_wins_over_the_files(tmp_path: Path) -> None:
    layer = _two_headers(tmp_path, 0o644, (3, 4))
    assert stat.S_IMODE((layer.diff / "first").stat().st_mode) == 0o644
    assert layer.defects() == []


def test_neither_header_of_a_hard_linked_file_fits(tmp_path: Path) -> None:
    layer = _two_headers(tmp_path, 0o644)
    (layer.diff / "first").chmod(0o666)
    assert layer.defects() == [("/first", "has mode 0666, expected 0600")]


def test_hard_link_without_its_target(tmp_path: Path) -> None:
    layer = _two_headers(tmp_path, 0o600)
    (layer.diff / "first").unlink()
    assert [path for path, _ in layer.defects()] == ["/first", "/second"]


def test_hard_links_to_links_and_devices(tmp_path: Path) -> None:
    link = Entry(name="link", type=tarfile.SYMTYPE, target="nowhere")
    device = Entry(name="null", type=tarfile.CHRTYPE, device=(1, 3))
    layer = _with(tmp_path, link, device)
    os.link(layer.diff / "link", layer.diff / "link2", follow_symlinks=False)
    (layer.diff / "null2").hardlink_to(layer.diff / "null")
    again = _restreamed(
        layer,
        link,
        device,
        Entry(name="link2", type=tarfile.LNKTYPE, target="link"),
        Entry(name="null2", type=tarfile.LNKTYPE, target="null"),
    )
    assert again.defects() == []


def test_global_header_is_no_file(tmp_path: Path) -> None:
    layer = _with(tmp_path, _file("file"))
    header = tarfile.TarInfo.create_pax_global_header({"comment": "made by hand", "uid": "77"})
    layer.tar_split.write_bytes(packed([segment(header), *split(layer.tar)]))
    assert Handmade(tmp_path, header + layer.tar).defects() == []


def test_global_header_in_a_directory_that_unpacking_makes(tmp_path: Path) -> None:
    layer = _with(tmp_path, _file("file"))
    header = bytearray(tarfile.TarInfo.create_pax_global_header({"comment": "x"}))
    header[:100] = b"tmp/GlobalHead.1".ljust(100, b"\0")
    layer.tar_split.write_bytes(packed([segment(bytes(header)), *split(layer.tar)]))
    again = Handmade(tmp_path, bytes(header) + layer.tar)
    assert again.defects() == []  # the directory may be missing
    (layer.diff / "tmp").mkdir()
    assert again.defects() == []


# --- tar-split files that do not fit -----------------------------------------------------------


def test_content_inside_the_tar_split_file_proves_nothing(layer: Handmade) -> None:
    layer.tar_split.write_bytes(packed([segment(layer.tar)]))
    ((_, message),) = layer.defects()
    assert "has the content of b'./bin/tool' in itself" in message


def test_changed_header_is_found_by_the_hash(layer: Handmade) -> None:
    lines = split(layer.tar)
    header = base64.b64decode(str(lines[0]["payload"]))
    lines[0] = segment(header.replace(b"0000755\0", b"0000700\0"))
    layer.tar_split.write_bytes(packed(lines))
    assert "its files agree with their own checksums" in dict(layer.defects())[""]


def test_cut_stream_is_told_by_its_length(layer: Handmade) -> None:
    layer.tar_split.write_bytes(packed(split(layer.tar)[:-2]))
    hashes, sizes = (text for path, text in layer.defects() if not path)
    assert "hashes to sha256:" in hashes
    assert f"bytes, expected {len(layer.tar)} as recorded" in sizes


def test_stream_longer_than_recorded_is_refused(layer: Handmade) -> None:
    (defect,) = layer.prove(size=4096).defects
    assert "is longer than 4096 bytes" in defect.message


def test_file_with_an_absurd_size_is_not_read(layer: Handmade) -> None:
    with (layer.diff / "bin/tool").open("r+b") as file:
        file.truncate(1 << 43)
    assert ("/bin/tool", "has 8796093022208 bytes, expected 5000") in layer.defects()


def test_file_that_is_named_twice(tmp_path: Path) -> None:
    layer = _restreamed(_with(tmp_path, _file("file")), _file("file"), _file("/file"))
    assert "is twice in the layer's tar stream" in dict(layer.defects())["/file"]


def test_whiteout_with_content_cannot_be_proven(tmp_path: Path) -> None:
    layer = _with(tmp_path, Entry(name=".wh.gone", content=b"content"))
    assert layer.defects() == [("", "has content in its tar stream that unpacking drops")]


@pytest.mark.parametrize("name", ["usr/../y", "usr/lib/../../y", "./usr/./../y"])
def test_name_with_inner_dots_is_the_file_that_unpacking_made(tmp_path: Path, name: str) -> None:
    usr, lib = (Entry(name=n, type=tarfile.DIRTYPE, mode=0o755) for n in ("usr", "usr/lib"))
    layer = handmade(tmp_path / "store", [usr, lib, Entry(name=name, content=b"y")])
    assert layer.defects() == []


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "../up", "a/../../b"])
def test_hostile_names_in_the_stream(tmp_path: Path, name: str) -> None:
    layer = _bare(tmp_path, Entry(name=name))
    (layer.diff / "a").mkdir()
    ((path, message),) = layer.defects()
    assert not path
    assert "is not a " in message


def _tree_behind_a_link(layer: Handmade) -> None:
    layer.diff.rename(layer.diff.parent / "x")
    layer.diff.symlink_to("x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda layer: layer.tar_split.unlink(), "cannot be opened: No such file"),
        (lambda layer: _replace(layer.tar_split, os.mkfifo), "is a fifo, expected a regular file"),
        (lambda layer: layer.diff.rename(layer.root / "x"), "cannot be opened: No such file"),
        (_tree_behind_a_link, "is reached through a link"),
    ],
    ids=["no-tar-split", "fifo", "no-tree", "tree-is-link"],
)
def test_parts_of_the_layer_are_missing(
    layer: Handmade, damage: Callable[[Handmade], object], message: str
) -> None:
    damage(layer)
    ((_, found),) = layer.defects()
    assert message in found


def test_ruined_layer_is_told_in_bounded_length(
    layer: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defects_module, "MAX_DEFECTS", 3)
    for number in range(9):
        (layer.diff / f"extra{number}").touch()
    assert layer.defects()[3:] == [("", "6 more defects are not listed")]


# --- a disk that fails -------------------------------------------------------------------------


@pytest.fixture
def failing_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def fail(call: str) -> None:
        def refuse(*_: object, **__: object) -> int:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, call, refuse)

    return fail


@pytest.mark.parametrize("call", ["readv", "listxattr"])
def test_read_errors_name_the_file(
    layer: Handmade, failing_disk: Callable[[str], None], call: str
) -> None:
    failing_disk(call)
    assert ("/bin/tool", "cannot be read: Input/output error") in layer.defects()


def test_read_error_in_a_directory(layer: Handmade, failing_disk: Callable[[str], None]) -> None:
    failing_disk("listdir")
    assert ("", "cannot be read: Input/output error") in layer.defects()


def test_file_that_shrinks_while_it_is_read(
    layer: Handmade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "readv", lambda *_: 0)
    assert ("/bin/tool", "ends before 5000 bytes are read") in layer.defects()


def test_large_files_pass_the_buffer(tmp_path: Path) -> None:
    layer = _with(tmp_path, Entry(name="large", content=bytes(range(256)) * 13_000), _file("small"))
    assert layer.defects() == []


def test_large_segments_pass_the_buffer(tmp_path: Path) -> None:
    layer = _with(tmp_path, _file("file"))
    zeros = bytes(3 << 20)
    layer.tar_split.write_bytes(packed([*split(layer.tar), segment(zeros), segment(zeros[:-1000])]))
    assert Handmade(tmp_path, layer.tar + zeros + zeros[:-1000]).defects() == []


class _EnoughError(Exception):
    pass


def test_work_stops_when_progress_says_so(layer: Handmade) -> None:
    def stop(_: int) -> None:
        raise _EnoughError

    claim = LayerClaim(id=LAYER, parent=None, diff_id=DiffId("sha256:" + "0" * 64), size=None)
    with pytest.raises(_EnoughError), Rootfs.open(layer.root) as root:
        prove_layer(root, claim, stop, Reading(drop_cache=False))
