"""The command lines of image-builder and of bootc-image-builder, its older form (pure).

Sources: image-builder ``cmd/image-builder/cmd.go`` and ``bib_cmd.go``. Both are cobra programs: options
may stand anywhere, ``--name VALUE`` and ``--name=VALUE`` are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Builder(StrEnum):
    """A program that makes disks by osbuild."""

    IMAGE_BUILDER = "image-builder"
    BOOTC_IMAGE_BUILDER = "bootc-image-builder"


BUILD = "build"
_GLOBAL = frozenset((
    "--force-repo-dir", "--force-data-dir", "--data-dir", "--force-defs-dir", "--extra-repo",
    "--force-repo", "--output-dir",
))  # fmt: skip
"""Options with a value that may stand before image-builder's verb."""
_OF_BIB = frozenset((
    "--aws-ami-name", "--aws-bucket", "--aws-region", "--chown", "--output", "--store", "--progress",
    "--rpmmd", "--target-arch", "--build-container", "--installer-payload-ref", "--type", "--rootfs",
    "--config", "--seed", "--log-level",
))  # fmt: skip
"""Options of bootc-image-builder with a value: the word behind one is not the image."""
_BIB_VERBS = frozenset((BUILD, "manifest", "version", "completion", "help"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuilderLine:
    """A command line, taken apart as far as it concerns us."""

    builder: Builder
    argv: tuple[str, ...]
    """The whole call."""
    verb: str
    """"" where there is none."""
    image: str
    """The OS image that goes on the disks; "" where the line names none."""

    @property
    def makes_disks(self) -> bool:
        """Whether bootc installs something: every other call is passed through."""
        return self.verb == BUILD and bool(self.image)

    @property
    def larger(self) -> str:
        """What makes the root larger, with ``{size}`` for bytes of the disk and ``{root}`` of it."""
        if self.builder is Builder.IMAGE_BUILDER:
            return "add --image-size {size} to the command line"
        return (
            "ask for a larger root in the build configuration: "
            '[[customizations.filesystem]] mountpoint = "/" minsize = {root}'
        )


def parse_builder(builder: Builder, words: Sequence[str]) -> BuilderLine:
    """Take the words behind the program's name apart."""
    argv = (str(builder), *words)
    if builder is Builder.IMAGE_BUILDER:
        verb = next(_positionals(words, _GLOBAL), "")
        image = _value(words, "--bootc-ref")
        return BuilderLine(builder=builder, argv=argv, verb=verb, image=image)
    names = list(_positionals(words, _OF_BIB))
    verb = names.pop(0) if names and names[0] in _BIB_VERBS else BUILD
    asks = any(word in ("--version", "--help", "-h") for word in words)
    return BuilderLine(
        builder=builder, argv=argv, verb="" if asks else verb, image=names[0] if names else ""
    )


def _positionals(words: Sequence[str], valued: frozenset[str]) -> Iterator[str]:
    """Words that are neither options nor their values."""
    rest = iter(words)
    for word in rest:
        if word == "--":
            yield from rest
        elif word in valued:
            next(rest, None)
        elif not word.startswith("-"):
            yield word


def _value(words: Sequence[str], option: str) -> str:
    """The value that an option is given last, "" for none."""
    found = ""
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            found = words[index + 1]
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found
