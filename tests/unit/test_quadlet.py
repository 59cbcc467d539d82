"""Unit syntax, Quadlet's reading of a unit and bootc's reading of the same text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.declarations.bootc_reader import read_as_bootc
from installer_plugin.declarations.quadlet import (
    Setting,
    drop_in_directories,
    expand_percent,
    referenced_unit,
    setting,
    unquote,
)
from installer_plugin.declarations.unit_syntax import parse_unit
from installer_plugin.errors import DataError
from installer_plugin.model import UnitKind


def image_of(text: str) -> Setting | None:
    return setting(parse_unit(text, "u.image"), UnitKind.IMAGE, "Image")


# --- syntax ----------------------------------------------------------------------------------

READ = {
    "plain": ("[Image]\nImage=q.io/x:1", "q.io/x:1", 2),
    "white space around key and value": (" [Image]\t\n\tImage \t=  q.io/x:1 \r\n", "q.io/x:1", 2),
    "comment lines": ("# a\n; b\n[Image]\n #Image=a\n;Image=b\nImage=q.io/x\n", "q.io/x", 6),
    "no comment after a value": ("[Image]\nImage=q.io/x:1 # c", "q.io/x:1 # c", 2),
    "no comment inside a value": ("[Image]\nImage=q.io/x:1;c#d", "q.io/x:1;c#d", 2),
    "continuation": ("[Image]\nImage=q.io/\\\n  x:1\n", "q.io/x:1", 2),
    "continuation over a comment": ("[Image]\nImage=q.io/x\\\n# c\n:1\n", "q.io/x:1", 2),
    "continuation over an empty line": ("[Image]\nImage=q.io/x\\\n\n;c\n:1\n", "q.io/x:1", 2),
    "continuation in the key": ("[Image]\nIm\\\nage=q.io/x\n", "q.io/x", 2),
    "continuation in the section": ("[Im\\\nage]\nImage=q.io/x\n", "q.io/x", 3),
    "continuation begins empty": ("[Image]\n\\\nImage=q.io/x\n", "q.io/x", 3),
    "comment does not go on": ("[Image]\n# c \\\nImage=q.io/x\n", "q.io/x", 3),
    "backslash in the last line": ("[Image]\nImage=q.io/x\\\n", "q.io/x", 2),
    "backslash alone at the end": ("[Image]\nImage=q.io/x\n\\", "q.io/x", 2),
    "section in a continuation": ("[Image]\nImage=\\\n[x]\n", "[x]", 2),
    "last one counts": ("[Image]\nImage=a\nImage=b\n", "b", 3),
    "empty one counts": ("[Image]\nImage=a\nImage=\n", "", 3),
    "section comes again": ("[Image]\nImage=a\n[Unit]\nA=b\n[Image]\nImage=c\n", "c", 6),
    "other section": ("[Image]\nImage=a\n[X-Image]\nImage=b\n", "a", 2),
    "keys have cases": ("[Image]\nImage=a\nimage=b\n", "a", 2),
    "key looks like a section": ("[Image]\n[a]b=c\nImage=q.io/x\n", "q.io/x", 3),
    "quotes": ('[Image]\nImage="q.io/x"\n', "q.io/x", 2),
    "value begins with a wide space": ("[Image]\nImage=\xa0q.io/x\xa0\n", "\xa0q.io/x", 2),
    "file separator is not a white space": ("[Image]\nImage=q.io/x\x1c\n", "q.io/x\x1c", 2),
}


@pytest.mark.parametrize(("text", "value", "line"), READ.values(), ids=READ)
def test_value_and_line_are_read(text: str, value: str, line: int) -> None:
    found = image_of(text)
    assert found is not None
    assert (found.value, found.line, found.path) == (value, line, "u.image")


@pytest.mark.parametrize(
    "text",
    ["", "\n", "# c", "[Image]", "[Image]\n[Unit]\nImage=a", "[Image]\nImage=q.io/x\\\n\n"],
    ids=["empty", "empty line", "comment", "no key", "other section", "unfinished line"],
)
def test_absent_key_has_no_value(text: str) -> None:
    assert image_of(text) is None


MALFORMED = {
    "word": ("[Image]\njunk\n", 2, "'junk' is not an assignment"),
    "no key": ("[Image]\n=q\n", 2, "'=q' is not an assignment"),
    "before any section": ("\n\nImage=q\n", 3, "'Image=q' stands before any section"),
    "section not closed": ("[Image\n", 1, "'[Image' is not an assignment"),
    "comment behind a section": ("[Image] # c\n", 1, "'[Image] # c' is not an assignment"),
    "brackets twice": ("[[Image]]\n", 1, "'[[Image]]' is not an assignment"),
    "bracket in the name": ("[[Image]\n", 1, "'[[Image]' is not a section header"),
    "section without a name": ("[]\n", 1, "'[]' is not a section header"),
    "control character in a section": ("[a\x07b]\n", 1, "is not a section header"),
    "byte order mark": ("\ufeff[Image]\n", 1, "is not an assignment"),
    "continuation": ("[Image]\nfoo \\\nbar\n", 2, "'foo bar' is not an assignment"),
    "long line": ("x" * 100, 1, f"'{'x' * 60}...' is not an assignment"),
}


@pytest.mark.parametrize(("text", "line", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_line_is_refused_with_its_number(text: str, line: int, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        parse_unit(text, "u.image")
    assert caught.value.subject == f"u.image:{line}"


def test_assignment_counts_its_lines() -> None:
    unit = parse_unit("[A]\na=1\\\n# c\n2\nb=3", "u")
    assert [(a.key, a.value, a.line, a.lines) for a in unit.assignments] == [
        ("a", "12", 2, 3),
        ("b", "3", 5, 1),
    ]


def test_unfinished_line_is_dropped_and_remembered() -> None:
    unit = parse_unit("[A]\na=1\nb=2 \\\n# c\n\n", "u")
    assert [a.key for a in unit.assignments] == ["a"]
    assert unit.unfinished == ("u:3",)


def test_drop_ins_apply_in_order_and_keep_their_file() -> None:
    main = parse_unit("[Image]\nImage=a\nArch=x\n", "main")
    first = parse_unit("[Image]\nImage=b\n", "1.conf")
    second = parse_unit("[Image]\n\nImage=c\nx=\\\n\n", "2.conf")
    merged = main.merged([first, second])
    found = setting(merged, UnitKind.IMAGE, "Image")
    assert found is not None
    assert (found.value, found.path, found.line) == ("c", "2.conf", 3)
    assert (merged.path, merged.unfinished) == ("main", ("2.conf:4",))
    assert main.last("Image", "Image") != merged.last("Image", "Image")


def test_empty_assignment_resets_a_list() -> None:
    unit = parse_unit("[C]\na=1\na=2\na=\nb=5\na=3\na=4\n", "u")
    assert [a.value for a in unit.all("C", "a")] == ["3", "4"]


# --- semantics -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"q.io/x"', "q.io/x"),
        ('"q.io/x', '"q.io/x'),
        ('q.io/x"', 'q.io/x"'),
        ("'q.io/x'", "'q.io/x'"),
        ('""q.io/x""', '"q.io/x"'),
        ('"', '"'),
        ('""', ""),
        ("", ""),
    ],
)
def test_one_pair_of_double_quotes_is_removed(written: str, value: str) -> None:
    assert unquote(written) == value


PERCENT = {
    "quay.io/foo/foo:latest": "quay.io/foo/foo:latest",
    "quay.io/foo/%%foo:latest": "quay.io/foo/%foo:latest",
    "quay.io/foo/%%foo:%%latest": "quay.io/foo/%foo:%latest",
    "%%quay.io/foo/foo:latest%%": "%quay.io/foo/foo:latest%",
    "quay.io/foo/%%%%foo:latest": "quay.io/foo/%%foo:latest",
    "": "",
}
SPECIFIERS = {
    "quay.io/foo/%foo:latest": "the specifier '%f' after 'quay.io/foo/'",
    "quay.io/foo/%%%foo:latest": "the specifier '%f' after ''",
    "quay.io/foo/%f%ooo:latest": "the specifier '%f'",
    "%fquay.io/foo/foo:latest": "the specifier '%f' after ''",
    "quay.io/foo/foo:latest%f": "the specifier '%f' after 'quay.io/foo/foo:latest'",
    "quay.io/foo/foo:latest%": "a lone % after 'quay.io/foo/foo:latest'",
}


@pytest.mark.parametrize(("written", "value"), PERCENT.items())
def test_double_percent_is_one(written: str, value: str) -> None:
    assert expand_percent(written) == value


@pytest.mark.parametrize(("written", "message"), SPECIFIERS.items())
def test_specifier_is_refused(written: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        expand_percent(written)


@pytest.mark.parametrize(
    ("image", "unit"),
    [
        ("foo.image", "foo.image"),
        ("foo.build", "foo.build"),
        ("quay.io/foo.image", "quay.io/foo.image"),
        ("quay.io/foo.image:1", None),
        ("foo.container", None),
    ],
)
def test_image_may_refer_to_a_unit(image: str, unit: str | None) -> None:
    assert referenced_unit(image) == unit


@pytest.mark.parametrize(
    ("name", "directories"),
    {
        "u.container": ["u.container.d", "container.d"],
        "u.image": ["u.image.d", "image.d"],
        "a-b-c.container": [
            "a-b-c.container.d", "a-b-.container.d", "a-.container.d", "container.d",
        ],
        "u@.container": ["u@.container.d", "container.d"],
        "u@i.container": ["u@i.container.d", "u@.container.d", "container.d"],
        "a-b@i-j.container": [
            "a-b@i-j.container.d", "a-b@.container.d", "a-@.container.d", "a-.container.d",
            "container.d",
        ],
        "a--b-.container": [
            "a--b-.container.d", "a--b-.container.d", "a--.container.d", "a-.container.d",
            "container.d",
        ],
        "-b.image": ["-b.image.d", "-.image.d", "image.d"],
        "x.y.image": ["x.y.image.d", "image.d"],
    }.items(),
)  # fmt: skip
def test_drop_in_directories_go_from_specific_to_broad(name: str, directories: list[str]) -> None:
    assert list(drop_in_directories(name)) == directories


# --- bootc's reader --------------------------------------------------------------------------

AUTH_FILE = "AuthFile is not supported by bound bootc images"
BOOTC_VALUES = {
    "plain": ("[Image]\nImage=quay.io/foo/foo:latest\n", "quay.io/foo/foo:latest", 2),
    "percent": ("[Image]\nImage=q.io/%%x\n", "q.io/%x", 2),
    "cut at #": ("[Image]\nImage=q.io/x:1#c\n", "q.io/x:1", 2),
    "cut at ;": ("[Image]\nImage=q.io/x:1 ; c\n", "q.io/x:1", 2),
    "comment behind a section": ("[Image] # c\nImage=a\n", "a", 2),
    "quotes are kept": ('[Image]\nImage="a"\n', '"a"', 2),
    "backslash is kept": ("[Image]\nImage=a\\\n", "a\\", 2),
    "brackets are trimmed": ("[[Image]]\nImage=a\n", "a", 2),
    "last one counts": ("[Image]\nImage=a\nImage=b\n", "b", 3),
    "section comes again": ("[Image]\nImage=a\n[X]\nb=c\n[Image]\nImage=d\n", "d", 6),
    "empty value": ("[Image]\nImage=\n", "", 2),
    "carriage returns": ("[Image]\r\nImage=a\r\n", "a", 2),
    "key before any section": ("a=b\n[Image]\nImage=a\n", "a", 3),
}
BOOTC_ERRORS = {
    "no key": ("[Image]\n", "Missing Image field", None),
    "other section": ("[Container]\nImage=a\n", "Missing Image field", None),
    "before the section": ("Image=a\n[Image]\n", "Missing Image field", None),
    "continuation": (
        "[Image]\nImage=a\nPodmanArgs=a \\\n  --flag\n", "Incorrect syntax at line 4", 4,
    ),
    "section not closed": ("[Image\n", "Incorrect section syntax at line 1", 1),
    "no key before =": ("[Image]\n=a\n", "Key is empty at line 2", 2),
    "byte order mark": ("\ufeff[Image]\nImage=a\n", "Incorrect syntax at line 1", 1),
    "auth file": ("[Image]\nImage=a\nAuthFile=/etc/containers/auth.json\n", AUTH_FILE, 3),
    "empty auth file": ("[Image]\nAuthFile=\nImage=a\n", AUTH_FILE, 2),
    "specifier": (
        "[Image]\nImage=a%n\n",
        "Invalid image value: 'a%n' has the specifier '%n' after 'a', expected %% for a percent",
        2,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "value", "line"), BOOTC_VALUES.values(), ids=BOOTC_VALUES)
def test_bootc_reads_a_value(text: str, value: str, line: int) -> None:
    reading = read_as_bootc(text, UnitKind.IMAGE)
    assert (reading.value, reading.error, reading.line) == (value, None, line)


@pytest.mark.parametrize(("text", "error", "line"), BOOTC_ERRORS.values(), ids=BOOTC_ERRORS)
def test_bootc_refuses(text: str, error: str, line: int | None) -> None:
    reading = read_as_bootc(text, UnitKind.IMAGE)
    assert (reading.value, reading.error, reading.line) == (None, error, line)


def test_bootc_reads_the_section_of_the_kind() -> None:
    text = "[Image]\nImage=i\n[Container]\nImage=c\nAuthFile=x\n"
    assert read_as_bootc(text, UnitKind.CONTAINER).value == "c"
    assert read_as_bootc("[Image]\nImage=i\n", UnitKind.CONTAINER).error == "Missing Image field"


# --- anything --------------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from([
        "[", "]", "[Image]\n", "Image=", "=", "#", ";", "\\", "\\\n", "\n", " ", "\t", "\r", "x",
        '"', "%", "%%", "\x85", "\xa0", "\x1c", "\ufeff", "AuthFile=",
    ])
).map("".join)  # fmt: skip


@given(st.text() | PIECES)
def test_any_text_is_a_unit_or_a_data_error(text: str) -> None:
    reading = read_as_bootc(text, UnitKind.IMAGE)
    assert (reading.value is None) != (reading.error is None)
    place = "u:1"
    try:
        unit = parse_unit(text, "u")
    except DataError as error:
        place = error.subject
    else:
        found = setting(unit, UnitKind.IMAGE, "Image")
        place = f"{found.path}:{found.line}" if found else place
    file, _, line = place.partition(":")
    assert file == "u"
    assert 1 <= int(line) <= text.count("\n") + 1


@given(st.text())
def test_any_value_is_expanded_or_a_value_error(value: str) -> None:
    try:
        assert expand_percent(value).count("%") == value.count("%") // 2
    except ValueError:
        assert "%" in value
