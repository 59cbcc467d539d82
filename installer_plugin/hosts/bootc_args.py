"""``bootc install``'s command line, as far as it decides what we do (pure).

Options: bootc ``crates/lib/src/install.rs`` (InstallToDiskOpts and its parts). What is not known here
is passed through untouched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from installer_plugin.errors import ConfigError, Problem

WITH_VALUE = frozenset((
    "--block-setup", "--boot-mount-spec", "--bootloader", "--bound-images", "--filesystem", "--karg",
    "--replace", "--root-mount-spec", "--root-size", "--root-ssh-authorized-keys", "--source-imgref",
    "--stateroot", "--target-imgref", "--target-transport", "--uki-addon",
))  # fmt: skip
"""Options that take a value; the rest are flags."""
EXISTING_ROOT = Path("/target")
"""Where ``to-existing-root`` expects the host's root, unless it is told."""
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
    bound_images: str | None
    """The caller's own ``--bound-images``; None when not given."""
    composefs: bool
    skip_finalize: bool
    filesystem: str | None
    via_loopback: bool

    def argv(self, *extra: str) -> tuple[str, ...]:
        """The call of bootc, with *extra* options before the caller's."""
        return ("bootc", "install", self.verb, *extra, *self.args)


def parse_bootc_install(words: Sequence[str]) -> BootcInstall:
    """Understand ``VERB ARGS...``; raises ConfigError.

    ``--bound-images=pull`` and ``skip`` contradict what we are asked for, and are refused.
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
    if mode not in (None, "stored"):
        raise _refused(
            f"is given --bound-images={mode}, which leaves nothing to guarantee",
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
        bound_images=mode,
        composefs="--composefs-backend" in options,
        skip_finalize="--skip-finalize" in options or verb is Verb.TO_EXISTING_ROOT,
        filesystem=options.get("--filesystem"),
        via_loopback="--via-loopback" in options,
    )


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
    return ConfigError(Problem(subject="bootc install", message=message, hint=hint))
