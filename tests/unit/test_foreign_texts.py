"""What other programs say, as it was seen."""

import pytest

from installer_plugin.process.foreign_texts import (
    is_quota,
    last_error_of_bootc,
    podman_lacks_image,
    says_full,
    wrong_labels_of_setfiles,
)


@pytest.mark.parametrize(
    ("said", "lacks"),
    [
        ('Error: inspecting object: no such object: "x"', False),
        ("Error: localhost/x:1: image not known", True),
        ('Error: no such image localhost/x:1: unable to find "localhost/x:1" in storage', True),
        ("ssh: connect to host x port 22: Connection refused", False),
    ],
)
def test_podman_says_that_it_has_no_such_image(said: str, *, lacks: bool) -> None:
    assert podman_lacks_image(said) is lacks


@pytest.mark.parametrize(
    ("said", "last"),
    [
        (
            "Wiping device\nerror: Installing to-disk: no space",
            "error: Installing to-disk: no space",
        ),
        ("error: one\nthen\nerror: two\nwhy", "error: two\nwhy"),
        ("killed", "killed"),
        ("", ""),
    ],
)
def test_last_error_of_bootc_is_what_counts(said: str, last: str) -> None:
    assert last_error_of_bootc(said) == last


@pytest.mark.parametrize(
    ("said", "full", "quota"),
    [
        ("write /x: no space left on device", True, False),
        ("cp: error writing 'x': No space left on device", True, False),
        ("write /x: disk quota exceeded", True, True),
        ("permission denied", False, False),
    ],
)
def test_full_disk_and_quota_are_told_apart(said: str, *, full: bool, quota: bool) -> None:
    assert (says_full(said), is_quota(said)) == (full, quota)


def test_setfiles_says_which_label_is_wrong() -> None:
    said = "Would relabel /r/a b from u:r:x_t:s0 to u:r:y_t:s0\nother words\n"
    (found,) = wrong_labels_of_setfiles(said)
    assert found == ("/r/a b", "u:r:x_t:s0", "u:r:y_t:s0")
