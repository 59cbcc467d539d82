"""How bootc itself reads a bound unit: a plain INI reader (tini 1.3), not Quadlet's.

Restated here so that differences can be shown to the image's author: the installed system's bootc
reads the same files with this reader at every upgrade. Each line is cut at the first ``#`` or ``;``
wherever it stands, there are no continuation lines, quotes are part of the value, and one malformed
line makes the whole file unreadable.
"""

from __future__ import annotations

from dataclasses import dataclass

from installer_plugin.declarations.quadlet import SECTIONS, expand_percent
from installer_plugin.declarations.unit_syntax import WHITESPACE
from installer_plugin.model import UnitKind


@dataclass(frozen=True, slots=True, kw_only=True)
class BootcReading:
    """What bootc sees: a value or the reason why it refuses the file, never both."""

    value: str | None = None
    error: str | None = None
    line: int | None = None
    """Line of the value or of the malformed line; None when a key is missing."""


class _MalformedLineError(Exception):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def read_as_bootc(text: str, kind: UnitKind) -> BootcReading:
    """The image that bootc takes from the unit file *text*; never raises."""
    section = SECTIONS[kind]
    try:
        values = _parse(text)
    except _MalformedLineError as error:
        return BootcReading(error=f"{error} at line {error.line}", line=error.line)
    if (section, "Image") not in values:
        return BootcReading(error="Missing Image field")
    value, line = values[section, "Image"]
    if kind is UnitKind.IMAGE and (section, "AuthFile") in values:
        return BootcReading(
            error="AuthFile is not supported by bound bootc images",
            line=values[section, "AuthFile"][1],
        )
    try:
        return BootcReading(value=expand_percent(value), line=line)
    except ValueError as error:
        return BootcReading(error=f"Invalid image value: {error}", line=line)


def _parse(text: str) -> dict[tuple[str, str], tuple[str, int]]:
    """Values with their lines by section and key; a later value replaces an earlier one."""
    values: dict[tuple[str, str], tuple[str, int]] = {}
    section = ""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.partition("#")[0].partition(";")[0].strip(WHITESPACE)
        if not line:
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise _MalformedLineError("Incorrect section syntax", number)
            section = line.strip("[]")
            continue
        key, equals, value = (part.strip(WHITESPACE) for part in line.partition("="))
        if not equals:
            raise _MalformedLineError("Incorrect syntax", number)
        if not key:
            raise _MalformedLineError("Key is empty", number)
        values[section, key] = value, number
    return values
