"""The OS on the target: an ostree deployment, or something in a composefs system's places."""

import json
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from standin.process import InstallError, run, say
from standin.source import Source

ALEPH = ".bootc-aleph.json"
NOT_IMAGE = ("run", "tmp", "proc", "sys", "dev")
"""Top directories whose content bootc leaves out, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is deployed, and how it is to boot."""

    source: Source
    target_imgref: str | None
    stateroot: str
    kargs: Sequence[str]

    @property
    def origin(self) -> str:
        """The origin file: where upgrades come from."""
        imgref = self.target_imgref or self.source.name
        return f"[origin]\ncontainer-image-reference=ostree-unverified-image:{imgref}\n"


def init_repository(physical_root: Path, stateroot: str) -> None:
    """Make the empty ostree layout, unless there is one."""
    say("Initializing ostree layout")
    sysroot = f"--sysroot={physical_root}"
    repo = f"--repo={physical_root}/ostree/repo"
    if not (physical_root / "ostree/repo").exists():
        run(("ostree", "admin", "init-fs", "--modern", sysroot, physical_root))
    if not (physical_root / "ostree/deploy" / stateroot).exists():
        run(("ostree", "admin", "os-init", sysroot, stateroot))
    run(("ostree", "config", repo, "set", "sysroot.bootloader", "none"))
    run(("ostree", "config", repo, "set", "sysroot.readonly", "true"))


def deploy(physical_root: Path, wanted: Wanted) -> None:
    """Commit the source's tree and deploy it; this writes the boot loader entry too."""
    say(f"Installing image: {wanted.source.name}")
    branch = f"{wanted.stateroot}/1"
    with tempfile.TemporaryDirectory(prefix="standin-image-") as folder:
        tree = _unpacked(wanted.source, Path(folder, "tree"))
        (tree / "etc").rename(tree / "usr/etc")
        run((
            "ostree", "commit", f"--repo={physical_root}/ostree/repo", f"--branch={branch}",
            f"--tree=dir={tree}", "--no-xattrs", "--consume",
        ))  # fmt: skip
        origin = Path(folder, "origin")
        origin.write_text(wanted.origin)
        say("Deploying container image")
        kargs = [f"--karg={karg}" for karg in wanted.kargs]
        run((
            "ostree", "admin", "deploy", f"--sysroot={physical_root}", f"--os={wanted.stateroot}",
            f"--origin-file={origin}", *kargs, branch,
        ))  # fmt: skip
    _write_aleph(physical_root, wanted)


def deploy_composefs(physical_root: Path, wanted: Wanted) -> None:
    """Fill the places of a composefs system; its store is not made, only the link to its place."""
    say(f"Installing image: {wanted.source.name}")
    top = physical_root / "composefs"
    top.mkdir(mode=0o700, exist_ok=True)
    top.chmod(0o700)
    (physical_root / "ostree").mkdir(exist_ok=True)
    (physical_root / "ostree/bootc").symlink_to("../composefs/bootc")
    name = uuid.uuid4().hex * 4  # as long as a SHA-512
    tree = _unpacked(wanted.source, top / "standin" / name)
    state = physical_root / "state/deploy" / name
    state.mkdir(parents=True)
    shutil.copytree(tree / "etc", state / "etc", symlinks=True)
    (state / f"{name}.origin").write_text(wanted.origin)
    (physical_root / "state/os" / wanted.stateroot / "var").mkdir(parents=True)
    (state / "var").symlink_to(f"../../os/{wanted.stateroot}/var")
    _write_entry(physical_root / "boot", tree, name, wanted)
    _write_aleph(physical_root, wanted)


def find_deployment(physical_root: Path) -> Path:
    """The first deployment of an ostree system; raises InstallError."""
    found = sorted(physical_root.glob("ostree/deploy/*/deploy/*.?"))
    if not found:
        raise InstallError(f"Failed to find deployment in {physical_root}")
    return found[0]


def _unpacked(source: Source, tree: Path) -> Path:
    tree.mkdir(parents=True)
    tree.chmod(0o755)
    source.unpack(tree)
    for name in NOT_IMAGE:
        shutil.rmtree(tree / name, ignore_errors=True)
        (tree / name).mkdir()
    return tree


def _write_entry(boot: Path, tree: Path, name: str, wanted: Wanted) -> None:
    kernels = sorted(tree.glob("usr/lib/modules/*/vmlinuz"))
    if not kernels:
        raise InstallError("No kernel found in the image")
    place = boot / f"bootc_composefs-{name}"
    place.mkdir(parents=True)
    shutil.copy(kernels[0], place / "vmlinuz")
    shutil.copy(kernels[0].with_name("initramfs.img"), place / "initrd")
    entries = boot / "loader/entries"
    entries.mkdir(parents=True)
    (entries / f"bootc_{wanted.stateroot}-1-1.conf").write_text(
        f"title {wanted.stateroot}\nversion 1\nlinux /{place.name}/vmlinuz\n"
        f"initrd /{place.name}/initrd\noptions {' '.join(wanted.kargs)} composefs={name}\n"
    )


def _write_aleph(physical_root: Path, wanted: Wanted) -> None:
    """What was installed first, for later investigations."""
    aleph = {"image": wanted.source.name, "target-image": wanted.target_imgref, "standin": True}
    (physical_root / ALEPH).write_text(json.dumps(aleph))
