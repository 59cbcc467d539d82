"""Command line of the stand-in: bootc's words, its exit code 1 for failures and 2 for wrong usage."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from standin.disk import MKFS, Plan
from standin.install import Options, check_deployed, finish_filesystem, to_disk, to_filesystem
from standin.process import InstallError
from standin.setup import Setup

NAME = "bootc"
ABOUT = "Test stand-in for `bootc install`; not bootc."
INSIDE = "STANDIN_INSIDE"
"""Set when the process has its own mounts already."""
EXISTING_ROOT = "/target"

# bootc's other options, taken so that its command lines work here, without effect.
_IGNORED_FLAGS = (
    "--generic-image", "--skip-fetch-check", "--run-fetch-check", "--disable-selinux",
    "--target-no-signature-verification", "--enforce-container-sigpolicy",
    "--experimental-unified-storage", "--bootupd-skip-boot-uuid", "--allow-missing-verity",
)  # fmt: skip
_IGNORED_VALUES = (
    "--karg-delete", "--target-transport", "--root-ssh-authorized-keys", "--bootloader", "--uki-addon",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Parse, move into mounts of our own, install; returns the exit code."""
    setup = Setup.from_environment()
    arguments = _parser(setup).parse_args(argv)
    if os.environ.get(INSIDE) != str(os.getpid()):
        # bootc stays in its caller's mounts then (install.rs, prepare_install).
        source = getattr(arguments, "source_imgref", None)
        _enter_own_mounts(argv, private=source is None)
    signal.signal(signal.SIGTERM, _stop)
    try:
        setup.require_tools()
        _run(setup, arguments)
    except (InstallError, OSError, shutil.Error) as error:
        print(f"error: Installing {arguments.verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _stop(number: int, _frame: FrameType | None) -> None:
    """End by an exception, so that everything open is closed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    sys.exit(128 + number)


def _enter_own_mounts(argv: Sequence[str], *, private: bool) -> None:
    """Start again, same process, with a /run/bootc of its own, in `private` mounts.

    What goes over /tmp is mounted before that, and stays, as with bootc.
    """
    program = str(Path(__file__).with_name(NAME))
    script = (
        '[ -z "$STANDIN_TMP" ] || mount -t tmpfs tmpfs "$STANDIN_TMP"; mkdir -p /run/bootc; '
        'own=$1; shift; exec $own sh -e -c \'mount -t tmpfs tmpfs /run/bootc; exec "$@"\' sh "$@"'
    )
    own = "unshare --mount" if private else ""
    os.environ[INSIDE] = str(os.getpid())
    os.execvp(  # noqa: S606 # the caller watches this process
        "sh", ("sh", "-e", "-c", script, "sh", own, sys.executable, "-S", program, *argv)
    )


def _run(setup: Setup, arguments: argparse.Namespace) -> None:
    if arguments.verb == "finalize":
        check_deployed(arguments.root_path)
        return
    options = _options(setup, arguments)
    match arguments.verb:
        case "to-disk":
            to_disk(setup, options, _plan(setup, arguments))
        case "to-filesystem":
            root = arguments.root_path.resolve()
            to_filesystem(setup, options, root, arguments.root_mount_spec, arguments.replace)
            if not arguments.skip_finalize and arguments.replace != "alongside":
                finish_filesystem(setup, root)
        case _:
            root = arguments.root_path.resolve()
            to_filesystem(setup, options, root, None, arguments.replace)


def _options(setup: Setup, arguments: argparse.Namespace) -> Options:
    copies = setup.has_bound_images_option or setup.has_skip_flag
    skip = getattr(arguments, "skip_bound_images", False) or not copies
    return Options(
        bound_images="skip" if skip else getattr(arguments, "bound_images", "stored"),
        source_imgref=arguments.source_imgref,
        target_imgref=arguments.target_imgref,
        stateroot=arguments.stateroot,
        kargs=tuple(arguments.karg),
        composefs=arguments.composefs_backend,
    )


def _plan(setup: Setup, arguments: argparse.Namespace) -> Plan:
    if arguments.block_setup != "direct":
        raise InstallError("the test stand-in has no TPM: only --block-setup=direct")
    if arguments.filesystem is None:
        raise InstallError("No root filesystem specified")
    return Plan(
        device=arguments.device,
        via_loopback=arguments.via_loopback,
        wipe=arguments.wipe,
        filesystem=arguments.filesystem,
        root_size=arguments.root_size,
        composefs=arguments.composefs_backend,
        passphrase=setup.passphrase,
        separate_boot=setup.separate_boot or setup.passphrase is not None,
    )


# --- options -----------------------------------------------------------------------------------


def _parser(setup: Setup) -> argparse.ArgumentParser:
    version = ".".join(map(str, setup.version))
    parser = argparse.ArgumentParser(prog=NAME, description=ABOUT, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bootc {version} (test stand-in)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="install")
    install = commands.add_parser("install", description=ABOUT, allow_abbrev=False)
    verbs = install.add_subparsers(dest="verb", required=True)
    common = _common(setup)
    for verb, add_options in _VERBS.items():
        add_options(verbs.add_parser(verb, description=ABOUT, parents=[common], allow_abbrev=False))
    last = verbs.add_parser("finalize", description=ABOUT, allow_abbrev=False)
    last.add_argument("root_path", type=Path, metavar="ROOT_PATH")
    return parser


def _common(setup: Setup) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add = common.add_argument
    add("--source-imgref", metavar="SOURCE_IMGREF", help="install this image, with its transport")
    add("--target-imgref", metavar="TARGET_IMGREF", help="image that updates come from")
    add("--karg", metavar="KARG", action="append", default=[], help="add a kernel argument")
    add("--stateroot", metavar="STATEROOT", default="default", help="name of the OS's state")
    add("--composefs-backend", action="store_true", help="install a composefs system")
    if setup.has_bound_images_option:
        # bootc's help hides `skip`.
        add(
            "--bound-images", metavar="BOUND_IMAGES", default="stored",
            type=_bound_images_mode, help="where bound images come from: stored (default), pull",
        )  # fmt: skip
    if setup.has_skip_flag:
        add("--skip-bound-images", action="store_true", help=argparse.SUPPRESS)
    for flag in _IGNORED_FLAGS:
        add(flag, action="store_true", help="no effect here")
    for option in _IGNORED_VALUES:
        add(option, metavar="VALUE", help="no effect here")
    return common


def _bound_images_mode(text: str) -> str:
    if text not in ("stored", "pull", "skip"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected stored or pull")
    return text


def _add_to_disk(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("device", type=Path, metavar="DEVICE")
    add("--wipe", action="store_true", help="destroy what the device holds")
    add("--block-setup", choices=("direct", "tpm2-luks"), default="direct", help="only direct here")
    add("--filesystem", choices=tuple(MKFS), help="root file system")
    add("--root-size", metavar="SIZE", help="size of the root partition, as sfdisk reads it")
    add("--via-loopback", action="store_true", help="DEVICE is a regular file")


def _add_to_filesystem(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("root_path", type=Path, metavar="ROOT_PATH")
    add("--root-mount-spec", metavar="SPEC", help="root= of the kernel; empty: none")
    add("--boot-mount-spec", metavar="SPEC", help="no effect here")
    add("--replace", choices=("wipe", "alongside"), help="what happens to what is there")
    add("--acknowledge-destructive", action="store_true", help="no effect here")
    add("--skip-finalize", action="store_true", help="leave the file system writable")


def _add_to_existing_root(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("root_path", type=Path, metavar="ROOT_PATH", nargs="?", default=Path(EXISTING_ROOT))
    add("--replace", choices=("wipe", "alongside"), default="alongside", help="as above")
    add("--acknowledge-destructive", action="store_true", help="no effect here")
    add("--cleanup", action="store_true", help="no effect here")


_VERBS = {
    "to-disk": _add_to_disk,
    "to-filesystem": _add_to_filesystem,
    "to-existing-root": _add_to_existing_root,
}
