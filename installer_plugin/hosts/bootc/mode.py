"""How our stages come into a bootc installation: while bootc copies, or after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath

from installer_plugin.declared import configured
from installer_plugin.errors import ConfigError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.hosts.bootc.bootc_cli import BootcInstall
from installer_plugin.model import BoundImage, ResolvedImage, SourceKind
from installer_plugin.request import Work
from installer_plugin.sources import open_root
from installer_plugin.storage.selinux import Policy, find_policy
from installer_plugin.storage.source.containers_conf import load_storage_conf

UKI_FOLDER = "boot/EFI/Linux"
"""The only place where bootc looks for one (bootc 1.16, ``crates/lib/src/kernel.rs``, find_uki_path);
one among the kernel's modules, as distributions ship it, is not its concern."""
TOOL_VARIABLE = "BOOTC_EXP_EXTERNAL_CONTAINER_TOOL"
"""Since bootc 1.16.0: what is called for podman and skopeo."""


class When(StrEnum):
    """``--when``."""

    AUTO = "auto"
    DURING = "during"
    """In the place of bootc's own copying, while bootc holds the target mounted."""
    AFTER = "after"
    """bootc is told to skip bound images; the target is kept or opened again."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What was chosen, and why."""

    when: When
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What decides."""

    install: BootcInstall
    source: str
    """The source root or image that our stages read."""
    bound: Sequence[BoundImage]
    resolved: Sequence[ResolvedImage]
    default_stores: frozenset[Path]
    """Where podman, as bootc calls it, finds images."""
    composefs_image: bool
    """Whether the image brings a UKI, which makes bootc choose its composefs backend."""
    policy: Policy | None = None
    """What the bound images are to be labelled by: the source's SELinux policy."""
    tool: str = ""
    """What the environment tells bootc to call in the place of podman (TOOL_VARIABLE)."""
    can_run_shim: bool = True
    """Whether there is a place for our own podman from which bootc can start it."""


def situation_of(
    install: BootcInstall, work: Work, images: Sequence[ResolvedImage], *, can_run_shim: bool
) -> Situation:
    """The situation of *install* with the *images* that its source declares; raises ConfigError."""
    with configured():
        conf = load_storage_conf(work.context.system, work.context.env)
        with open_root(work) as root:
            # bootc looks for one in the container in which it runs (crates/lib/src/install.rs,
            # prepare_install: target_rootfs), never in an image that --source-imgref names.
            uki = install.source_imgref is None and brings_uki(root)
            policy = find_policy(root) if images else None
    return Situation(
        install=install,
        source=work.request.source,
        bound=[image.bound for image in images],
        resolved=images,
        default_stores=frozenset(conf.stores),
        composefs_image=uki,
        policy=policy,
        tool=work.context.env.get(TOOL_VARIABLE, ""),
        can_run_shim=can_run_shim,
    )


def brings_uki(root: Rootfs) -> bool:
    """Whether the image has a unified kernel image, for which bootc takes its composefs backend.

    Nothing else in an image leads there: what ``prepare-root.conf`` says of composefs is about the
    ostree backend, and bootc's install configuration has no key for it (bootc 1.16,
    ``crates/lib/src/install/config.rs``).
    """
    if not root.is_dir(UKI_FOLDER):
        return False
    return any(_is_uki(name) for name in root.list(UKI_FOLDER))


def _is_uki(name: str) -> bool:
    """As bootc judges a name: the extension is ``efi``, and all of it is UTF-8."""
    return PurePath(name).suffix == ".efi" and name == name.encode(errors="replace").decode()


def choose_mode(asked: When, situation: Situation) -> Mode:
    """The way to take; raises ConfigError when *during* is asked for and cannot be."""
    obstacle = next(iter(_obstacles(situation)), None)
    if asked is When.AFTER:
        return Mode(When.AFTER, "as asked")
    if obstacle is None:
        return Mode(When.DURING, "bootc reads the right root and finds every image by itself")
    if asked is When.DURING:
        raise ConfigError.of(
            "--when=during", f"cannot be: {obstacle}", hint="leave it out, or use --when=after"
        )
    return Mode(When.AFTER, obstacle)


def _obstacles(situation: Situation) -> list[str]:
    """Why bootc would not come to copying exactly our images."""
    obstacles = []
    install = situation.install
    if install.composefs or situation.composefs_image:
        obstacles.append("bootc's composefs backend copies no bound images")
    if install.source_imgref is not None:
        obstacles.append(
            "with --source-imgref bootc reads the bound images of /, not of that image"
        )
    elif situation.source != "/":
        obstacles.append(f"bootc reads the bound images of /, not of {situation.source}")
    if situation.tool:
        obstacles.append(f"{TOOL_VARIABLE} makes bootc call {situation.tool}, not podman")
    if not situation.can_run_shim:
        obstacles.append("no directory that bootc sees lets programs be started")
    obstacles += [
        f"bootc reads {image.location} as {image.bootc_name or 'an error'}"
        for image in situation.bound
        if image.bootc_name != image.reference
    ]
    for resolved in situation.resolved:
        place = resolved.source
        if place.kind is not SourceKind.CONTAINERS_STORAGE or Path(place.store) not in (
            situation.default_stores
        ):
            obstacles.append(f"{resolved.bound.reference} is in {place}, where bootc does not look")
    return obstacles
