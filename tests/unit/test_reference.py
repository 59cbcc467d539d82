"""Image references: grammar, normal form, transports."""

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer_plugin.declarations.reference import (
    MAX_NAME_LENGTH,
    find_image_id,
    parse_reference,
    split_transport,
)

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "ab" * 64


@dataclass(frozen=True)
class Parts:
    domain: str | None
    path: str
    tag: str | None = None
    digest: str | None = None


PARSED = {
    "quay.io/x/y:1": Parts("quay.io", "x/y", "1"),
    "quay.io/x/y": Parts("quay.io", "x/y"),
    f"quay.io/x/y@{SHA256}": Parts("quay.io", "x/y", None, SHA256),
    f"quay.io/x/y:1@{SHA256}": Parts("quay.io", "x/y", "1", SHA256),
    f"quay.io/x@{SHA512}": Parts("quay.io", "x", None, SHA512),
    "busybox": Parts(None, "busybox"),
    "busybox:1.36": Parts(None, "busybox", "1.36"),
    "library/busybox": Parts(None, "library/busybox"),
    "localhost/x": Parts("localhost", "x"),
    "localhost:5000/x:1": Parts("localhost:5000", "x", "1"),
    "host:5000/x": Parts("host:5000", "x"),
    "host/x": Parts(None, "host/x"),
    "Quay.IO/x": Parts("Quay.IO", "x"),
    "[::1]:5000/x": Parts("[::1]:5000", "x"),
    "192.0.2.1/x": Parts("192.0.2.1", "x"),
    "xn--n3h.com/x": Parts("xn--n3h.com", "x"),
    "q.io/a__b/c---d/e.f_g": Parts("q.io", "a__b/c---d/e.f_g"),
    "q.io/x:_T-1.2": Parts("q.io", "x", "_T-1.2"),
    "q.io/x:" + "t" * 128: Parts("q.io", "x", "t" * 128),
    "q.io/" + "x" * (MAX_NAME_LENGTH - 5): Parts("q.io", "x" * (MAX_NAME_LENGTH - 5)),
    "docker:24-dind": Parts(None, "docker", "24-dind"),
    "foo.image": Parts(None, "foo.image"),
    "localhost:5000": Parts(None, "localhost", "5000"),
}

MALFORMED = {
    "empty": ("", "is empty"),
    "blank": (" ", "' ' at character 1 is not a name component"),
    "upper-case path": ("quay.io/Foo/bar:1", "'Foo' at character 9 is not lower-case"),
    "upper-case short name": ("INVALID", "'INVALID' at character 1 is not lower-case"),
    "upper-case first component": ("Foo/bar", "'Foo' at character 1 is not lower-case"),
    "tag is empty": ("q.io/x:", "'' at character 8 is not a tag"),
    "tag is too long": ("q.io/x:" + "t" * 129, "at character 8 is not a tag"),
    "tag begins with a dot": ("q.io/x:.1", "'.1' at character 8 is not a tag"),
    "tag is not ASCII": ("q.io/x:é", "'é' at character 8 is not a tag"),
    "comment": ("q.io/x:1#c", "'1#c' at character 8 is not a tag"),
    "two tags": ("q.io/x:1:2", "'1:2' at character 8 is not a tag"),
    "empty component": ("q.io//x", "'' at character 6 is not a name component"),
    "slash at the end": ("q.io/x/", "'' at character 8 is not a name component"),
    "slash at the beginning": ("/x", "'' at character 1 is not a name component"),
    "three underscores": ("q.io/a___b", "'a___b' at character 6 is not a name component"),
    "two dots": ("q.io/a..b", "'a..b' at character 6 is not a name component"),
    "separator at the end": ("q.io/a-", "'a-' at character 6 is not a name component"),
    "line end": ("q.io/x\n", "at character 6 is not a name component"),
    "white space": ("q.io/a b", "'a b' at character 6 is not a name component"),
    "quotes": ('"q.io/x:1"', "is not a tag"),
    "percent": ("q.io/%foo", "'%foo' at character 6 is not a name component"),
    "NUL": ("q.io/x\0", "at character 6 is not a name component"),
    "domain with an underscore": ("my_host.io/x", "'my_host.io' at character 1 is not a registry"),
    "domain begins with a dash": ("-q.io/x", "'-q.io' at character 1 is not a registry"),
    "port without digits": ("q.io:/x", "'q.io:' at character 1 is not a registry"),
    "port is a word": ("q.io:http/x", "'q.io:http' at character 1 is not a registry"),
    "name is too long": ("q.io/" + "x" * MAX_NAME_LENGTH, "has 260 characters, expected 255"),
    "digest is short": ("q.io/x@sha256:abc", "is not a sha256 digest, expected 64 lower-case"),
    "digest is upper-case": ("q.io/x@" + SHA256.upper(), "is not a known digest"),
    "digits are upper-case": ("q.io/x@sha256:" + "A" * 64, "is not a sha256 digest"),
    "digest is empty": ("q.io/x@", "'' at character 8 is not a known digest"),
    "unknown algorithm": ("q.io/x@md5:" + "0" * 32, "at character 8 is not a known digest"),
    "two digests": (f"q.io/x@{SHA256}@{SHA256}", "is not a sha256 digest"),
    "digest alone": (f"@{SHA256}", "'' at character 1 is not a name component"),
    "image ID": ("0" * 64, "is an image ID"),
    "image ID with algorithm": (SHA256, "is an image ID"),
}


@pytest.mark.parametrize(("text", "parts"), PARSED.items(), ids=[text[:30] for text in PARSED])
def test_reference_is_taken_apart(text: str, parts: Parts) -> None:
    reference = parse_reference(text)
    assert parts == Parts(reference.domain, reference.path, reference.tag, reference.digest)
    assert str(reference) == text
    assert reference.is_short == (parts.domain is None)
    assert reference.is_pinned == (parts.digest is not None)


@pytest.mark.parametrize(("text", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_reference_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    {
        "quay.io/x/y": "quay.io/x/y:latest",
        "quay.io/x/y:1": "quay.io/x/y:1",
        f"quay.io/x/y:1@{SHA256}": f"quay.io/x/y@{SHA256}",
        f"quay.io/x/y@{SHA256}": f"quay.io/x/y@{SHA256}",
        "busybox": "busybox:latest",
        "docker.io/busybox": "docker.io/library/busybox:latest",
        "index.docker.io/busybox:1": "docker.io/library/busybox:1",
        "docker.io/a/b": "docker.io/a/b:latest",
    }.items(),
)
def test_normal_form_is_the_name_in_podmans_stores(text: str, normal: str) -> None:
    reference = parse_reference(text).normalised()
    assert str(reference) == normal
    assert reference.normalised() == reference


@pytest.mark.parametrize(
    ("text", "image_id"),
    [
        ("a" * 64, "a" * 64),
        ("sha256:" + "0" * 64, "0" * 64),
        ("a" * 63, None),
        ("A" * 64, None),
        ("quay.io/x/y:1", None),
        (f"quay.io/x/y@{SHA256}", None),
    ],
)
def test_an_image_id_is_told_from_a_name(text: str, image_id: str | None) -> None:
    assert find_image_id(text) == image_id


def test_repository_leaves_out_tag_and_digest() -> None:
    assert parse_reference(f"quay.io/x/y:1@{SHA256}").repository == "quay.io/x/y"
    assert parse_reference("busybox:1").repository == "busybox"


@pytest.mark.parametrize(
    ("text", "transport", "rest"),
    [
        ("quay.io/x:1", None, "quay.io/x:1"),
        ("docker://quay.io/x:1", "docker", "quay.io/x:1"),
        ("docker:24", None, "docker:24"),
        ("oci:/path:tag", "oci", "/path:tag"),
        ("oci-archive:/x.tar", "oci-archive", "/x.tar"),
        ("dir:/x", "dir", "/x"),
        ("docker-archive:/x.tar", "docker-archive", "/x.tar"),
        ("containers-storage:quay.io/x", "containers-storage", "quay.io/x"),
        ("containers-storage:[overlay@/a+/b]q.io/x", "containers-storage", "[overlay@/a+/b]q.io/x"),
        ("https://quay.io/x", "https", "quay.io/x"),
        ("localhost:5000/x", None, "localhost:5000/x"),
        ("oci", None, "oci"),
        ("", None, ""),
    ],
)
def test_transport_is_told_from_a_plain_reference(
    text: str, transport: str | None, rest: str
) -> None:
    assert split_transport(text) == (transport, rest)


PIECES = st.lists(
    st.sampled_from([
        "a", "B", "0", "/", ":", "@", ".", "-", "_", "__", "[", "]", "q.io", "localhost", "é", "\n",
        "sha256:", SHA256, "0" * 64, "docker://",
    ])
).map("".join)  # fmt: skip


@given(st.text() | PIECES)
def test_any_text_is_a_reference_or_a_value_error(text: str) -> None:
    split_transport(text)
    try:
        reference = parse_reference(text)
    except ValueError:
        return
    assert str(reference) == text
    assert parse_reference(str(reference.normalised())) == reference.normalised()
