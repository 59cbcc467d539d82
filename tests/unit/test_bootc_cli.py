"""bootc's command line, and how an installed bootc wants to be told to skip bound images."""

from pathlib import Path

import pytest

from installer_plugin.errors import ConfigError
from installer_plugin.hosts.bootc.bootc_cli import (
    EXISTING_ROOT,
    SkipSpelling,
    Verb,
    parse_bootc_install,
    skip_spelling,
)


@pytest.mark.parametrize(
    ("words", "target"),
    [
        (["to-disk", "/dev/vda"], "/dev/vda"),
        (["to-disk", "--wipe", "--filesystem", "xfs", "/dev/vda"], "/dev/vda"),
        (["to-disk", "/dev/vda", "--filesystem", "xfs"], "/dev/vda"),
        (["to-disk", "--karg=console=ttyS0", "--karg", "rw", "disk.img"], "disk.img"),
        (["to-disk", "--block-setup", "tpm2-luks", "--root-size", "10G", "/dev/sda"], "/dev/sda"),
        (["to-disk", "--an-option-of-tomorrow", "--", "/dev/sda"], "/dev/sda"),
        (["to-filesystem", "--replace=wipe", "--root-mount-spec", "UUID=1", "/mnt"], "/mnt"),
        (["to-filesystem", "--stateroot", "os", "/mnt"], "/mnt"),
        (["to-filesystem", "/mnt", "--karg-delete", "quiet"], "/mnt"),
        (["to-existing-root"], str(EXISTING_ROOT)),
        (["to-existing-root", "--cleanup", "/sysroot"], "/sysroot"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_target_is_the_word_that_belongs_to_no_option(words: list[str], target: str) -> None:
    assert parse_bootc_install(words).target == Path(target)


def test_what_decides_our_ways_is_understood_and_nothing_is_changed() -> None:
    words = [
        "to-filesystem", "--source-imgref", "oci:/x:1", "--composefs-backend", "--skip-finalize",
        "--filesystem=btrfs", "--bound-images=stored", "/mnt",
    ]  # fmt: skip
    install = parse_bootc_install(words)
    assert install.verb is Verb.TO_FILESYSTEM
    assert install.source_imgref == "oci:/x:1"
    assert install.composefs
    assert install.skip_finalize
    assert install.filesystem == "btrfs"
    assert install.argv == ("bootc", "install", *words)


@pytest.mark.parametrize(
    ("words", "left_open"),
    [
        ("to-existing-root", True),
        ("to-filesystem --replace=alongside /target", True),
        ("to-filesystem --replace alongside /target", True),
        ("to-filesystem --replace=wipe /mnt", False),
        ("to-filesystem /mnt", False),
    ],
)
def test_a_root_that_a_system_runs_on_is_never_finalized(words: str, *, left_open: bool) -> None:
    assert parse_bootc_install(words.split()).skip_finalize == left_open


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing"),
        (["to-usb", "/dev/sda"], "'to-usb'"),
        (["to-disk", "--wipe"], "no target"),
        (["to-filesystem"], "no target"),
        (["to-disk", "--bound-images=skip", "/dev/sda"], "--bound-images=skip"),
        (["to-disk", "--bound-images", "pull", "/dev/sda"], "--bound-images=pull"),
        (["to-disk", "--skip-bound-images", "/dev/sda"], "--skip-bound-images"),
    ],
    ids=["empty", "unknown verb", "no disk", "no directory", "skip", "pull", "older skip"],
)
def test_what_cannot_be_guaranteed_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_bootc_install(words)


@pytest.mark.parametrize(
    ("version", "help_text", "spelling"),
    [
        ("bootc 1.16.9", "--bound-images <BOUND_IMAGES>", SkipSpelling.SKIP),
        ("bootc 1.1.3", "", SkipSpelling.SKIP),
        ("bootc 1.1.2", "", SkipSpelling.OLD),
        ("bootc 0.1.14", "", SkipSpelling.OLD),
        ("bootc 1.0.0", "--skip-bound-images", SkipSpelling.OLD),
    ],
)
def test_the_spelling_follows_help_then_version(
    version: str, help_text: str, spelling: SkipSpelling
) -> None:
    assert skip_spelling(version, help_text) is spelling


@pytest.mark.parametrize("version", ["bootc 0.1.13", "nonsense", ""])
def test_a_bootc_that_knows_no_bound_images_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=r"update bootc|cannot be told"):
        skip_spelling(version, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("to-disk --wipe /dev/vda", "to-disk SKIP --wipe /dev/vda"),
        ("to-disk --bound-images=stored /dev/vda", "to-disk SKIP /dev/vda"),
        ("to-disk --bound-images stored /dev/vda", "to-disk SKIP /dev/vda"),
        ("to-disk --karg --bound-images /dev/vda", "to-disk SKIP --karg --bound-images /dev/vda"),
        ("to-filesystem /mnt", "to-filesystem SKIP --skip-finalize /mnt"),
        ("to-filesystem --skip-finalize /mnt", "to-filesystem SKIP --skip-finalize /mnt"),
        ("to-existing-root -- --bound-images", "to-existing-root SKIP -- --bound-images"),
    ],
)
def test_bound_images_and_finalizing_can_be_left_to_us(words: str, expected: str) -> None:
    install = parse_bootc_install(words.split())
    argv = install.argv_without_images(SkipSpelling.SKIP)
    assert " ".join(argv) == f"bootc install {expected}".replace("SKIP", SkipSpelling.SKIP)
