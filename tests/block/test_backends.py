"""Which libraries and programs are taken, why, and what is said when they do not fit together."""

import sys
import types
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from pytest_subprocess import FakeProcess

from installer_plugin.block import backends, blivet, luks, udev
from installer_plugin.block.backends import FallbackReader, choose_opener, choose_reader
from installer_plugin.block.base import (
    BackendChoice,
    Key,
    OpenOptions,
    TargetDisk,
    root_types,
)
from installer_plugin.block.blivet import blivet_missing, mismatch
from installer_plugin.block.luks import Cryptsetup, read_passphrase
from installer_plugin.block.udev import device_mapper_env, ended_with_us
from installer_plugin.errors import ConfigError, DataError, HostError
from installer_plugin.events import Events
from installer_plugin.process.runner import Runner
from tests.block.luks_header import write_luks2_header
from tests.block.scene import Told
from tests.support.commands import run
from tests.support.kernel import MISSING, has_device_mapper


@pytest.mark.parametrize(
    ("version", "libraries", "told"),
    [
        ("3.7.1", ["2.0"], ""),
        ("3.8.0", ["3.0"], ""),
        ("3.14.2", ["2.0", "3.0"], ""),
        ("4.0", ["3.0"], ""),
        (
            "3.14.2",
            ["2.0"],
            "blivet 3.14.2 needs libblockdev 3, this system has libblockdev 2: install 'blivet<3.8'",
        ),
        (
            "3.7.1",
            ["3.0"],
            "blivet 3.7.1 needs libblockdev 2, this system has libblockdev 3: install 'blivet>=3.8'",
        ),
        ("3.14.2", [], "blivet 3.14.2 needs libblockdev 3, which is not installed"),
        ("odd", ["3.0"], "blivet has no version to go by: 'odd'"),
    ],
)
def test_versions_that_do_not_fit_are_one_sentence(
    version: str, libraries: Collection[str], told: str
) -> None:
    assert mismatch(version, libraries) == told


def fake_gi(monkeypatch: pytest.MonkeyPatch, *versions: str) -> None:
    repository = types.SimpleNamespace(enumerate_versions=lambda _: list(versions))
    gi = types.ModuleType("gi")
    gi.Repository = types.SimpleNamespace(get_default=lambda: repository)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gi", gi)


def test_everything_that_may_be_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert blivet_missing() == "blivet is not installed"
    monkeypatch.setattr(metadata, "version", lambda _: "3.14.2")
    monkeypatch.setitem(sys.modules, "gi", None)
    assert "needs PyGObject (python3-gi)" in blivet_missing()
    fake_gi(monkeypatch, "2.0")
    assert "install 'blivet<3.8'" in blivet_missing()
    fake_gi(monkeypatch, "3.0")
    monkeypatch.setitem(sys.modules, "blivet", None)
    monkeypatch.setitem(sys.modules, "blivet.tasks.availability", None)
    assert blivet_missing().startswith("blivet 3.14.2 cannot be used: ")
    for plugin in ("crypto", "lvm", ""):
        availability = types.SimpleNamespace(
            BLOCKDEV_CRYPTO_PLUGIN=types.SimpleNamespace(available=plugin != "crypto"),
            BLOCKDEV_LVM_PLUGIN=types.SimpleNamespace(available=plugin != "lvm"),
        )
        monkeypatch.setitem(sys.modules, "blivet.tasks.availability", availability)
        assert ("lacks a part of libblockdev" in blivet_missing()) == bool(plugin)


def chosen(monkeypatch: pytest.MonkeyPatch, *, udevd: bool, missing: str) -> None:
    monkeypatch.setattr(backends, "udevd_runs", lambda: udevd)
    monkeypatch.setattr(backends, "pyudev_missing", lambda: missing)


@pytest.mark.parametrize(
    ("there", "choice", "name", "told"),
    [
        ((True, ""), "auto", "udev", "looking with udev: udevd is running"),
        ((True, ""), "blivet", "udev", "udevd is running"),
        ((True, ""), "util-linux", "util-linux", "as asked for"),
        ((True, "pyudev cannot be used"), "auto", "util-linux", "pyudev cannot be used"),
        ((False, ""), "auto", "util-linux", "looking with util-linux: udevd is not running"),
    ],
)
def test_reader_and_its_reason_are_told(
    there: tuple[bool, str], choice: str, name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, udevd=there[0], missing=there[1])
    log = Told()
    options = OpenOptions(backend=BackendChoice(choice))
    assert choose_reader(options, Runner(), Events([log])).name == name
    assert told in log.text


def test_udev_that_is_not_there_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(monkeypatch, udevd=False, missing="")
    with pytest.raises(HostError, match="udevd is not running"):
        choose_reader(OpenOptions(backend=BackendChoice.UDEV), Runner(), Events())


@pytest.mark.parametrize(
    ("missing", "options", "name", "told"),
    [
        ("", {}, "blivet", "libblockdev is there"),
        ("", {"backend": "blivet"}, "blivet", "libblockdev is there"),
        ("", {"read_only": True}, "cryptsetup and lvm", "for writing only"),
        ("one sentence", {}, "cryptsetup and lvm", "one sentence"),
        ("", {"backend": "util-linux"}, "cryptsetup and lvm", "as asked for"),
        ("", {"backend": "udev"}, "cryptsetup and lvm", "as asked for"),
    ],
)
def test_opener_and_its_reason_are_told(
    missing: str, options: dict[str, Any], name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "blivet_missing", lambda: missing)
    log = Told()
    assert choose_opener(OpenOptions(**options), Runner(), Events([log])).name == name
    assert told in log.text


def test_blivet_that_is_not_there_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "blivet_missing", lambda: "one sentence")
    with pytest.raises(HostError, match="one sentence"):
        choose_opener(OpenOptions(backend=BackendChoice.BLIVET), Runner(), Events())


def test_udevd_that_does_not_get_ready_is_not_waited_for() -> None:
    class Late:
        name = "udev"

        def read(self, device: Path) -> TargetDisk:
            raise DataError(str(device), "udevd has not looked at it")

    class Plain:
        name = "util-linux"

        def read(self, device: Path) -> TargetDisk:
            return TargetDisk(device=device)

    log = Told()
    reader = FallbackReader(Late(), Plain(), Events([log]))
    assert reader.name == "udev"
    assert reader.read(Path("/dev/x")).device == Path("/dev/x")
    assert reader.name == "util-linux"
    assert "looking with util-linux: /dev/x: udevd has not looked at it" in log.text


def test_nodes_are_made_by_us_where_udevd_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udev, "CONTROL", tmp_path / "control")
    monkeypatch.setattr(udev, "DATA", tmp_path)
    assert device_mapper_env() == {"DM_DISABLE_UDEV": "1"}
    (tmp_path / "control").touch()
    assert device_mapper_env() == {}


def test_root_types_begin_with_the_machines_own() -> None:
    own, others = root_types("aarch64")
    assert own == ("b921b045-1df0-41c3-af44-4c6f280d3fae",)
    assert own[0] not in others
    assert root_types("unheard-of")[0] == ()


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (b"x\n", b"x"),
        (b"x", b"x"),
        (b"x\n\n", b"x\n"),
        (b" x \r\n", b" x \r"),
        (b"\xff\0\n", b"\xff\0"),
    ],
)
def test_passphrase_is_the_file_without_one_newline(
    content: bytes, passphrase: bytes, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_passphrase(tmp_path / "file") == passphrase


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * (1 << 20) + b"xx"])
def test_file_without_a_passphrase_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match="expected a passphrase"):
        read_passphrase(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_passphrase(tmp_path / "absent")


def test_passphrase_goes_through_stdin_alone(fp: FakeProcess, tmp_path: Path) -> None:
    given: list[bytes] = []
    (tmp_path / "file").write_bytes(b"secret\n")
    fp.register([fp.any()], stdin_callable=given.append)
    key = Key(passphrase_file=tmp_path / "file")
    Cryptsetup(Runner(), read_only=True).open(Path("/dev/x"), "name", key)
    (argv,) = fp.calls
    assert given == [b"secret"]
    opening = ("open", "--type", "luks", "--readonly", "--key-file", "-", "/dev/x", "name")
    assert argv == (*ended_with_us(()), "cryptsetup", *opening)
    assert not any("secret" in str(word) for word in argv)


def test_other_failures_of_cryptsetup_are_the_hosts(fp: FakeProcess, tmp_path: Path) -> None:
    fp.register([fp.any()], returncode=1, stderr=b"Cannot initialize device-mapper.")
    with pytest.raises(HostError, match="Cannot initialize device-mapper") as caught:
        Cryptsetup(Runner(), read_only=False).open(Path("/dev/x"), "n", Key(key_file=tmp_path))
    assert "dm-crypt" in caught.value.problems[0].hint


TPM = {"0": {"type": "systemd-tpm2", "keyslots": []}}


@pytest.mark.real
def test_tokens_are_read_by_the_real_cryptsetup(tmp_path: Path) -> None:
    header = tmp_path / "header"
    write_luks2_header(header, TPM)
    assert Cryptsetup(Runner(), read_only=False)._tokens(header) == {"systemd-tpm2"}
    write_luks2_header(header)
    assert Cryptsetup(Runner(), read_only=False)._tokens(header) == frozenset()
    assert run(("blkid", "-p", "-o", "value", "-s", "TYPE", header)).stdout == "crypto_LUKS\n"


@pytest.mark.parametrize("read_only", [False, True])
def test_tpm_is_asked_through_systemd(
    *, read_only: bool, fp: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(luks, "find_tool", lambda name: f"/usr/bin/{name}")
    fp.register(
        ["cryptsetup", "luksDump", fp.any()], stdout=b'{"tokens": {"0": {"type": "systemd-tpm2"}}}'
    )
    fp.register(["setpriv", fp.any()])
    Cryptsetup(Runner(), read_only=read_only).open(Path("/dev/x"), "name", Key())
    options = "tpm2-device=auto,headless=true" + (",read-only" if read_only else "")
    program = "/usr/bin/systemd-cryptsetup"
    attach = (program, "attach", "name", "/dev/x", "-", options)
    assert fp.calls[-1] == ended_with_us(attach)


def test_other_machines_tpm_is_told(fp: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = b'{"tokens": {"0": {"type": "systemd-tpm2"}}}'
    monkeypatch.setattr(luks, "find_tool", lambda _: None)
    fp.register(["cryptsetup", fp.any()], stdout=dump)
    monkeypatch.setattr(luks, "SYSTEMD_PLACES", ())
    with pytest.raises(HostError, match="systemd-cryptsetup is not installed"):
        Cryptsetup(Runner(), read_only=False).open(Path("/dev/x"), "name", Key())
    monkeypatch.setattr(luks, "SYSTEMD_PLACES", ("/bin/sh",))
    fp.register(["cryptsetup", fp.any()], stdout=dump)
    fp.register(["setpriv", fp.any()], returncode=1)
    with pytest.raises(HostError, match="is bound to a TPM") as caught:
        Cryptsetup(Runner(), read_only=False).open(Path("/dev/x"), "name", Key())
    assert "--passphrase-file" in caught.value.problems[0].hint


def test_luks1_has_no_tokens(fp: FakeProcess) -> None:
    fp.register(["cryptsetup", fp.any()], returncode=1)
    with pytest.raises(ConfigError, match="no key was given"):
        Cryptsetup(Runner(), read_only=False).open(Path("/dev/x"), "name", Key())


# --- the blivet side, with blivet played ---------------------------------------------------------


def test_blivet_gets_text_and_others_go_to_cryptsetup(fp: FakeProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe\n")
    fp.register(["setpriv", fp.any()])
    opener = blivet.BlivetOpener(Cryptsetup(Runner(), read_only=False))
    opener.open_luks(Path("/dev/x"), "name", Key(passphrase_file=tmp_path / "file"))
    (argv,) = fp.calls
    assert isinstance(argv, tuple)
    assert "cryptsetup" in argv


# --- the check that leaves tests out -------------------------------------------------------------


@pytest.mark.parametrize(
    ("misc", "there"),
    [
        ("236 device-mapper\n237 loop-control\n", True),
        (" 63 device-mapper\n", True),
        ("237 loop-control\n", False),
        ("236 device-mapper-x\n", False),
        ("", False),
    ],
)
def test_kernel_is_asked_for_the_device_mapper(misc: str, *, there: bool) -> None:
    assert has_device_mapper(misc) is there
    assert "tests/block/with-device-mapper" in MISSING
