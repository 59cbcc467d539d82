"""``bootc install``'s command line, as far as it decides what we do (pure).

Options: bootc ``crates/lib/src/install.rs`` (InstallToDiskOpts and its parts). What is not known here
is passed through untouched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from installer_plugin.errors import ConfigError

WITH_VALUE = frozenset((
    "--block-setup", "--boot-mount-spec", "--bootloader", "--bound-images", "--filesystem", "--karg",
    "--karg-delete", "--replace", "--root-mount-spec", "--root-size", "--root-ssh-authorized-keys",
    "--source-imgref", "--stateroot", "--target-imgref", "--target-transport", "--uki-addon",
))  # fmt: skip
"""Options that take a value; the rest are flags."""
EXISTING_ROOT = Path("/target")
"""Where ``to-existing-root`` expects the host's root, unless it is told."""
_SIZE = re.compile(r"(\d+)([MGT]?)")
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


class Verb(StrEnum):
    """What ``bootc install`` can install to."""

    TO_DISK = "to-disk"
    TO_FILESYSTEM = "to-filesystem"
    TO_EXISTING_ROOT = "to-existing-root"


class SkipSpelling(StrEnum):
    """How bootc is told to leave bound images to us."""

    SKIP = "--bound-images=skip"
    """Since 1.1.3."""
    OLD = "--skip-bound-images"
    """0.1.14 to 1.1.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootcInstall:
    """A ``bootc install`` command line, understood as far as needed."""

    verb: Verb
    args: tuple[str, ...]
    """All arguments behind the verb, as the caller gave them."""
    target: Path
    """Disk, disk image or mounted root."""
    source_imgref: str | None
    composefs: bool
    skip_finalize: bool
    """Whether the file systems are left as they are, by the caller's word or in bootc's own judgement."""
    filesystem: str | None
    root_size: int | None
    """Bytes; None when not given, or in a form that is not known here."""
    tpm2_luks: bool
    via_loopback: bool

    @property
    def argv(self) -> tuple[str, ...]:
        """The call of bootc as the caller gave it."""
        return ("bootc", "install", self.verb, *self.args)

    def argv_without_images(
        self, spelling: SkipSpelling, *, keep_open: bool = True
    ) -> tuple[str, ...]:
        """The call that leaves bound images to us, and, to *keep_open*, finalizing where bootc can."""
        extra: list[str] = [spelling]
        if keep_open and self.verb is Verb.TO_FILESYSTEM and not self.skip_finalize:
            extra.append("--skip-finalize")
        own = _without_option(self.args, "--bound-images")
        return ("bootc", "install", self.verb, *extra, *own)


def parse_bootc_install(words: Sequence[str]) -> BootcInstall:
    """Understand ``VERB ARGS...``; raises ConfigError.

    ``--bound-images=pull`` and ``skip`` (in older versions ``--skip-bound-images``) contradict what we
    are asked for, and are refused.
    """
    if not words or words[0] not in set(Verb):
        seen = repr(words[0]) if words else "nothing"
        expected = ", ".join(Verb)
        raise _refused(
            f"is asked for {seen}, expected one of {expected}", "see bootc install --help"
        )
    verb, args = Verb(words[0]), tuple(words[1:])
    options, positionals = _split(args)
    mode = options.get("--bound-images")
    if mode not in (None, "stored") or SkipSpelling.OLD in options:
        given = SkipSpelling.OLD if SkipSpelling.OLD in options else f"--bound-images={mode}"
        raise _refused(
            f"is given {given}, which leaves nothing to guarantee",
            "leave the option out, or call bootc itself",
        )
    if not positionals and verb is not Verb.TO_EXISTING_ROOT:
        raise _refused(
            "has no target", f"give the {'disk' if verb is Verb.TO_DISK else 'directory'}"
        )
    return BootcInstall(
        verb=verb,
        args=args,
        target=Path(positionals[-1]) if positionals else EXISTING_ROOT,
        source_imgref=options.get("--source-imgref"),
        composefs="--composefs-backend" in options,
        skip_finalize=_leaves_open(verb, options),
        filesystem=options.get("--filesystem"),
        root_size=_root_size(options.get("--root-size", "")),
        tpm2_luks=options.get("--block-setup") == "tpm2-luks",
        via_loopback="--via-loopback" in options,
    )


def _leaves_open(verb: Verb, options: Mapping[str, str]) -> bool:
    """Whether bootc would leave the file systems as they are: never to freeze a host that runs on them."""
    alongside = verb is Verb.TO_EXISTING_ROOT or options.get("--replace") == "alongside"
    return alongside or "--skip-finalize" in options


def _split(args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Options with their values ("" for flags), the last of each, and the other words."""
    options: dict[str, str] = {}
    positionals: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            positionals += words
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            if not equals and name in WITH_VALUE:
                value = next(words, "")
            options[name] = value
        elif word.startswith("-") and len(word) > 1:
            options[word] = ""
        else:
            positionals.append(word)
    return options, positionals


def _root_size(text: str) -> int | None:
    """``--root-size``: a number and M (default), G or T."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) << {"": 20, "M": 20, "G": 30, "T": 40}[found[2]] if found else None


def _without_option(args: Sequence[str], name: str) -> tuple[str, ...]:
    """*args* without the option *name* and its value."""
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return (*rest, word, *words)
        value = tuple(islice(words, 1)) if word in WITH_VALUE else ()
        if word.partition("=")[0] != name:
            rest += (word, *value)
    return tuple(rest)


def skip_spelling(version: str, help_text: str) -> SkipSpelling:
    """How the installed bootc spells it, by its help first (``skip`` itself is hidden there).

    Raises ConfigError for a bootc that has neither.
    """
    if "--bound-images" in help_text:
        return SkipSpelling.SKIP
    if "--skip-bound-images" in help_text:
        return SkipSpelling.OLD
    found = _VERSION.search(version)
    numbers = tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if numbers >= (1, 1, 3):
        return SkipSpelling.SKIP
    if numbers >= (0, 1, 14):
        return SkipSpelling.OLD  # hidden from the help in those versions
    raise _refused(
        f"is version {version!r}, which copies no bound images and cannot be told to skip them",
        "update bootc to 1.1.3 or later",
    )


def _refused(message: str, hint: str) -> ConfigError:
    return ConfigError.of("bootc install", message, hint=hint)
