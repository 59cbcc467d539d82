"""Encrypted volumes by cryptsetup and systemd-cryptsetup; no passphrase is ever in an argv."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.block.base import Key
from installer_plugin.block.udev import device_mapper_env, ended_with_us
from installer_plugin.errors import ConfigError, HostError, Problem
from installer_plugin.process.runner import Command, CommandError, Runner, find_tool

PASSPHRASE_LIMIT = 1 << 20
"""Bytes of a passphrase file; cryptsetup takes no longer ones."""
TPM2_TOKEN = "systemd-tpm2"  # noqa: S105 - the name of a kind of token
NO_KEY_FITS = 2
"""cryptsetup's exit code when no key slot takes the key."""
SYSTEMD_PLACES = ("/usr/lib/systemd/systemd-cryptsetup", "/lib/systemd/systemd-cryptsetup")
"""Where it was before systemd 255 put it into PATH."""
KEY_HINT = "give --passphrase-file FILE or --key-file FILE"
MISSING_HINT = "is dm-crypt missing in this kernel (modprobe dm-crypt)?"


def open_argv(device: Path, mapping: str, key_file: str, *, read_only: bool) -> tuple[str, ...]:
    """Open *device* with a key from a file, ``-`` for stdin."""
    access = ("--readonly",) if read_only else ()
    return (
        "cryptsetup", "open", "--type", "luks", *access, "--key-file", key_file,
        str(device), mapping,
    )  # fmt: skip


def token_argv(program: str, device: Path, mapping: str, *, read_only: bool) -> tuple[str, ...]:
    """Open *device* with the machine's TPM, which asks nobody."""
    options = "tpm2-device=auto,headless=true" + (",read-only" if read_only else "")
    return (program, "attach", mapping, str(device), "-", options)


def dump_argv(device: Path) -> tuple[str, ...]:
    """The LUKS2 header of *device* as JSON."""
    return ("cryptsetup", "luksDump", "--dump-json-metadata", str(device))


def parse_tokens(text: str) -> frozenset[str]:
    """Kinds of the tokens in a LUKS2 header; none for what cannot be read."""
    try:
        return frozenset(str(token["type"]) for token in json.loads(text)["tokens"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return frozenset()


def read_passphrase(path: Path) -> bytes:
    """The passphrase in *path*, without one newline at its end; raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(PASSPHRASE_LIMIT + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ConfigError.of(str(path), message, hint=KEY_HINT) from error
    passphrase = content.removesuffix(b"\n")
    if not passphrase or len(content) > PASSPHRASE_LIMIT:
        raise ConfigError.of(
            str(path), f"has {len(content)} bytes or more, expected a passphrase", hint=KEY_HINT
        )
    return passphrase


def require_key(key: Key) -> None:
    """Raise ConfigError for what cannot be a key, before anything is opened with it."""
    if key.passphrase_file and key.key_file:
        message = f"is given, and --key-file {key.key_file} as well: expected one of them"
        subject = f"--passphrase-file {key.passphrase_file}"
        raise ConfigError.of(subject, message, hint="leave one out")
    for file in (key.passphrase_file, key.key_file):
        if file is not None and not file.is_file():
            message = "is not a file, expected one with a key"
            raise ConfigError.of(str(file), message, hint="name another file")
    if key.passphrase_file is not None:
        read_passphrase(key.passphrase_file)
    if key.key_file is not None:
        _require_content(key.key_file)


def _require_content(key_file: Path) -> None:
    try:
        with key_file.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ConfigError.of(str(key_file), message, hint=KEY_HINT) from error
    if empty:
        message = "is empty, expected a key"
        raise ConfigError.of(str(key_file), message, hint=KEY_HINT)


class LockedError(ConfigError):
    """An encrypted volume stays closed, for want of a key or of the right one."""


class WrongKeyError(LockedError):
    """A key was given, and opens nothing."""


class TokenError(HostError):
    """A volume that is bound to a TPM cannot be opened by it, here or now."""


def no_key(shown: object) -> LockedError:
    """An encrypted volume and nothing to open it with."""
    message = "is encrypted (LUKS), and no key was given"
    return LockedError(Problem(subject=str(shown), message=message, hint=KEY_HINT))


def wrong_key(device: Path, file: Path) -> WrongKeyError:
    """A key that opens nothing."""
    message = f"is encrypted, and the key in {file} does not open it"
    hint = "name the file that holds its key; a passphrase belongs in --passphrase-file"
    return WrongKeyError(Problem(subject=str(device), message=message, hint=hint))


@dataclass(frozen=True, slots=True)
class Cryptsetup:
    """Opens encrypted volumes."""

    runner: Runner
    read_only: bool

    def open(self, device: Path, mapping: str, key: Key) -> None:
        """See :meth:`base.LayerOpener.open_luks`."""
        if key.passphrase_file is None and key.key_file is None:
            self._open_by_token(device, mapping)
        elif key.passphrase_file is not None:
            self._open(device, mapping, key.passphrase_file, read_passphrase(key.passphrase_file))
        elif key.key_file is not None:
            self._open(device, mapping, key.key_file, None)

    def _open(self, device: Path, mapping: str, file: Path, passphrase: bytes | None) -> None:
        """Open with *file*, or with the *passphrase* that was read from it."""
        name = str(file) if passphrase is None else "-"
        argv = open_argv(device, mapping, name, read_only=self.read_only)
        command = Command(
            argv=ended_with_us(argv),
            purpose=f"open the encrypted {device}",
            env=device_mapper_env(),
        )
        try:
            done = self.runner.run(command, stdin=passphrase or b"", ok=(0, NO_KEY_FITS))
        except CommandError as error:
            raise HostError(error.problem(str(device), hint=MISSING_HINT)) from error
        if done.returncode == NO_KEY_FITS:
            raise wrong_key(device, file)

    def _open_by_token(self, device: Path, mapping: str) -> None:
        if TPM2_TOKEN not in self._tokens(device):
            raise no_key(device)
        program = find_tool("systemd-cryptsetup") or next(
            (place for place in SYSTEMD_PLACES if Path(place).exists()), None
        )
        if program is None:
            raise _token_error(device, "systemd-cryptsetup is not installed")
        argv = token_argv(program, device, mapping, read_only=self.read_only)
        command = Command(
            argv=ended_with_us(argv), purpose=f"open {device} with the TPM", env=device_mapper_env()
        )
        try:
            self.runner.run(command)
        except CommandError as error:
            raise _token_error(device, str(error)) from error

    def _tokens(self, device: Path) -> frozenset[str]:
        command = Command(argv=dump_argv(device), purpose=f"read the LUKS header of {device}")
        try:
            return parse_tokens(self.runner.run(command).stdout.decode(errors="replace"))
        except CommandError:
            return frozenset()  # LUKS1 has no tokens


def _token_error(device: Path, message: str) -> TokenError:
    hint = f"open it on the machine whose TPM it is bound to, or {KEY_HINT}"
    return TokenError(
        Problem(subject=str(device), message=f"is bound to a TPM: {message}", hint=hint)
    )
