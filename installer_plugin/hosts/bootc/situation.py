"""What decides on the way in: read from the image, the stores and the environment."""

from __future__ import annotations

from collections.abc import Sequence

from installer_plugin.files.rootfs import Rootfs
from installer_plugin.hosts.bootc.bootc_cli import BootcInstall
from installer_plugin.hosts.bootc.mode import TOOL_VARIABLE, Situation
from installer_plugin.model import ResolvedImage
from installer_plugin.request import Context, Request, configured, open_root
from installer_plugin.storage.source.containers_conf import load_storage_conf

MODULES = "usr/lib/modules"


def situation_of(
    install: BootcInstall,
    request: Request,
    images: Sequence[ResolvedImage],
    context: Context,
    *,
    can_run_shim: bool,
) -> Situation:
    """The situation of *install* with the *images* that its source declares; raises ConfigError."""
    with configured():
        conf = load_storage_conf(context.system, context.env)
        with open_root(request, context) as root:
            # bootc looks for one where it runs (install.rs, prepare_install), not in that image.
            uki = install.source_imgref is None and brings_uki(root)
    return Situation(
        install=install,
        source=request.source,
        bound=[image.bound for image in images],
        resolved=images,
        default_stores=frozenset(conf.stores),
        composefs_image=uki,
        tool=context.env.get(TOOL_VARIABLE, ""),
        can_run_shim=can_run_shim,
    )


def brings_uki(root: Rootfs) -> bool:
    """Whether the image has a unified kernel image, for which bootc takes its composefs backend."""
    folders = ["boot/EFI/Linux"]
    if root.is_dir(MODULES):
        folders += [f"{MODULES}/{version}" for version in root.list(MODULES)]
    names = (name for folder in folders if root.is_dir(folder) for name in root.list(folder))
    return any(name.endswith(".efi") for name in names)
