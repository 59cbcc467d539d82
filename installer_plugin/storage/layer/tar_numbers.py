"""Numbers, times and PAX records of tar headers, as strictly as Go's ``archive/tar`` reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

MAX_DIGITS = 40
"""Of the length of a PAX record, zeros in front among them; more are nobody's."""
NANOSECOND_DIGITS = 9
_TEXTS = frozenset((b"path", b"linkpath", b"uname", b"gname"))

_OCTAL = re.compile(rb"[0-7]+").fullmatch
_SIGNED = re.compile(rb"[+-]?[0-9]+").fullmatch
_INT64 = 1 << 63


@lru_cache(maxsize=1 << 12)  # the same few modes, owners and times stand in most headers
def number(field: bytes) -> int:
    """Octal digits, or two's complement behind a set first bit where the digits do not suffice.

    As strict as Go (parseNumeric and parseOctal): no sign, no prefix, no ``_``, no blanks within, and
    no more than 64 bits.
    """
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        found = int.from_bytes(field, "big") & ((1 << bits) - 1)
        found -= (1 << bits) if field[0] & 0x40 else 0
        if not -_INT64 <= found < _INT64:
            raise ValueError(f"the number {field!r}, which has more than 64 bits")
        return found
    digits = field.strip(b" \0")
    if not digits:
        return 0
    digits = digits.partition(b"\0")[0]
    if not _OCTAL(digits):
        raise ValueError(f"{field!r} for an octal number")
    return int(digits, 8)


def signed(value: bytes) -> int:
    """A decimal number as Go's ParseInt takes it: digits, perhaps a sign, 64 bits."""
    if not _SIGNED(value):
        raise ValueError(f"{value!r:.60} for a decimal number")
    found = int(value)
    if not -_INT64 <= found < _INT64:
        raise ValueError(f"the number {value!r:.60}, which has more than 64 bits")
    return found


def seconds(value: bytes) -> int:
    """A PAX time as Go's parsePAXTime takes it, rounded down; what is below a nanosecond is cut off."""
    whole, _, fraction = value.partition(b".")
    if fraction and not (fraction.isdigit() and fraction.isascii()):
        raise ValueError(f"{value!r:.60} for a time")
    below = whole.startswith(b"-") and fraction[:NANOSECOND_DIGITS].strip(b"0")
    return signed(whole) - bool(below)


def pax_records(content: bytes) -> Mapping[bytes, bytes]:
    """Records of ``LENGTH KEY=VALUE`` and a line feed, where LENGTH counts the whole record."""
    found: dict[bytes, bytes] = {}
    start = 0
    while start < len(content):
        digits = content[start : start + MAX_DIGITS].partition(b" ")[0]
        end = start + (max(int(digits), 0) if _SIGNED(digits) else 0)
        key, equals, value = content[start + len(digits) + 1 : end].partition(b"=")
        if not (key and equals and value.endswith(b"\n") and end <= len(content)):
            raise ValueError(f"a damaged PAX record {content[start : start + 40]!r}")
        # Go takes NUL in values but in those of names, and in no key.
        if b"\0" in (value if key in _TEXTS else key):
            raise ValueError(f"a damaged PAX record {content[start : start + 40]!r}")
        found[key] = value[:-1]
        start = end
    return found
